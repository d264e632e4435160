package client

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
)

func TestEnroll(t *testing.T) {
	g, store := newGateway(t), &memory{}
	hash := sha256.Sum256(g.root.Raw)
	r, err := g.client(t, func(c *Config) { c.RootPin = hash[:] }).Enroll(t.Context(), g.code, store)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.requests(); !slices.Equal(got, []cmp.Kind{cmp.GenM, cmp.P10CR, cmp.CertConf}) {
		t.Errorf("gateway took %v", got)
	}
	if store.saved != r || !r.Root.Equal(g.root) || len(r.Chain) != 1 || !r.Chain[0].Equal(g.issuing) || r.Settings.Device != "d1" || r.Welcome.ProofKeyID != "k1" {
		t.Errorf("result is %+v", r)
	}
	if pub := store.keys.Certificate.Public().(*ecdsa.PublicKey); !pub.Equal(r.Certificate.PublicKey) {
		t.Error("certificate for another key")
	}
}

// TestLostAnswers loses the answer to each message in turn, the work being done. The device
// asks again with the same keys, on a new connection, and gets the same certificate.
func TestLostAnswers(t *testing.T) {
	for _, kind := range []cmp.Kind{cmp.GenM, cmp.P10CR, cmp.CertConf} {
		g, store := newGateway(t), &memory{}
		g.lose[kind] = 2
		r, err := g.client(t).Enroll(t.Context(), g.code, store)
		if err != nil {
			t.Fatalf("answer to %d lost twice: %v", kind, err)
		}
		if len(g.issuedTo) != 1 || r == nil {
			t.Errorf("answer to %d lost: %d certificates issued", kind, len(g.issuedTo))
		}
		g.lose[kind] = 3 // one more than is tried
		r, err = g.client(t).Enroll(t.Context(), g.code, store)
		if err == nil || errors.Is(err, ErrUnconfirmed) != (kind == cmp.CertConf) || (r != nil) != (kind == cmp.CertConf) {
			t.Errorf("answer to %d always lost: %v, result %v", kind, err, r)
		}
		r, err = g.client(t).Enroll(t.Context(), g.code, store)
		if err != nil || len(g.issuedTo) != 1 || !r.Certificate.Equal(store.saved.Certificate) {
			t.Errorf("trying again after %d: %v, %d certificates", kind, err, len(g.issuedTo))
		}
	}
}

func TestClaim(t *testing.T) {
	g, claim := newGateway(t), cmp.Claim{Version: 1, Serial: "C02X", Platform: "linux"}
	if _, err := g.client(t, func(c *Config) { c.Claim = &claim }).Enroll(t.Context(), g.code, &memory{}); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := cmp.ReadClaim(g.last[cmp.P10CR].Header.GeneralInfo); !ok || err != nil || got != claim {
		t.Errorf("gateway reads %+v (%v, %v)", got, ok, err)
	}
}

func TestWrongCode(t *testing.T) {
	g := newGateway(t)
	other, err := code.Draw(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]code.Code{
		"secret":    {Reference: g.code.Reference, Secret: other.Secret},
		"reference": {Reference: other.Reference, Secret: g.code.Secret},
	} {
		store := &memory{}
		if _, err := g.client(t).Enroll(t.Context(), c, store); !errors.Is(err, ErrRefused) || store.keys != nil {
			t.Errorf("wrong %s: %v, keys asked for: %v", name, err, store.keys != nil)
		}
	}
	if _, err := g.client(t).Enroll(t.Context(), code.Code{}, &memory{}); !errors.Is(err, code.ErrCode) {
		t.Errorf("no code: %v", err)
	}
	// A gateway that answers with a MAC of its own, not knowing the code, learns nothing more.
	g.tamper = func(_ cmp.Kind, der []byte) []byte {
		m, _ := cmp.Parse(der)
		forged := &cmp.Message{Header: m.Header, Body: m.Body}
		_ = forged.ProtectMAC([]byte(other.Secret), cmp.NewMACParams())
		out, _ := forged.Marshal()
		return out
	}
	_, err = g.client(t).Enroll(t.Context(), g.code, &memory{})
	if !errors.Is(err, ErrInBetween) || !strings.Contains(err.Error(), "wrong code, or") {
		t.Errorf("forged welcome: %v", err)
	}
}

