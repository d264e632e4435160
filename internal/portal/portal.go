// Package portal tells the user of a device in the tunnel where the device stands, why, and
// what to do: a page, and the captive portal API of RFC 8908. Who asks is known by the
// address alone, which WireGuard binds to the device's key; nobody sees another's page.
package portal

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lazaret/quarantine"
)

// APIPath is where the captive portal API answers, by HTTPS alone.
const APIPath = "/captive-portal/api"

// Config is what a Server needs.
type Config struct {
	Find      func(a netip.Addr) (quarantine.Record, error) // required: the device at an address, with its reasons
	Host      string                                        // required: name or address of the page
	Addrs     []netip.Addr                                  // required: the gateway's addresses in the tunnel
	HTTPPort  uint16                                        // required
	HTTPSPort uint16                                        // required
	Help      string                                        // optional: whom to ask
	Venue     string                                        // optional: URL about the place
	Now       func() time.Time                              // optional: time.Now
	Log       *slog.Logger                                  // optional: discards
}

// Server answers devices.
type Server struct{ cfg Config }

// New makes a Server.
func New(c Config) (*Server, error) {
	if c.Find == nil || c.Host == "" || len(c.Addrs) == 0 || c.HTTPPort == 0 || c.HTTPSPort == 0 {
		return nil, errors.New("making the portal: a way to find devices, host, addresses and ports are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{c}, nil
}

// PageURL is where people are sent. Plain HTTP is on purpose: the tunnel encrypts it, and a
// device that does not know the organization's root would only see a warning.
func (s *Server) PageURL() string { return "http://" + s.at(s.cfg.HTTPPort, 80) + "/" }

// SecureURL is the same page by HTTPS, as RFC 8908 wants it.
func (s *Server) SecureURL() string { return "https://" + s.at(s.cfg.HTTPSPort, 443) + "/" }

// APIURL is the captive portal API's.
func (s *Server) APIURL() string { return "https://" + s.at(s.cfg.HTTPSPort, 443) + APIPath }

func (s *Server) at(port, usual uint16) string {
	if port != usual {
		return net.JoinHostPort(s.cfg.Host, strconv.Itoa(int(port)))
	}
	if strings.Contains(s.cfg.Host, ":") {
		return "[" + s.cfg.Host + "]"
	}
	return s.cfg.Host
}

// Plain answers plain HTTP: the page, and a way to it from everywhere else.
func (s *Server) Plain() http.Handler { return s.guard(http.HandlerFunc(s.plain)) }

// Secure answers HTTPS: the page and the API.
func (s *Server) Secure() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET "+APIPath, s.api)
	return s.guard(mux)
}

// guard sets what holds for every answer.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("answering a device's user failed", "panic", p)
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
		}()
		h := w.Header()
		h.Set("Cache-Control", "no-store, private")
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "nothing can be sent here", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// plain sends whoever came by another name or path to the page. So does a client's own test
// for a captive portal, if it gets here; nothing is ever taken out of its way to get here.
func (s *Server) plain(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" || !s.ours(r.Host) {
		http.Redirect(w, r, s.PageURL(), http.StatusFound)
		return
	}
	s.page(w, r)
}

// ours reports whether a request's Host is the page's name or address: another site's
// script that had its name lead here must not read the page.
func (s *Server) ours(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		for _, own := range s.cfg.Addrs {
			if own == a {
				return true
			}
		}
	}
	return host == strings.ToLower(s.cfg.Host)
}

var errNobody = errors.New("no device is known at this address")

// find returns the device that asks.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (quarantine.Record, bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	var d quarantine.Record
	if err == nil {
		d, err = s.cfg.Find(from.Addr().Unmap())
	}
	if err == nil && d.Stage != quarantine.Quarantined && d.Stage != quarantine.Routed {
		err = errNobody
	}
	if err != nil {
		s.cfg.Log.Warn("a page is refused", "from", r.RemoteAddr, "error", err)
		http.Error(w, errNobody.Error(), http.StatusForbidden)
		return quarantine.Record{}, false
	}
	return d, true
}

// captive is RFC 8908's answer.
type captive struct {
	Captive   bool   `json:"captive"`
	UserURL   string `json:"user-portal-url"`
	VenueURL  string `json:"venue-info-url,omitempty"`
	Remaining *int64 `json:"seconds-remaining,omitempty"` // while not captive
	CanExtend bool   `json:"can-extend-session"`          // no: a report does, not a person
}

func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	if !s.ours(r.Host) {
		http.Error(w, "no such site here", http.StatusMisdirectedRequest)
		return
	}
	d, ok := s.find(w, r)
	if !ok {
		return
	}
	a := captive{Captive: d.Stage != quarantine.Routed, UserURL: s.SecureURL(), VenueURL: s.cfg.Venue}
	if left := int64(d.Until.Sub(s.cfg.Now()) / time.Second); !a.Captive && !d.Until.IsZero() {
		left = max(left, 0)
		a.Remaining = &left
	}
	body, err := json.Marshal(a)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/captive+json")
	_, _ = w.Write(body) // whoever hung up asks again
}
