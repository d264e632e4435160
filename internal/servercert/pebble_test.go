package servercert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"lazaret/internal/testneed"
)

// pebble is Let's Encrypt's ACME server for tests, as a witness.
type pebble struct {
	url, management string
	roots           string // PEM: whom its own HTTPS is under
	http            *http.Client
}

// program builds pebble from the module beside this file, or takes what $PEBBLE names.
func program(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("PEBBLE"); path != "" {
		return path
	}
	if os.Getenv("LONG") == "" && os.Getenv("CI") != "true" {
		t.Skip("builds an ACME server: set LONG=1, or PEBBLE to the path of pebble 2.10")
	}
	goTool := testneed.Program(t, "go")
	path := filepath.Join(t.TempDir(), "pebble")
	build := exec.CommandContext(t.Context(), goTool, "build", "-mod=readonly", "-o", path, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	build.Dir = "pebble"
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		testneed.Skip(t, fmt.Sprintf("needs pebble as a witness, which cannot be built here (%v: %s): set PEBBLE to its path", err, out))
	}
	return path
}

// startPebble runs pebble, which proves names at port of 127.0.0.1, wherever they are.
func startPebble(t *testing.T, port string, settings map[string]any) *pebble {
	t.Helper()
	path, dir := program(t), t.TempDir()
	h := newHouse(t)
	key := newKey(t)
	c := server("localhost")
	c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	at := []string{free(t), free(t)}
	all := map[string]any{"listenAddress": at[0], "managementListenAddress": at[1], "certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": 1, "tlsPort": json.Number(port), "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "test", "validityPeriod": 7776000}}}
	for k, v := range settings {
		all[k] = v
	}
	config, err := json.Marshal(map[string]any{"pebble": all})
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{"cert.pem": text(h.leaf(t, key.Public(), c), h.issuer), "key.pem": keyText(t, key), "config.json": config} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &pebble{url: "https://" + at[0], management: "https://" + at[1], roots: string(text(h.root)),
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: h.pool()}}}}
	ctx, stop := context.WithCancel(context.Background())
	run := exec.CommandContext(ctx, path, "-config", filepath.Join(dir, "config.json"), "-dnsserver", nameserver(t), "-strict")
	// Some good nonces are refused, as public servers do.
	run.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=10", "PEBBLE_AUTHZREUSE=0")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	run.Stdout, run.Stderr = log, log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = run.Wait()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("pebble: %s", b)
		}
		_ = log.Close()
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(2 * time.Minute)
	for {
		if resp, err := p.http.Get(p.url + "/dir"); err == nil {
			_ = resp.Body.Close()
			return p
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("pebble does not answer")
		}
	}
}

