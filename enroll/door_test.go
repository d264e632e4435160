package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"lazaret/enroll/cmp"
)

func TestDoor(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	for _, c := range []struct {
		name, method, content string
		body                  io.Reader
		want                  int
	}{
		{"GET", http.MethodGet, contentType, nil, http.StatusMethodNotAllowed},
		{"another type", http.MethodPost, "application/json", strings.NewReader("{}"), http.StatusUnsupportedMediaType},
		{"no type", http.MethodPost, "", strings.NewReader("{}"), http.StatusUnsupportedMediaType},
		{"empty", http.MethodPost, contentType, nil, http.StatusBadRequest},
		{"garbage", http.MethodPost, contentType, strings.NewReader("garbage"), http.StatusBadRequest},
		{"64 KiB of garbage", http.MethodPost, contentType, bytes.NewReader(make([]byte, 64<<10)), http.StatusBadRequest},
		{"a byte more", http.MethodPost, contentType, bytes.NewReader(make([]byte, 64<<10+1)), http.StatusRequestEntityTooLarge},
		{"a message", http.MethodPost, contentType + "; charset=binary", bytes.NewReader(d.genm()), http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, Path, c.body)
			r.Header.Set("Content-Type", c.content)
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("HTTP %d, want %d", w.Code, c.want)
			}
		})
	}
}

func TestFullDoor(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits = Limits{InFlight: 1, Patience: 1, Slowed: 1} })
	d := g.device(t, Request{})
	g.limits.ordinary.work <- struct{}{}
	if w := d.post(d.genm()); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("HTTP %d, want 503 with Retry-After", w.Code)
	}
	<-g.limits.ordinary.work
	g.limits.slow <- struct{}{}
	d.code.Secret = "0000000000000000"
	for range 5 {
		d.post(d.genm())
	}
	if w := d.post(d.genm()); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("HTTP %d, want 429 with Retry-After", w.Code)
	}
}

// TestForwardedAddresses: FleetDM CVE-2026-46356, where a header anybody can write went
// past the limiter.
func TestForwardedAddresses(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	})
	for _, c := range []struct{ peer, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "198.51.100.9", "192.0.2.1"}, // not a proxy of ours
		{"10.0.0.1:5", "198.51.100.9", "198.51.100.9"},
		{"10.0.0.1:5", "203.0.113.1, 198.51.100.9", "198.51.100.9"}, // what stands before, the client wrote
		{"10.0.0.1:5", "198.51.100.9, 10.0.0.7", "198.51.100.9"},
		{"10.0.0.1:5", "198.51.100.9, nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"[fd00::1]:5", "2001:db8::7", "2001:db8::7"},
		{"[::ffff:192.0.2.1]:5", "198.51.100.9", "192.0.2.1"},
		{"[fe80::1%eth0]:5", "", "fe80::1"},
		{"@", "198.51.100.9", "invalid IP"},
	} {
		r := httptest.NewRequest(http.MethodPost, Path, nil)
		r.RemoteAddr = c.peer
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := g.address(r).String(); got != c.want {
			t.Errorf("from %s, forwarded for %q: %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
	for addr, want := range map[string]string{"192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64"} {
		if got := limited(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s is counted as %s, want %s", addr, got, want)
		}
	}
}

// TestPanicEndsWithOneRequest: GO-2026-5297, where a parser's panic took the server along.
func TestPanicEndsWithOneRequest(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits = Limits{InFlight: 1} })
	d := g.device(t, Request{})
	g.store.onIssue = func(*Issuance) error { panic("a fault of ours") }
	for range 3 { // the place of a message that panicked is free again
		if w := d.post(d.p10cr()); w.Code != http.StatusInternalServerError {
			t.Errorf("HTTP %d, want 500", w.Code)
		}
	}
	g.store.onIssue = nil
	d.enroll()
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	_, err := New(Config{})
	for _, field := range []string{"Store", "Issuer", "Gate", "Organization", "Sealer", "Audit", "Log", "Responder", "ProofKeys", "Gateways", "ListenerKeys"} {
		if err == nil || !contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

// FuzzDoor: whatever is posted, nothing is issued to who has no valid MAC, and nothing panics.
func FuzzDoor(f *testing.F) {
	g := newGateway(f, func(c *Config) { c.Limits.Keys = 100 })
	d := g.device(f, Request{})
	cert, _ := d.enroll()
	for _, seed := range [][]byte{d.genm(), d.p10cr(), d.ir(), d.kur(d.key, cert)} {
		f.Add(seed)
	}
	stranger := g.holder(f, d.code)
	stranger.code.Secret = "0000000000000000"
	f.Add(stranger.p10cr())
	if err := g.CancelOTP(f.Context(), administrator, g.device(f, Request{}).code.Reference); err != nil {
		f.Fatal(err)
	}
	g.later(2 * hour)
	for _, o := range g.store.otps {
		o.State = Cancelled
		g.store.otps[o.Reference] = o
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d.t = t
		before, issued := g.store.state(), g.made.issued.Load()
		w := d.post(body)
		if w.Code == http.StatusInternalServerError {
			t.Fatal("the desk panicked")
		}
		if m, err := cmp.Parse(body); err == nil && m.Signed() {
			return // the seed's renewal is a good one
		}
		if g.store.state() != before || g.made.issued.Load() != issued {
			t.Fatal("something was issued")
		}
	})
}

// TestChannelBinding: with real connections, a message holds for the one it was made for.
func TestChannelBinding(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Exporter = true })
	srv := httptest.NewUnstartedServer(g)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	srv.StartTLS()
	defer srv.Close()
	// dial opens a connection and returns a way to post through it, and its exporter.
	dial := func() (func([]byte) *cmp.Message, []byte) {
		raw, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		state := raw.ConnectionState()
		material, err := state.ExportKeyingMaterial(cmp.ExporterLabel, nil, 32)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return raw, nil }}}
		return func(body []byte) *cmp.Message {
			r, err := client.Post("https://example.com"+Path, contentType, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			answer, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			m, err := cmp.Parse(answer)
			if err != nil {
				t.Fatalf("HTTP %d: %v", r.StatusCode, err)
			}
			return m
		}, material
	}
	d := g.device(t, Request{})
	post, material := dial()
	_, another := dial()
	d.extra = []cmp.Info{cmp.ExporterInfo(another)}
	if m := post(d.p10cr()); m.Body.Error.Status.Fail != cmp.BadMessageCheck || m.Protection == nil || g.made.issued.Load() != 0 {
		t.Errorf("a message made for another connection: kind %d, %v", m.Body.Kind, m.Body.Error.Status)
	}
	d.extra = []cmp.Info{cmp.ExporterInfo(material)}
	if m := post(d.p10cr()); m.Body.Kind != cmp.CP {
		t.Errorf("a message made for this connection: %v", m.Body.Error.Status)
	}
}

// TestBehindATerminatingProxy: the same desk, on a listener that cannot compare.
func TestBehindATerminatingProxy(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Exporter = true })
	d := g.device(t, Request{})
	d.extra = []cmp.Info{cmp.ExporterInfo(make([]byte, 32))}
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(d.p10cr()))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	g.Handler(Listener{}).ServeHTTP(w, r)
	if m := d.parse(w); m.Body.Kind != cmp.CP {
		t.Errorf("kind %d: %v", m.Body.Kind, m.Body.Error.Status)
	}
}
