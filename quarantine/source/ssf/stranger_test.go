package ssf

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"lazaret/quarantine/source/set"
)

// pushOf is a push to idp of whatever is given.
func pushOf(ctx context.Context, body io.Reader) *http.Request {
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, PushPath+"idp", body)
	req.SetPathValue("stream", "idp")
	req.Header.Set("Content-Type", set.ContentType)
	return req
}

// nobodysToken names the stream's issuer and a key that nobody has.
func nobodysToken() string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"typ":"secevent+jwt","alg":"ES256","kid":"zzz"}`)) + "." +
		e(fmt.Appendf(nil, `{"iss":%q,"aud":"x","jti":"j","iat":%d,"events":{"urn:x":{}}}`, issuer, then.Unix())) + "." + e(make([]byte, 64))
}

// fetching has the stream's keys fetched from a server on loopback.
func fetching(srv *httptest.Server) func(*Settings) {
	return func(s *Settings) {
		s.JWKS, s.JWKSURI = nil, srv.URL
		s.Roots = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
		s.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
}

// TestStrangersDoNotDrownAudit: what a signed token is refused is in the audit log, however
// many strangers were refused before, and under the source's name; theirs are not.
func TestStrangersDoNotDrownAudit(t *testing.T) {
	l := newLab(t, nil)
	var log bytes.Buffer
	l.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	h := l.Handler()
	for i := range 1000 {
		req := pushOf(t.Context(), strings.NewReader("a.b.c"))
		if i%2 == 0 {
			req.Header.Del("Content-Type")
		}
		h.ServeHTTP(httptest.NewRecorder(), req)
	}
	if n := l.audit.count(); n != paceBurst {
		t.Errorf("%d entries about strangers", n)
	}
	for _, by := range l.audit.by {
		if by.Kind != "stranger" || by.Name != "" || by.Address != "192.0.2.1:1234" {
			t.Errorf("a stranger is called %+v", by)
		}
	}
	if n := strings.Count(log.String(), "\n"); n > paceBurst {
		t.Errorf("%d lines in the log", n)
	}
	l.forbid("d1")
	if err := l.send(l.token(set.DeviceComplianceChange, device("d1"), bad())); !isCode(err, set.AccessDenied) {
		t.Errorf("out of scope: %v", err)
	}
	if n := l.audit.count(); n != paceBurst+2 || l.audit.by[n-1].Kind != "source" || l.audit.by[n-1].Name != "idp" { // the report, and the token
		t.Errorf("%d entries, the last by %+v", n, l.audit.by[n-1])
	}
}

// TestStrangersSpoilNoHealth: who sends an unknown kid and hangs up leaves the source well.
// That the keys cannot be had is told once for each attempt.
func TestStrangersSpoilNoHealth(t *testing.T) {
	began, free := make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-free
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer srv.Close()
	l := newLab(t, fetching(srv))
	h := l.Handler()
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(httptest.NewRecorder(), pushOf(ctx, strings.NewReader(nobodysToken())))
		}()
		if i == 0 {
			<-began
		}
		cancel()
		<-done
	}
	if all := l.ledger.List(); len(all) != 0 {
		t.Errorf("strangers alone: %+v", all)
	}
	close(free)
	for range 5 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, pushOf(t.Context(), strings.NewReader(nobodysToken())))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("without keys: %d", w.Code)
		}
	}
	if all := l.ledger.List(); len(all) != 1 || all[0].Failures != 1 {
		t.Errorf("one attempt failed: %+v", all)
	}
}

// TestFetchEndsWithItsStream: an attempt to fetch keys is waited for when the stream ends,
// and ended; it is no failure of the source, and none begins afterwards.
func TestFetchEndsWithItsStream(t *testing.T) {
	began, ended := make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
		close(ended)
	}))
	defer srv.Close()
	l := newLab(t, fetching(srv))
	st := l.idp()
	found := make(chan error, 1)
	go func() { _, err := st.keys.find(t.Context(), "zzz"); found <- err }()
	<-began
	l.stop()
	if st.keys.fetching != nil {
		t.Error("still fetching")
	}
	<-ended
	if err := <-found; !errors.Is(err, context.Canceled) {
		t.Errorf("found %v", err)
	}
	l.pass(2 * keysPause)
	if _, err := st.keys.find(t.Context(), "zzz"); err == nil || len(began) > 0 {
		t.Errorf("after the end: %v", err)
	}
	if all := l.ledger.List(); len(all) != 0 {
		t.Errorf("health is %+v", all)
	}
}

// TestKeysThatPanic: what a transmitter publishes ends an attempt, and never the gateway.
func TestKeysThatPanic(t *testing.T) {
	l := newLab(t, nil)
	k := l.idp().keys
	k.given, k.locate = set.Keys{}, func(context.Context) (string, error) { panic("odd") }
	if _, err := k.find(t.Context(), "zzz"); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("found %v", err)
	}
}

// TestBodiesAreBounded: one address has a bounded number of bodies in memory, and keeps none
// of another's places.
func TestBodiesAreBounded(t *testing.T) {
	l := newLab(t, nil)
	h := l.Handler()
	const n = 5 * doorEach
	reading, answered := make(chan *io.PipeWriter, n), make(chan int, n)
	for range n {
		pr, pw := io.Pipe()
		go func() {
			if _, err := pw.Write([]byte("a")); err == nil {
				reading <- pw
			}
		}()
		go func() {
			defer pr.Close()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, pushOf(t.Context(), pr))
			answered <- w.Code
		}()
	}
	for range n - doorEach {
		if code := <-answered; code != http.StatusServiceUnavailable {
			t.Errorf("one too many: %d", code)
		}
	}
	other := pushOf(t.Context(), strings.NewReader(l.sign(l.token(set.DeviceComplianceChange, device("d1"), bad()))))
	other.RemoteAddr = "198.51.100.7:443"
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, other); w.Code != http.StatusAccepted {
		t.Errorf("another address: %d", w.Code)
	}
	for range doorEach {
		(<-reading).Close()
		if code := <-answered; code != http.StatusBadRequest {
			t.Errorf("one that was read: %d", code)
		}
	}
	if places, addresses := l.door.Held(); places != 0 || addresses != 0 {
		t.Errorf("places not given back: %d, of %d addresses", places, addresses)
	}
}

// TestSeveralAuthorizationHeaders: one of several is as good as none.
func TestSeveralAuthorizationHeaders(t *testing.T) {
	l := newLab(t, nil)
	l.store.secrets["idp/authorization"] = "Bearer letmein"
	text := l.sign(l.token(set.DeviceComplianceChange, device("d1"), bad()))
	for _, sent := range [][]string{{"Bearer letmein", "Bearer letmein"}, {"Bearer letmein", "x"}, {"x", "Bearer letmein"}, {}} {
		req, w := pushOf(t.Context(), strings.NewReader(text)), httptest.NewRecorder()
		req.Header["Authorization"] = sent
		if l.Handler().ServeHTTP(w, req); w.Code != http.StatusBadRequest || l.gate.told() != "" {
			t.Errorf("%q: %d", sent, w.Code)
		}
	}
}

// TestPrivateAddressesAreRefused: no network inside is connected to that allow does not list.
func TestPrivateAddressesAreRefused(t *testing.T) {
	c := newClient(Settings{Allow: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}, nil, nil)
	for text, want := range map[string]bool{
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "fd00::1": false,
		"100.64.0.0": false, "100.127.255.255": false, "::ffff:100.64.0.1": false, "::ffff:192.168.1.1": false,
		"127.0.0.1": false, "::1": false, "169.254.169.254": false, "fe80::1": false, "0.0.0.0": false, "::": false, "224.0.0.1": false,
		"255.255.255.255": false, "10.9.1.1": true, "::ffff:10.9.1.1": true, "100.63.255.255": true, "100.128.0.0": true, "8.8.8.8": true, "2001:4860:4860::8888": true,
	} {
		if err := c.allowed(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}