// TestRelay: a man in the middle with a key of his own passes every byte on, to a gateway
// that does not check exporters. Message 2 is authentic; the connection is not.
func TestRelay(t *testing.T) {
	g := newGateway(t)
	key := ecKey(t)
	self := &x509.Certificate{Subject: pkix.Name{CommonName: "listener"}}
	listener := sign(t, self, self, key.Public(), key)
	relayed := 0
	relay := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		relayed++
		g.ServeHTTP(w, r)
	}), tls.Certificate{Certificate: [][]byte{listener.Raw}, PrivateKey: key})
	g.blind = true
	store := &memory{}
	_, err := g.client(t, func(c *Config) { c.Server = relay.URL }).Enroll(t.Context(), g.code, store)
	if !errors.Is(err, ErrInBetween) || store.keys != nil || relayed != 1 || len(g.requests()) != 1 {
		t.Errorf("relayed welcome: %v, keys asked for: %v, %d messages relayed, %v taken", err, store.keys != nil, relayed, g.requests())
	}
	// He may also step in later: the second connection shows another key than the first.
	first := true
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		to := relay
		if first {
			to = g.server
		}
		first = false
		return new(net.Dialer).DialContext(ctx, network, to.Listener.Addr().String())
	}
	g.lose[cmp.P10CR] = 1
	_, err = g.client(t, func(c *Config) { c.Dial = dial }).Enroll(t.Context(), g.code, store)
	if !errors.Is(err, ErrInBetween) || store.saved != nil || relayed != 1 {
		t.Errorf("relayed from message 3 on: %v, %d messages relayed", err, relayed)
	}
}

func TestRootPin(t *testing.T) {
	g := newGateway(t)
	_, err := g.client(t, func(c *Config) { c.RootPin = make([]byte, 32) }).Enroll(t.Context(), g.code, &memory{})
	if !errors.Is(err, ErrInBetween) {
		t.Errorf("another root than the link's: %v", err)
	}
}

// TestBadAnswers: answers that are protected well and wrong otherwise.
func TestBadAnswers(t *testing.T) {
	other := newAuthority(t, "Other")
	lowOrder := make([]byte, 32)
	for name, c := range map[string]struct {
		shape func(g *gateway, m *cmp.Message)
		want  error
		text  string
	}{
		"transaction":      {func(_ *gateway, m *cmp.Message) { m.Header.TransactionID = []byte("another transact") }, ErrInBetween, ""},
		"nonce":            {func(_ *gateway, m *cmp.Message) { m.Header.RecipNonce = []byte("another nonce...") }, ErrInBetween, ""},
		"no nonce":         {func(_ *gateway, m *cmp.Message) { m.Header.SenderNonce = nil }, ErrInBetween, ""},
		"reflected kind":   {func(_ *gateway, m *cmp.Message) { m.Body.Kind = cmp.GenM; m.Body.Infos = nil }, ErrInBetween, ""},
		"no root":          {infos(func(g *gateway) []cmp.Info { return []cmp.Info{cmp.CACertsInfo(g.issuing.Raw)} }), nil, "no root"},
		"two roots":        {infos(func(g *gateway) []cmp.Info { return []cmp.Info{cmp.CACertsInfo(g.root.Raw, other.root.Raw)} }), nil, "two roots"},
		"no CA":            {infos(func(g *gateway) []cmp.Info { return []cmp.Info{cmp.CACertsInfo(g.root.Raw, g.responder.Raw)} }), nil, "none"},
		"no welcome":       {infos(func(g *gateway) []cmp.Info { return []cmp.Info{cmp.CACertsInfo(g.root.Raw)} }), nil, "no welcome"},
		"no listener keys": {infos(func(g *gateway) []cmp.Info { return welcomed(g, func(w *cmp.Welcome) { w.ListenerKeys = nil }) }), ErrInBetween, ""},
		"low-order proof key": {func(g *gateway, m *cmp.Message) {
			if m.Body.Kind == cmp.GenP {
				m.Body.Infos = welcomed(g, func(w *cmp.Welcome) { w.ProofKey = lowOrder })
			}
		}, nil, "agreeing with the gateway's proof key"},
		"another root in caPubs": {reply(func(g *gateway, m *cmp.Message) { m.Body.CAPubs = [][]byte{other.root.Raw} }), ErrRootChanged, ""},
		"no settings":            {reply(func(_ *gateway, m *cmp.Message) { m.Header.GeneralInfo = nil }), nil, "no network settings"},
		"another request":        {reply(func(_ *gateway, m *cmp.Message) { m.Body.Responses[0].RequestID = 0 }), nil, "something else"},
		"no certificate":         {reply(func(_ *gateway, m *cmp.Message) { m.Body.Responses[0].Certificate = nil }), nil, "reading certificate"},
		"somebody's certificate": {reply(func(g *gateway, m *cmp.Message) { m.Body.Responses[0].Certificate = g.responder.Raw }), nil, "another key"},
		"rejection": {reply(func(_ *gateway, m *cmp.Message) {
			m.Body.Responses[0] = cmp.CertResponse{RequestID: -1, Status: cmp.StatusInfo{Status: cmp.Rejection, Fail: cmp.BadPOP, Text: []string{"proof missing"}}}
		}), nil, `the gateway refused: rejection (badPOP): "proof missing"`},
		"protected error": {reply(func(_ *gateway, m *cmp.Message) {
			m.Body = cmp.NewError(m.Header, time.Now(), cmp.DuplicateCertReq, "other keys").Body
		}), nil, `the gateway refused: rejection (duplicateCertReq): "other keys"`},
	} {
		g, store := newGateway(t), &memory{}
		g.shape = func(_ *http.Request, m *cmp.Message) { c.shape(g, m) }
		_, err := g.client(t).Enroll(t.Context(), g.code, store)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || store.saved != nil {
			t.Errorf("%s: got %v, want %v %q", name, err, c.want, c.text)
		}
	}
}

