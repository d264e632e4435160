package ssf

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"lazaret/quarantine/source/set"
)

func private(t *testing.T, der []byte) crypto.PrivateKey {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func privateOf(t *testing.T, k *set.Key) crypto.PrivateKey {
	t.Helper()
	der, err := k.PKCS8()
	if err != nil {
		t.Fatal(err)
	}
	return private(t, der)
}

// server is a transmitter's HTTPS server on loopback, and the settings that lead there.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // METHOD PATH?QUERY BODY
}

func newServer(t *testing.T, mux *http.ServeMux) *server {
	s := &server{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI())
		s.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) count(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if strings.HasPrefix(a, what) {
			n++
		}
	}
	return n
}

func (s *server) root() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func (s *server) reach(to *Settings) {
	to.Roots, to.Allow = s.root(), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// jwks serves keys that the test may change.
type jwks struct {
	mu   sync.Mutex
	keys []*set.Key
	down bool
}

func (j *jwks) set(down bool, keys ...*set.Key) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.keys, j.down = keys, down
}

func (j *jwks) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	b, err := set.JWKS(j.keys...)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(b)
}

// TestKeysAreFetched: rotation is followed, at most one request a minute is made for kids
// that are not known, and old keys serve while new ones cannot be had.
func TestKeysAreFetched(t *testing.T) {
	published := &jwks{}
	mux := http.NewServeMux()
	mux.Handle("GET /keys", published)
	srv := newServer(t, mux)
	l := newLab(t, func(s *Settings) { s.JWKS, s.JWKSURI = nil, srv.URL+"/keys"; srv.reach(s) })
	old, strange := l.key, must(t)
	send := func() error { return l.send(l.token(set.DeviceComplianceChange, device("d1"), bad())) }

	published.set(true)
	if err := send(); err == nil || isRefusal(err) {
		t.Fatalf("without keys: %v", err)
	}
	published.set(false, old)
	if err := send(); err == nil || isRefusal(err) || srv.count("GET /keys") != 1 {
		t.Errorf("at once again: %v, asked %d times", err, srv.count("GET /keys"))
	}
	l.pass(keysPause)
	if err := send(); err != nil {
		t.Fatal(err)
	}
	for range 50 { // strangers
		l.key = strange
		if err := send(); !isCode(err, set.InvalidKey) {
			t.Fatalf("unknown kid: %v", err)
		}
	}
	if n := srv.count("GET /keys"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	l.pass(keysPause)
	next := must(t)
	published.set(false, next)
	l.key = next
	if err := send(); err != nil {
		t.Errorf("after rotation: %v", err)
	}
	l.key = old
	if err := send(); !isCode(err, set.InvalidKey) {
		t.Errorf("the retired key: %v", err)
	}
	l.key = next
	published.set(true)
	l.pass(2 * keysFresh)
	if err := send(); err != nil {
		t.Errorf("while the keys cannot be had: %v", err)
	}
	l.pass(keysStale)
	if err := send(); err == nil || isRefusal(err) {
		t.Errorf("with keys of yesterday: %v", err)
	}
}

// TestKnownKeysDoNotWait: while keys are fetched for a stranger's kid, tokens of a known key
// are taken, and a token of a new key waits for the answer.
func TestKnownKeysDoNotWait(t *testing.T) {
	published := &jwks{}
	arrived, goOn := make(chan struct{}, 1), make(chan struct{})
	first := true
	mux := http.NewServeMux()
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		if !first {
			arrived <- struct{}{}
			<-goOn
		}
		first = false
		published.ServeHTTP(w, r)
	})
	srv := newServer(t, mux)
	l := newLab(t, func(s *Settings) { s.JWKS, s.JWKSURI = nil, srv.URL+"/keys"; srv.reach(s) })
	published.set(false, l.key)
	text := func(k *set.Key) string {
		out, err := k.Sign(l.token(set.DeviceComplianceChange, device("d1"), bad()))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	next := must(t)
	strange, fresh, known := text(must(t)), text(next), []string{text(l.key), text(l.key)}
	take := func(text string) error { return l.take(t.Context(), l.idp(), text, "") }
	if err := take(known[0]); err != nil {
		t.Fatal(err)
	}
	l.pass(keysPause)
	published.set(false, l.key, next)
	answers := make(chan error, 2)
	go func() { answers <- take(strange) }()
	<-arrived
	go func() { answers <- take(fresh) }()
	if err := take(known[1]); err != nil {
		t.Errorf("a known key, meanwhile: %v", err)
	}
	close(goOn)
	codes := 0
	for range 2 {
		if err := <-answers; isCode(err, set.InvalidKey) {
			codes++
		} else if err != nil {
			t.Errorf("a new key: %v", err)
		}
	}
	if codes != 1 {
		t.Errorf("%d of the stranger's token and the new key's were refused, want 1", codes)
	}
}

