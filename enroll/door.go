package enroll

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"lazaret/enroll/cmp"
)

const (
	// Path is where CMP is served (RFC 9811, section 3.4).
	Path = "/.well-known/cmp"

	contentType = "application/pkixcmp" // RFC 9811, section 3.3
	retryAfter  = "5"                   // seconds
)

// Listener is what differs between listeners.
type Listener struct {
	// Exporter compares the TLS exporter a device sends with this connection's. It must
	// be off behind a proxy that terminates TLS.
	Exporter bool
}

// ServeHTTP serves CMP on a listener as Config.Exporter says.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.serve(w, r, Listener{Exporter: d.cfg.Exporter})
}

// Handler serves CMP on one listener. The server's timeouts bound slow clients.
func (d *Desk) Handler(l Listener) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, l) })
}

func (d *Desk) serve(w http.ResponseWriter, r *http.Request, l Listener) {
	w.Header().Set("Cache-Control", "no-store")
	if isForPeople(r) {
		forPeople().ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "CMP is spoken with POST", http.StatusMethodNotAllowed)
		return
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != contentType {
		http.Error(w, "want a body of type "+contentType, http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, cmp.MaxSize))
	if err != nil {
		status := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	from := d.address(r)
	leave := d.limits.enter(r.Context(), d.now(), limited(from))
	if leave == nil {
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, "too much at once: try again soon", http.StatusServiceUnavailable)
		return
	}
	e := d.exchange(r, l, from)
	answer := func() answer { defer leave(); return e.run(body) }()
	if answer.slow && !d.limits.hold(r.Context()) {
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, "too many failures: try again soon", http.StatusTooManyRequests)
		return
	}
	if answer.status != http.StatusOK {
		if answer.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", retryAfter)
		}
		http.Error(w, http.StatusText(answer.status), answer.status)
		return
	}
	w.Header().Set("Content-Type", contentType)
	if _, err := w.Write(answer.body); err != nil {
		d.cfg.Log.Debug("enrollment answer not delivered", "to", from, "error", err)
	}
}

// run answers body. Whatever a message from outside makes panic here ends with this one request.
func (e *exchange) run(body []byte) (a answer) {
	defer func() {
		if p := recover(); p != nil {
			e.desk.cfg.Log.Error("enrollment message made the desk panic", "from", e.from, "panic", p, "stack", string(debug.Stack()))
			a = answer{status: http.StatusInternalServerError}
		}
	}()
	return e.answer(body)
}

// exporter is this connection's channel binding (RFC 9266), or nil if there is none.
func exporter(r *http.Request, l Listener) []byte {
	if !l.Exporter || r.TLS == nil {
		return nil
	}
	material, err := r.TLS.ExportKeyingMaterial(cmp.ExporterLabel, nil, 32)
	if err != nil {
		return nil
	}
	return material
}

// address is where a request came from. Behind configured proxies it is the last
// address of X-Forwarded-For that is none of them: whatever stands before, anybody
// could have written. The zero Addr is an address that could not be read.
func (d *Desk) address(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	peer, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	peer = peer.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !d.proxy(peer) {
			break
		}
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		peer = next.Unmap().WithZone("")
	}
	return peer
}

func (d *Desk) proxy(a netip.Addr) bool {
	return slices.ContainsFunc(d.cfg.Proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// limited is what failures are counted by: an IPv4 address, or an IPv6 subscriber's /64.
func limited(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 128) // one bucket for all that cannot be told apart
	}
	return p
}