func infos(f func(*gateway) []cmp.Info) func(*gateway, *cmp.Message) {
	return func(g *gateway, m *cmp.Message) { m.Body.Infos = f(g) }
}

func reply(f func(*gateway, *cmp.Message)) func(*gateway, *cmp.Message) {
	return func(g *gateway, m *cmp.Message) {
		if m.Body.Kind == cmp.CP || m.Body.Kind == cmp.KUP {
			f(g, m)
		}
	}
}

func welcomed(g *gateway, change func(*cmp.Welcome)) []cmp.Info {
	w := g.welcome
	change(&w)
	info, err := cmp.WelcomeInfo(w)
	if err != nil {
		g.t.Error(err)
	}
	return []cmp.Info{cmp.CACertsInfo(g.root.Raw, g.issuing.Raw), info}
}

// TestBadCertificates: the certificate itself is not what was asked for.
func TestBadCertificates(t *testing.T) {
	stranger, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri := cmp.WireGuardURI([32]byte(stranger.PublicKey().Bytes()))
	for name, leaf := range map[string]func(*x509.Certificate){
		"another WireGuard key": func(c *x509.Certificate) { c.URIs[0].Opaque = strings.TrimPrefix(uri, "wireguard:") },
		"no WireGuard key":      func(c *x509.Certificate) { c.URIs = nil },
		"two WireGuard keys":    func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"a CA":                  func(c *x509.Certificate) { c.IsCA = true },
		"a server's":            func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"over": func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		},
	} {
		g, store := newGateway(t), &memory{}
		g.leaf = leaf
		if _, err := g.client(t).Enroll(t.Context(), g.code, store); err == nil || store.saved != nil {
			t.Errorf("certificate %s: %v", name, err)
		}
	}
	g := newGateway(t)
	other := newAuthority(t, "Other")
	g.issuing, g.issuingKey = other.issuing, other.issuingKey
	if _, err := g.client(t).Enroll(t.Context(), g.code, &memory{}); err == nil {
		t.Error("certificate from under another root accepted")
	}
}

// TestClockNotSet: a device whose clock stands at its build date still enrolls.
func TestClockNotSet(t *testing.T) {
	g := newGateway(t)
	var log bytes.Buffer
	_, err := g.client(t, func(c *Config) {
		c.Now = func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	}).Enroll(t.Context(), g.code, &memory{})
	if err != nil || !strings.Contains(log.String(), "clock differs") {
		t.Errorf("%v; log:\n%s", err, log.String())
	}
}

func TestWaiting(t *testing.T) {
	g := newGateway(t)
	g.shape = func(_ *http.Request, m *cmp.Message) {
		if m.Body.Kind == cmp.CP {
			m.Body.Responses[0] = cmp.CertResponse{RequestID: -1, Status: cmp.StatusInfo{Status: cmp.Waiting}}
		}
	}
	var wait *WaitingError
	if _, err := g.client(t).Enroll(t.Context(), g.code, &memory{}); !errors.As(err, &wait) || wait.After != time.Minute {
		t.Errorf("waiting: %v", err)
	}
	g.shape = func(_ *http.Request, m *cmp.Message) {
		if m.Body.Kind == cmp.CP {
			m.Body = cmp.Body{Kind: cmp.PollRep, Polls: []cmp.Poll{{RequestID: -1, After: time.Hour}}}
		}
	}
	if _, err := g.client(t).Enroll(t.Context(), g.code, &memory{}); !errors.As(err, &wait) || wait.After != time.Hour {
		t.Errorf("polled: %v", err)
	}
}

