package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/internal/config"
	"lazaret/internal/making"
)

// claimOf is what a claimant with a new key asks for.
func claimOf(t *testing.T) (making.Request, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := claim.NewRequest(claim.Request{Setup: appliance.Setup{
		Organization: "Example", EnrollNames: []string{"gw.example.com"}, Management: []string{"192.0.2.10 tcp/443"},
	}, APINames: []string{"127.0.0.1"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := claim.ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	return making.Request{Claim: r, Network: appliance.Automatic(), Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24"), netip.MustParsePrefix("fe80::1/64")}}, key
}

func placesIn(dir string) making.Places {
	return making.Places{Config: filepath.Join(dir, "config", "lazaretd.toml"), State: filepath.Join(dir, "lazaret"), Plane: filepath.Join(dir, "dataplane")}
}

// made makes a gateway through the pipes that process number 1 uses.
func made(t *testing.T, q making.Request, at making.Places) (making.Made, error) {
	t.Helper()
	in, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := ServeMake(t.Context(), bytes.NewReader(in), &out, at, silent); err != nil {
		t.Fatal(err)
	}
	steps := 0
	m, err := making.ReadMade(&out, func(string) { steps++ })
	if err == nil && steps == 0 {
		t.Error("made without a step")
	}
	return m, err
}

// TestClaimedGatewayServes: a gateway that a claim made starts, and knows the key that the
// claimant kept as its administrator's; its API is for the networks the machine is on.
func TestClaimedGatewayServes(t *testing.T) {
	at := placesIn(t.TempDir())
	q, key := claimOf(t)
	m, err := made(t, q, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at.Config); err == nil {
		t.Error("there is a configuration before anybody said that the answer is kept")
	}
	if err := making.Keep(at, m.Config); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(at.Config)
	if err != nil {
		t.Fatal(err)
	}
	nets := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if !slices.Equal(c.API.From, nets) || !slices.Equal(c.Firewall.Admin, nets) || !slices.Equal(c.Dataplane.ControlUser, []uint32{901}) || !c.Portal.Serve || !c.Resolver.Serve {
		t.Errorf("API from %v, admin %v, driven by %v, portal %v, resolver %v", c.API.From, c.Firewall.Admin, c.Dataplane.ControlUser, c.Portal.Serve, c.Resolver.Serve)
	}
	if m.Answer.API != "https://127.0.0.1:8443" || m.Answer.Enroll != "https://gw.example.com" || !strings.HasPrefix(m.Answer.Token, "lzt_") {
		t.Errorf("answer %s, %s", m.Answer.API, m.Answer.Enroll)
	}

	c, stop := served(t, c)
	if got := apiStatus(t, c, m.Answer, key); got != http.StatusOK {
		t.Errorf("the administrator's certificate gets %d", got)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got := apiStatus(t, c, m.Answer, other); got == http.StatusOK {
		t.Error("the certificate works with another key")
	}
	stop()
}

// served runs a made gateway's control plane as it is, but on free ports of loopback, which
// the configuration returned names, until stop.
func served(t *testing.T, c config.Config) (config.Config, func()) {
	t.Helper()
	local := netip.MustParseAddr("127.0.0.1")
	c.API.From = []netip.Prefix{netip.PrefixFrom(local, 32)}
	c.Portal.Serve, c.Resolver.Serve = false, false
	c.Dataplane.Socket = filepath.Join(t.TempDir(), "none.sock")
	c.API.Listen, c.Enroll.Listen = []netip.AddrPort{freePort(t)}, []netip.AddrPort{freePort(t)}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Serve(ctx, c, "test", silent, func() { close(ready) }) }()
	select {
	case err := <-done:
		cancel()
		t.Fatal(err)
	case <-ready:
	}
	return c, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// apiStatus is what the API answers to an administrator's credential; 0: nothing.
func apiStatus(t *testing.T, c config.Config, a claim.Answer, key *ecdsa.PrivateKey) int {
	t.Helper()
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(a.Root)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{{Certificate: a.Administrator, PrivateKey: key}},
	}}}
	resp, err := client.Get("https://" + c.API.Listen[0].String() + "/api/v1/status")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// freePort is a port of loopback that nobody has at this moment.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestHalfMadeIsMadeAnew: what was handed to nobody gives way, and nothing else does.
func TestHalfMadeIsMadeAnew(t *testing.T) {
	at := placesIn(t.TempDir())
	q, _ := claimOf(t)
	first, err := made(t, q, at)
	if err != nil {
		t.Fatal(err)
	}
	second, err := made(t, q, at) // as after a restart: the first was not kept
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first.Answer.Root, second.Answer.Root) {
		t.Error("the second attempt has the first one's authorities")
	}
	if err := making.Keep(at, second.Config); err != nil {
		t.Fatal(err)
	}
	if err := making.Keep(at, second.Config); err != nil {
		t.Errorf("keeping it again: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(at.State, making.HalfMade)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mark of a gateway made by half: %v", err)
	}
	before := listing(t, at.State)
	if _, err := made(t, q, at); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("made over a gateway that is there: %v", err)
	}
	// Stopped between the file and the mark: the file counts.
	if err := os.WriteFile(filepath.Join(at.State, making.HalfMade), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := made(t, q, at); err == nil {
		t.Error("a mark beside a configuration let the gateway be made anew")
	}
	if err := os.Remove(filepath.Join(at.State, making.HalfMade)); err != nil {
		t.Fatal(err)
	}
	// The file lost, but no mark: somebody's gateway.
	if err := os.Remove(at.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := made(t, q, at); err == nil {
		t.Error("made over a gateway that lost its configuration")
	}
	if after := listing(t, at.State); !slices.Equal(before, after) {
		t.Errorf("the gateway that was there has changed: %v, %v", before, after)
	}
}

// listing is every file below a directory.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		out = append(out, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestClaimsThatCannotBeMade are refused before anything is made.
func TestClaimsThatCannotBeMade(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*making.Request)
		field  string
	}{
		"no network":     {func(q *making.Request) { q.Addresses = nil }, "admin_networks"},
		"long name":      {func(q *making.Request) { q.Claim.Setup.Name = strings.Repeat("a", 40) }, "name"},
		"bad management": {func(q *making.Request) { q.Claim.Setup.Management = []string{"nowhere"} }, "management"},
		"proxy by name":  {func(q *making.Request) { q.Claim.Setup.Proxy = "http://proxy.example.com:3128" }, "proxy"},
		"overlap": {func(q *making.Request) {
			q.Claim.Setup.Full = []netip.Prefix{netip.MustParsePrefix("10.66.8.0/24")}
		}, ""},
		"no key": {func(q *making.Request) { q.Claim.CSR = q.Claim.CSR[:40] }, ""},
	} {
		at := placesIn(t.TempDir())
		q, _ := claimOf(t)
		x.change(&q)
		_, err := made(t, q, at)
		refusal, ok := errors.AsType[*claim.Refusal](err)
		if !ok || refusal.Kind != claim.Invalid {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if x.field != "" && !slices.ContainsFunc(refusal.Faults, func(f claim.Fault) bool { return f.Field == x.field }) {
			t.Errorf("%s: the faults are %v", name, refusal.Faults)
		}
		if _, err := os.Lstat(at.State); err == nil {
			t.Errorf("%s: something was made", name)
		}
	}
}

// TestDefaultPoolsAreSound: the prefixes that stand where none are given make pools.
func TestDefaultPoolsAreSound(t *testing.T) {
	o := gatewayOptions(t.TempDir())
	o.Quarantine, o.Full = appliance.DefaultQuarantine, appliance.DefaultFull
	if _, err := firstPools(o); err != nil {
		t.Error(err)
	}
}