func must(t *testing.T) *set.Key {
	t.Helper()
	k, err := set.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func isRefusal(err error) bool { _, ok := err.(*set.Error); return ok }

func isCode(err error, code set.Code) bool { e, ok := err.(*set.Error); return ok && e.Code == code }

// TestNobodyIsAskedInside: whatever a URL, a name or a redirect leads to, no private address
// is spoken to that the settings do not allow, and no server that cannot be verified.
func TestNobodyIsAskedInside(t *testing.T) {
	mux := http.NewServeMux()
	inside := newServer(t, http.NewServeMux())
	mux.Handle("GET /redirect", http.RedirectHandler(inside.URL+"/keys", http.StatusFound))
	mux.HandleFunc("GET /large", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+1)) })
	srv := newServer(t, mux)
	for name, change := range map[string]func(s *Settings){
		"loopback":          func(s *Settings) { s.JWKSURI = srv.URL + "/keys"; s.Roots = srv.root() },
		"loopback, by name": func(s *Settings) { s.JWKSURI = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1) + "/keys" },
		"mapped": func(s *Settings) {
			s.JWKSURI = strings.Replace(srv.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1) + "/keys"
		},
		"private":      func(s *Settings) { s.JWKSURI = "https://10.0.0.1/keys" },
		"link-local":   func(s *Settings) { s.JWKSURI = "https://169.254.169.254/latest/meta-data" },
		"carrier's":    func(s *Settings) { s.JWKSURI = "https://100.64.0.1/keys" },
		"unique local": func(s *Settings) { s.JWKSURI = "https://[fd00::1]/keys" },
		"not verified": func(s *Settings) { srv.reach(s); s.Roots = ""; s.JWKSURI = srv.URL + "/keys" },
		"redirect":     func(s *Settings) { srv.reach(s); s.JWKSURI = srv.URL + "/redirect" },
		"too large":    func(s *Settings) { srv.reach(s); s.JWKSURI = srv.URL + "/large" },
	} {
		l := newLab(t, func(s *Settings) { s.JWKS = nil; change(s) })
		if err := l.send(l.token(set.DeviceComplianceChange, device("d1"), bad())); err == nil || isRefusal(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := inside.count(""); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
	if n := srv.count("GET /keys"); n != 0 {
		t.Errorf("asked inside %d times", n)
	}
}

func TestSettings(t *testing.T) {
	good := func() Settings {
		return Settings{Issuer: issuer, Audience: []string{audience}, JWKSURI: "https://idp.example.com/keys", Delivery: Push}
	}
	if err := good().Check(); err != nil {
		t.Error(err)
	}
	discovered := good()
	discovered.JWKSURI = ""
	if err := discovered.Check(); err != nil {
		t.Errorf("keys by the well-known document: %v", err)
	}
	for name, change := range map[string]func(s *Settings){
		"no issuer": func(s *Settings) { s.Issuer = "" }, "no audience": func(s *Settings) { s.Audience = nil }, "empty audience": func(s *Settings) { s.Audience = []string{""} },
		"keys twice": func(s *Settings) { s.JWKS = json.RawMessage(`{"keys":[]}`) }, "plain http": func(s *Settings) { s.JWKSURI = "http://idp.example.com/keys" },
		"credentials in the URL": func(s *Settings) { s.JWKSURI = "https://a:b@idp.example.com/keys" }, "no delivery": func(s *Settings) { s.Delivery = "" },
		"poll from nowhere": func(s *Settings) { s.Delivery = Poll }, "no client": func(s *Settings) { s.TokenURL = "https://idp.example.com/token" },
		"age": func(s *Settings) { s.MaxAge = "1000h" }, "age in words": func(s *Settings) { s.MaxAge = "a week" }, "device by owner": func(s *Settings) { s.DeviceBy = []string{"owner"} },
		"allow bits": func(s *Settings) { s.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "roots": func(s *Settings) { s.Roots = "x" },
		"events": func(s *Settings) { s.MaxEvents = -1 }, "no keys": func(s *Settings) { s.JWKSURI, s.Issuer = "", "idp" },
	} {
		s := good()
		change(&s)
		if s.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := ParseSettings([]byte(`{"issuer":"x","audiences":["y"]}`)); err == nil {
		t.Error("a misspelt name is taken")
	}
	for issuer, want := range map[string]string{ // SSF 1.0 section 7.2.1
		"https://tr.example.com": "https://tr.example.com/.well-known/ssf-configuration", "https://tr.example.com/": "https://tr.example.com/.well-known/ssf-configuration",
		"https://tr.example.com/issuer1": "https://tr.example.com/.well-known/ssf-configuration/issuer1", "https://tr.example.com/issuer1/": "https://tr.example.com/.well-known/ssf-configuration/issuer1",
	} {
		if got, err := wellKnown(issuer); err != nil || got != want {
			t.Errorf("%s: %s, %v", issuer, got, err)
		}
	}
}
