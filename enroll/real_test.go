package enroll_test

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"lazaret/enroll"
	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/firewall"
	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/pki"
	"lazaret/quarantine"
)

// nothing is an Enforcer without a kernel.
type nothing struct{}

func (nothing) Apply(context.Context, quarantine.Entry) error       { return nil }
func (nothing) Replace(context.Context, quarantine.Plan) error      { return nil }
func (nothing) Refresh(context.Context, quarantine.Freshness) error { return nil }

type deaf struct{}

func (deaf) Audit(context.Context, enroll.Event) error { return nil }

type pocket struct{ keys client.Keys }

func (p pocket) Keys(context.Context) (client.Keys, error)  { return p.keys, nil }
func (p pocket) Save(context.Context, *client.Result) error { return nil }

func newPocket(t *testing.T) pocket {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wg, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pocket{client.Keys{Certificate: key, WireGuard: wg}}
}

var root = quarantine.Actor{Kind: "administrator", Name: "root"}

// must ends the test unless err is nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRealStoreAndGate: the desk between the client of the agent, etcd and the gate.
func TestRealStoreAndGate(t *testing.T) {
	ctx := t.Context()
	ring, log := seal.New(), slog.New(slog.DiscardHandler)
	s, err := store.Open(ctx, store.Config{Dir: filepath.Join(t.TempDir(), "etcd"), AuditDir: t.TempDir(), Ring: ring, Gateway: "gw1", Ballast: -1})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	for _, p := range []quarantine.Pool{
		{Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.10.0.0/16"),
			Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 443}}},
		{Name: "full", IPv4: netip.MustParsePrefix("10.20.0.0/16")},
	} {
		_, err := s.PoolTable().Put(ctx, root, store.Item[quarantine.Pool]{Name: p.Name, Value: p})
		must(t, err)
	}
	for _, p := range []quarantine.Profile{{Name: "plain", Pool: "full"}, {Name: "skip", Pool: "full", SkipQuarantine: true}} {
		_, err := s.ProfileTable().Put(ctx, root, store.Item[quarantine.Profile]{Name: p.Name, Value: p})
		must(t, err)
	}
	gate := newGate(t, s)
	desk, url := newDesk(t, s, gate, ring, log)
	c, err := client.New(client.Config{Server: url, Log: log, Attempts: 1})
	must(t, err)
	create := func(r enroll.Request) func(pocket) (*client.Result, error) {
		t.Helper()
		otp, _, err := desk.CreateOTP(ctx, root, r)
		must(t, err)
		return func(p pocket) (*client.Result, error) { return c.Enroll(ctx, otp, p) }
	}

	first := newPocket(t)
	use := create(enroll.Request{User: "anna@example.com", Profile: "plain", Name: "laptop"})
	result, err := use(first)
	must(t, err)
	id := quarantine.ID(result.Certificate.Subject.CommonName)
	r, err := s.Device(ctx, id)
	must(t, err)
	if r.Stage != quarantine.Quarantined || r.Seat != 1 || !r.Proven || r.Name != "laptop" {
		t.Errorf("recorded %+v", r.Device)
	}
	again, err := use(first)
	if err != nil || !again.Certificate.Equal(result.Certificate) {
		t.Errorf("asked again: %v", err)
	}
	if _, err := use(newPocket(t)); err == nil {
		t.Error("a second device enrolled by the same code")
	}

	routed, err := create(enroll.Request{User: "anna@example.com", Profile: "skip", Name: "laptop"})(newPocket(t))
	must(t, err)
	if routed.Settings.Name != "laptop-2" || len(routed.Settings.Full.Addresses) != 1 || routed.Settings.Full.Addresses[0] != netip.MustParsePrefix("10.20.0.3/32") {
		t.Errorf("settings %+v", routed.Settings)
	}

	renewal := newPocket(t)
	next, err := c.Renew(ctx, result, first.keys.Certificate, renewal)
	must(t, err)
	if r, err = s.Device(ctx, id); err != nil || r.Certificate.SPKI != pki.CertificateSPKISum(next.Certificate) || r.Next.IsZero() {
		t.Errorf("renewed as %+v (%v)", r, err)
	}

	replaced, err := create(enroll.Request{User: "anna@example.com", Profile: "plain", Device: id})(newPocket(t))
	must(t, err)
	if r, err = s.Device(ctx, id); err != nil || r.Seat != 1 || r.Name != "laptop" || string(r.ID) != replaced.Certificate.Subject.CommonName {
		t.Errorf("enrolled again as %+v (%v)", r.Device, err)
	}
	if _, err := c.Renew(ctx, next, renewal.keys.Certificate, newPocket(t)); err == nil {
		t.Error("a retired certificate was renewed")
	}
	otps, err := desk.ListOTPs(ctx)
	if err != nil || len(otps) != 3 {
		t.Fatalf("%d OTPs, %v", len(otps), err)
	}
	for _, o := range otps {
		if o.State != enroll.Confirmed {
			t.Errorf("OTP %s is %s", o.Reference, o.State)
		}
	}
}

func newGate(t *testing.T, s *store.Store) *quarantine.Gate {
	t.Helper()
	journal, err := quarantine.OpenJournal(filepath.Join(t.TempDir(), "tightenings"))
	must(t, err)
	gate, err := quarantine.NewGate(quarantine.Config{Store: s, Enforcer: nothing{}, Journal: journal, Policy: quarantine.PlainPolicy{}, Control: "test", Gateway: "gw1"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("gate: %v", err)
		}
	})
	<-gate.Ready()
	return gate
}

func newDesk(t *testing.T, s *store.Store, gate *quarantine.Gate, ring *seal.Ring, log *slog.Logger) (*enroll.Desk, string) {
	t.Helper()
	h, err := pki.NewHierarchy(pki.HierarchyConfig{Organization: "Test"})
	must(t, err)
	a, err := pki.New(pki.Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators})
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf, err := a.Issue(t.Context(), pki.Request{Kind: pki.Server, PublicKey: key.Public(), CommonName: "gw1", DNSNames: []string{"gw1.example.com"}, NotAfter: time.Now().Add(time.Hour)})
	must(t, err)
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	proof, err := ecdh.X25519().GenerateKey(rand.Reader)
	must(t, err)
	desk, err := enroll.New(enroll.Config{
		Store: s, Issuer: a, Gate: gate, Organization: s, Sealer: ring, Audit: deaf{}, Log: log,
		Responder: func() enroll.Responder {
			return enroll.Responder{Key: h.Responder.Key, Certs: []*x509.Certificate{h.Responder.Certificate, a.Issuing(pki.Responder)}}
		},
		ProofKeys: []enroll.ProofKey{{ID: "p1", Key: proof}},
		Gateways:  func() []cmp.Gateway { return nil }, ListenerKeys: func() [][]byte { return [][]byte{sum[:]} }, Exporter: true,
	})
	must(t, err)
	srv := httptest.NewUnstartedServer(desk)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, a.Issuing(pki.Server).Raw}, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return desk, srv.URL
}
