package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"lazaret/internal/audit"
)

// transmitter serves a lab's handlers over TLS, as the enrollment listener does.
func (l *lab) transmitter() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { // the manager is another after a restart
		inner := http.NewServeMux()
		for pattern, h := range l.Handlers() {
			inner.Handle(pattern, h)
		}
		inner.ServeHTTP(w, r)
	})
	s := httptest.NewTLSServer(mux)
	l.t.Cleanup(s.Close)
	l.stop()
	l.cfg.Issuer = s.URL
	l.start()
	return s
}

// call makes a request of a receiver, and decodes the answer into v.
func call(t *testing.T, s *httptest.Server, method, path, token, body string, v any) int {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.Client().Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if v != nil {
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, raw)
		}
	}
	return resp.StatusCode
}

// claims reads a token with another implementation of JOSE, and the published keys.
func claims(t *testing.T, s *httptest.Server, text string) map[string]any {
	t.Helper()
	var published struct {
		Keys []struct{ Kid, Kty, Crv, Alg, Use, X, Y string }
	}
	call(t, s, "GET", "/.well-known/jwks.json", "", "", &published)
	token, err := jwt.Parse(text, func(k *jwt.Token) (any, error) {
		if k.Header["typ"] != "secevent+jwt" {
			t.Errorf("typ is %v", k.Header["typ"])
		}
		for _, p := range published.Keys {
			if p.Kid == k.Header["kid"] && p.Kty == "EC" && p.Crv == "P-256" && p.Use == "sig" {
				x, _ := base64.RawURLEncoding.DecodeString(p.X)
				y, _ := base64.RawURLEncoding.DecodeString(p.Y)
				return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(s.URL))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return token.Claims.(jwt.MapClaims)
}

// pushes is a receiver of tokens that are pushed.
type pushes struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string
	head []http.Header
}

func newPushes(t *testing.T) *pushes {
	p := &pushes{}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.got, p.head = append(p.got, string(body)), append(p.head, r.Header)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *pushes) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *pushes) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// TestPushedTokens verifies every token with golang-jwt and the published keys.
func TestPushedTokens(t *testing.T) {
	l := newLab(t)
	s, p := l.transmitter(), newPushes(t)
	if _, _, err := l.Add(t.Context(), boss, Receiver{Name: "idp", Kind: SSF, URL: p.URL + "/push", CA: p.ca(), Audience: "https://idp.example.com"}, "Bearer pushing"); err != nil {
		t.Fatal(err)
	}
	l.book.write(audit.Entry{Action: "device.enroll", Device: "d1", Detail: map[string]string{"to": "quarantined"}})
	l.moved("d1", "quarantined", "routed")
	l.moved("d1", "routed", "quarantined")
	l.moved("d1", "quarantined", "pending")
	l.moved("d1", "quarantined", "routed")
	if err := l.RotateSigner(t.Context(), boss); err != nil {
		t.Fatal(err)
	}
	l.book.write(audit.Entry{Action: "device.block", Device: "d1", Actor: audit.Actor{Kind: "administrator", Name: "ada"}, Detail: map[string]string{"from": "routed", "to": "blocked", "reason": "blocked by ada"}})
	l.book.write(audit.Entry{Action: "device.revoke", Device: "d1", Detail: map[string]string{"from": "blocked", "to": "revoked"}})
	const caep = "https://schemas.openid.net/secevent/caep/event-type/"
	want := []struct{ event, was, is, who string }{
		{caep + "device-compliance-change", "not-compliant", "compliant", "policy"},
		{caep + "device-compliance-change", "compliant", "not-compliant", "policy"},
		{caep + "device-compliance-change", "not-compliant", "compliant", "policy"},
		{caep + "device-compliance-change", "compliant", "not-compliant", "admin"},
		{caep + "session-revoked", "", "", "admin"},
	}
	until(t, func() bool { return len(p.all()) >= len(want) && l.state("idp").Waiting == 0 })
	if n := len(p.all()); n != len(want) {
		t.Fatalf("%d tokens, want %d", n, len(want))
	}
	ids, kids := map[any]bool{}, map[any]bool{}
	for i, text := range p.all() {
		c := claims(t, s, text)
		ids[c["jti"]] = true
		header, _ := base64.RawURLEncoding.DecodeString(text[:strings.IndexByte(text, '.')])
		kids[string(header)] = true
		event, _ := c["events"].(map[string]any)[want[i].event].(map[string]any)
		subject := c["sub_id"].(map[string]any)
		device := subject["device"].(map[string]any)
		if event == nil || event["initiating_entity"] != want[i].who || event["event_timestamp"] == nil || c["aud"] != "https://idp.example.com" ||
			subject["format"] != "complex" || device["format"] != "opaque" || device["id"] != "d1" || c["exp"] != nil || c["sub"] != nil {
			t.Errorf("token %d: %v", i, c)
		}
		if want[i].is != "" && (event["current_status"] != want[i].is || event["previous_status"] != want[i].was) {
			t.Errorf("token %d: %v", i, event)
		}
		h := p.head[i]
		if h.Get("Content-Type") != "application/secevent+jwt" || h.Get("Accept") != "application/json" || h.Get("Authorization") != "Bearer pushing" {
			t.Errorf("token %d has the headers %v", i, h)
		}
	}
	if len(ids) != len(want) || len(kids) < 1 {
		t.Errorf("%d jti of %d tokens", len(ids), len(want))
	}
}

// TestTokensToldAgainAreTheSame: a receiver that has had one knows it by its payload.
func TestTokensToldAgainAreTheSame(t *testing.T) {
	l := newLab(t)
	n := audit.Numbered{Sequence: 3, Entry: audit.Entry{ID: "abc", Time: noon, Action: "device.report", Device: "d1", Detail: map[string]string{"from": "routed", "to": "quarantined"}}}
	payload := func() string {
		tokens, err := l.tokens(Receiver{Name: "a", Kind: SSF, StreamID: "st_1"}, events("gw", n)[0])
		if err != nil || len(tokens) != 1 {
			t.Fatalf("%v, %v", tokens, err)
		}
		return strings.Split(tokens[0].text, ".")[1]
	}
	first := payload()
	l.stop()
	l.start()
	if second := payload(); second != first {
		t.Errorf("%s, then %s", first, second)
	}
}