// TestHTTP: what the layers below CMP answer, and which of it is worth another try.
func TestHTTP(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		times  int
		want   string
	}{
		"busy once":       {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) }, 1, ""},
		"slowed down":     {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "slow", http.StatusTooManyRequests) }, 2, ""},
		"always busy":     {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) }, 3, "gateway answered 503"},
		"malformed":       {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 400) }, 1, "malformed"},
		"a web site":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<p>hello") }, 1, "no enrollment service at https://"},
		"an endless body": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", contentType); flood(w) }, 1, "someone is in between"},
		"closing": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			w.WriteHeader(503)
		}, 1, ""},
		"empty": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", contentType) }, 1, "someone is in between"},
	} {
		g := newGateway(t)
		left := c.times
		g.before = func(w http.ResponseWriter, r *http.Request) bool {
			if left--; left < 0 {
				return false
			}
			c.answer(w, r)
			return true
		}
		_, err := g.client(t).Enroll(t.Context(), g.code, &memory{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	g := newGateway(t)
	g.before = func(w http.ResponseWriter, _ *http.Request) bool { // a connection for each message
		w.Header().Set("Connection", "close")
		return false
	}
	once := func(c *Config) { c.Attempts = 1 }
	if _, err := g.client(t, once).Enroll(t.Context(), g.code, &memory{}); err != nil {
		t.Errorf("a connection for each message: %v", err)
	}
}

func flood(w io.Writer) {
	for {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}

func TestOldTLS(t *testing.T) {
	g := newGateway(t)
	cert := g.server.TLS.Certificates[0]
	old := serveOld(t, g, cert)
	_, err := g.client(t, func(c *Config) { c.Server = old }).Enroll(t.Context(), g.code, &memory{})
	if err == nil || !strings.Contains(err.Error(), "TLS 1.3") {
		t.Errorf("TLS 1.2: %v", err)
	}
}

func serveOld(t *testing.T, h http.Handler, cert tls.Certificate) string {
	s := serve(t, h, cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: s.Config.ErrorLog, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(tls.NewListener(l, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}))
	}()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return "https://" + l.Addr().String()
}

func TestContext(t *testing.T) {
	g := newGateway(t)
	ctx, cancel := context.WithCancel(t.Context())
	g.before = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel() // the device gives up while the gateway thinks
		<-r.Context().Done()
		return true
	}
	if _, err := g.client(t).Enroll(ctx, g.code, &memory{}); err == nil {
		t.Error("enrolled though cancelled")
	}
}

func TestStoreFails(t *testing.T) {
	g, full := newGateway(t), errors.New("disk full")
	if _, err := g.client(t).Enroll(t.Context(), g.code, &memory{fail: full}); !errors.Is(err, full) {
		t.Errorf("keys not stored: %v", err)
	}
	if got := g.requests(); !slices.Equal(got, []cmp.Kind{cmp.GenM}) {
		t.Errorf("without keys on disk the gateway was asked %v", got)
	}
	e, err := g.client(t).Begin(t.Context(), g.code)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Request(t.Context(), Keys{}); err == nil {
		t.Error("requested without keys")
	}
	if err := e.Confirm(t.Context()); err == nil {
		t.Error("confirmed nothing")
	}
}

func TestNew(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, server := range []string{"", "gw.example", "http://gw.example", "https://", "https://u@gw.example", "https://gw.example/x", "https://gw.example?x", "https://gw example"} {
		if _, err := New(Config{Server: server, Log: log}); err == nil {
			t.Errorf("%q accepted", server)
		}
	}
	if _, err := New(Config{Server: "https://gw.example"}); err == nil {
		t.Error("no log accepted")
	}
	if _, err := New(Config{Server: "https://gw.example", Log: log, RootPin: []byte{1}}); err == nil {
		t.Error("short pin accepted")
	}
	for server, addr := range map[string]string{"https://gw.example/": "gw.example:443", "https://[2001:db8::1]:8443": "[2001:db8::1]:8443"} {
		if c, err := New(Config{Server: server, Log: log}); err != nil || c.addr != addr {
			t.Errorf("%q: %v", server, err)
		}
	}
}