// pool is the root under which pebble issues; another at each of its starts.
func (p *pebble) pool(t *testing.T) *x509.CertPool {
	t.Helper()
	resp, err := p.http.Get(p.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatalf("no root: %s", b)
	}
	return pool
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// nameserver says that every name is at 127.0.0.1, and returns its address.
func nameserver(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // pebble asks by TCP
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if x := q.Question[0]; x.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: x.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

// TestPebble gets certificates from a real ACME server, which comes to our own listener for
// its proofs: the first one, a renewal, one with more names, and none for a name that it does
// not certify. Each is shown on the listener that is open all the while.
func TestPebble(t *testing.T) {
	l := newLab(t)
	s := l.serve(t)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	p := startPebble(t, port, map[string]any{"domainBlocklist": []string{"blocked.example.test"}})
	set := ACMESettings{Directory: p.url + "/dir", Contacts: []string{"hostmaster@example.test"}, Agreed: true, Roots: p.roots}
	if err := l.SetACME(t.Context(), l.note, set); err != nil {
		t.Fatal(err)
	}
	l.tick(t.Context())
	first := l.obtained(t, p.pool(t), name)
	if s := l.State(t.Context()); s.ACME.Account == "" || s.ACME.Failures != 0 {
		t.Errorf("%+v", s.ACME)
	}

	// Two thirds of its life later, after a start.
	l.now = first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore)*2/3 + time.Second)
	rest := l.shown.Load().saved.Renew
	if d := rest.Sub(l.now); d > 0 || d < -time.Minute {
		t.Errorf("it is renewed at %s", rest)
	}
	l.now = time.Now().Add(sooner + time.Second) // pebble's clock is the machine's
	if err := l.Renew(t.Context(), l.note); err != nil {
		t.Fatal(err)
	}
	l.tick(t.Context())
	second := l.obtained(t, p.pool(t), name)
	if second.Equal(first) || string(second.RawSubjectPublicKeyInfo) == string(first.RawSubjectPublicKeyInfo) {
		t.Error("the renewal has the same key")
	}

	l.now = l.now.Add(firstWait + time.Minute)
	set.Names, set.Key, set.Contacts = []string{name, "portal.example.test"}, "rsa3072", []string{"other@example.test"}
	if err := l.SetACME(t.Context(), l.note, set); err != nil {
		t.Fatal(err)
	}
	l.tick(t.Context())
	l.obtained(t, p.pool(t), name, "portal.example.test")

	// A name that the server does not certify leaves what there is.
	l.now = l.now.Add(firstWait + time.Minute)
	set.Names = []string{name, "blocked.example.test"}
	if err := l.SetACME(t.Context(), l.note, set); err != nil {
		t.Fatal(err)
	}
	l.tick(t.Context())
	st := l.State(t.Context())
	if st.ACME.Problem == "" || !st.Shown || !slices.Equal(st.Certificate.Names, []string{name, "portal.example.test"}) {
		t.Errorf("%+v", st.ACME)
	}
}

// obtained verifies what a browser is shown, under pebble's root alone.
func (l *lab) obtained(t *testing.T, roots *x509.CertPool, names ...string) *x509.Certificate {
	t.Helper()
	st := l.State(t.Context())
	if st.Certificate == nil || st.Certificate.Source != ACME || st.ACME.Problem != "" {
		t.Fatalf("not obtained: %+v %+v", st, st.ACME)
	}
	var got *x509.Certificate
	for _, n := range names {
		conn, err := tls.Dial("tcp", l.at, &tls.Config{ServerName: n, RootCAs: roots, NextProtos: []string{"h2", http11}})
		if err != nil {
			t.Fatal(err)
		}
		got = conn.ConnectionState().PeerCertificates[0]
		_ = conn.Close()
	}
	// The proof is gone, and nobody is shown it any more.
	if conn, err := tls.Dial("tcp", l.at, &tls.Config{ServerName: names[0], InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}); err == nil {
		_ = conn.Close()
		t.Error("a proof is still shown")
	}
	return got
}

// TestPebbleProves: a name whose proof is somewhere else is not certified: the server really
// looks. With an external account alone it talks to anybody.
func TestPebbleProves(t *testing.T) {
	l := newLab(t)
	other := newLab(t)
	s := other.serve(t) // a gateway that has no proof
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	p := startPebble(t, port, map[string]any{"externalAccountBindingRequired": true,
		"externalAccountMACKeys": map[string]string{"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}})
	set := ACMESettings{Directory: p.url + "/dir", Agreed: true, Roots: p.roots}
	l.now = time.Now()
	tries := func(want string) {
		t.Helper()
		l.now = l.now.Add(2 * time.Minute) // settings that are new wait for one
		if err := l.SetACME(t.Context(), l.note, set); err != nil {
			t.Fatal(err)
		}
		l.tick(t.Context())
		if st := l.State(t.Context()); !strings.Contains(st.ACME.Problem, want) || st.Certificate != nil {
			t.Errorf("%q, want %q", st.ACME.Problem, want)
		}
	}
	tries("external account")
	set.KeyID, set.MAC = "kid-1", "b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH"
	tries("making an account")
	set.MAC = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	set.Directory += "?" // another server, as far as the gateway knows: a new account
	tries("proving " + name)
}
