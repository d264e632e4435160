package servercert

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// shows returns the certificate that a client with this configuration is shown.
func (l *lab) shows(t testing.TB, c *tls.Config) string {
	t.Helper()
	near, far := net.Pipe()
	c.InsecureSkipVerify = true
	go func() {
		s := tls.Server(far, l.TLS(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", http11}}))
		_ = s.HandshakeContext(t.Context())
	}()
	defer far.Close()
	defer near.Close()
	client := tls.Client(near, c)
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	switch got := client.ConnectionState().PeerCertificates[0]; {
	case got.Equal(l.own):
		return "own"
	case l.shown.Load() != nil && got.Equal(l.shown.Load().leaf()):
		return "other"
	}
	return "neither"
}

// TestWhoIsShownWhat: devices, and whoever asks for what the certificate does not bear, are
// shown the gateway's own; all others the certificate that was brought, while it is valid (G8).
func TestWhoIsShownWhat(t *testing.T) {
	l := newLab(t)
	browser := []string{"h2", http11}
	agent := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: []string{http11}}
	try := func(what, want string, c *tls.Config) {
		t.Helper()
		if got := l.shows(t, c); got != want {
			t.Errorf("%s is shown %s, want %s", what, got, want)
		}
	}
	try("a browser, before there is any", "own", &tls.Config{ServerName: name, NextProtos: browser})
	l.bring(t, name, "portal.example.test")
	try("a browser", "other", &tls.Config{ServerName: name, NextProtos: browser})
	try("a browser that writes the name otherwise", "other", &tls.Config{ServerName: "GW.Example.Test", NextProtos: browser})
	try("another name of it", "other", &tls.Config{ServerName: "portal.example.test", NextProtos: browser})
	try("a library that speaks HTTP/1.1 alone", "other", &tls.Config{ServerName: name, NextProtos: []string{http11}})
	try("the agent", "own", agent)
	try("openssl cmp, and lazaretctl: no ALPN", "own", &tls.Config{ServerName: name})
	try("a browser that asks for an address", "own", &tls.Config{NextProtos: browser})
	try("a browser that asks for a name of our own certificate alone", "own", &tls.Config{ServerName: "only-ours.example.test", NextProtos: browser})

	try("a program without ALPN at a name that only the certificate bears", "other", &tls.Config{ServerName: "portal.example.test"})
	try("the agent there", "own", &tls.Config{ServerName: "portal.example.test", MinVersion: tls.VersionTLS13, NextProtos: []string{http11}})

	l.now = l.shown.Load().leaf().NotAfter
	try("a browser when it is over", "own", &tls.Config{ServerName: name, NextProtos: browser})
	l.now = l.shown.Load().leaf().NotBefore.Add(-time.Second)
	try("a browser before it begins, as after a fault of the clock", "own", &tls.Config{ServerName: name, NextProtos: browser})
	l.now = time.Time{}
	l.open(t)
	try("a browser after a start", "other", &tls.Config{ServerName: name, NextProtos: browser})

	key := newKey(t)
	c := l.leaf(t, key.Public(), server(name, "portal.example.test"))
	if err := l.Set(t.Context(), l.note, Brought{Chain: text(c, l.issuer), Key: keyText(t, key), For: []string{"Portal.example.test"}}); err != nil {
		t.Fatal(err)
	}
	try("a browser at a name that it is not to be shown for", "own", &tls.Config{ServerName: name, NextProtos: browser})
	try("a browser at the name it is shown for", "other", &tls.Config{ServerName: "portal.example.test", NextProtos: browser})

	if err := l.Unset(t.Context(), l.note); err != nil {
		t.Fatal(err)
	}
	try("a browser after unset", "own", &tls.Config{ServerName: "portal.example.test", NextProtos: browser})
	if left := l.store.names(); len(left) != 0 {
		t.Errorf("after unset there is still %v", left)
	}
}

// TestSwitchDropsNobody: a connection that is open goes on over a switch, and new ones are
// shown the other certificate at once; lazaretctl's way of asking knows it with our root as
// before.
func TestSwitchDropsNobody(t *testing.T) {
	l := newLab(t)
	s := l.serve(t)
	dials := 0
	client := func(proto []string, roots []byte) *http.Client {
		pool := l.pool()
		if roots != nil {
			pool.AppendCertsFromPEM(roots)
		}
		return &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, NextProtos: proto}, ForceAttemptHTTP2: proto != nil,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				dials++
				return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
			},
		}}
	}
	get := func(c *http.Client) error {
		resp, err := c.Get("https://" + name + "/")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	open := client([]string{"h2", http11}, l.ownPEM)
	if err := get(open); err != nil {
		t.Fatal(err)
	}
	if err := get(client([]string{"h2", http11}, nil)); err == nil {
		t.Fatal("a client without our root took our certificate")
	}
	l.bring(t, name)
	was := dials
	if err := get(open); err != nil || dials != was {
		t.Errorf("the open connection is gone: %d dials more, %v", dials-was, err)
	}
	if err := get(client([]string{"h2", http11}, nil)); err != nil {
		t.Errorf("a client that knows the other root alone: %v", err)
	}
	// As cmd/lazaretctl makes it: a transport with our root alone.
	ctl := client(nil, l.ownPEM)
	if err := get(ctl); err != nil {
		t.Errorf("lazaretctl: %v", err)
	}
}

// TestCurlAndOpenSSL has programs of others judge: curl with the other root alone, and
// openssl with ours alone.
func TestCurlAndOpenSSL(t *testing.T) {
	curl, openssl := testneed.Program(t, "curl"), testneed.Program(t, "openssl")
	l := newLab(t)
	s := l.serve(t)
	dir := t.TempDir()
	for file, b := range map[string][]byte{"theirs.pem": text(l.root), "ours.pem": l.ownPEM} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	run := func(program string, args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), program, args...)
		c.Dir = dir
		c.Stdin = strings.NewReader("")
		out, err := c.CombinedOutput()
		return string(out), err
	}
	fetch := func(roots string) (string, error) {
		return run(curl, "-sS", "--noproxy", "*", "--max-time", "60", "--cacert", roots, "--resolve", name+":"+port+":127.0.0.1", "https://"+name+":"+port+"/")
	}
	verify := func(roots string) (string, error) {
		return run(openssl, "s_client", "-connect", "127.0.0.1:"+port, "-servername", name, "-verify_hostname", name, "-CAfile", roots, "-verify_return_error")
	}
	if out, err := fetch("theirs.pem"); err == nil {
		t.Errorf("before: curl with the other root alone: %s", out)
	}
	l.bring(t, name)
	if out, err := fetch("theirs.pem"); err != nil || !strings.HasPrefix(out, "hello") {
		t.Errorf("curl with the other root alone: %v %s", err, out)
	}
	if out, err := fetch("ours.pem"); err == nil {
		t.Errorf("curl with our root alone is shown our certificate, and so are browsers: %s", out)
	}
	if out, err := verify("ours.pem"); err != nil {
		t.Errorf("openssl, as openssl cmp connects, with our root alone: %v %s", err, out)
	}
	if out, err := run(openssl, "s_client", "-connect", "127.0.0.1:"+port, "-servername", name, "-CAfile", "theirs.pem", "-verify_return_error", "-alpn", "h2"); err != nil {
		t.Errorf("openssl with ALPN and the other root alone: %v %s", err, out)
	}
}
