package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// serve puts the desk behind TLS 1.3 with a listener certificate of the gateway's own.
func (g *gateway) serve(t testing.TB) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := g.made.Authority.Issue(t.Context(), pki.Request{
		Kind: pki.Server, PublicKey: key.Public(), CommonName: "gateway", DNSNames: []string{"gateway.example.com"}, NotAfter: time.Now().Add(hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	g.config.ListenerKeys = func() [][]byte { return [][]byte{sum[:]} }
	g.restart(t)
	srv := httptest.NewUnstartedServer(g)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{
		Certificate: [][]byte{leaf.Raw, g.made.Issuing(pki.Server).Raw}, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// pocket is a device's store in memory.
type pocket struct {
	keys   client.Keys
	result *client.Result
}

func (p *pocket) Keys(context.Context) (client.Keys, error) { return p.keys, nil }

func (p *pocket) Save(_ context.Context, r *client.Result) error {
	p.result = r
	return nil
}

// TestOwnClient: the device's half and the desk, over a real connection.
func TestOwnClient(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Clock = time.Now; c.Exporter = true; c.AllowSHA1 = false })
	srv := g.serve(t)
	d := g.device(t, Request{Serial: "C02X1", Profile: "linux", Ownership: "corporate"})
	c, err := client.New(client.Config{Server: srv.URL, Log: slog.New(slog.DiscardHandler), Attempts: 1,
		Claim: &cmp.Claim{Version: 1, Serial: "C02X1", Platform: "linux"}})
	if err != nil {
		t.Fatal(err)
	}
	p := &pocket{keys: client.Keys{Certificate: d.key, WireGuard: d.tunnel}}

	wrong := code.Code{Reference: d.code.Reference, Secret: "0A1B000000000000"}
	if _, err := c.Enroll(t.Context(), wrong, p); err == nil || !errors.Is(err, client.ErrRefused) && !errors.Is(err, client.ErrInBetween) {
		t.Errorf("with a wrong code: %v", err)
	}
	r, err := c.Enroll(t.Context(), d.code, p)
	if err != nil {
		t.Fatal(err)
	}
	record := d.record(r.Certificate)
	if !record.Proven || !record.Confirmed || record.Stage != quarantine.Quarantined || record.Serial != "C02X1" || p.result != r {
		t.Errorf("record %+v", record)
	}
	if !r.Root.Equal(g.hierarchy.Root.Certificate) || r.Settings.Device != string(record.ID) {
		t.Errorf("result %+v", r.Settings)
	}
	again, err := c.Enroll(t.Context(), d.code, p)
	if err != nil || !again.Certificate.Equal(r.Certificate) {
		t.Errorf("asked again: another certificate, or %v", err)
	}

	key := d.key
	d.moveOn(true, true)
	p.keys = client.Keys{Certificate: d.key, WireGuard: d.tunnel}
	next, err := c.Renew(t.Context(), r, key, p)
	if err != nil {
		t.Fatal(err)
	}
	renewed := d.record(next.Certificate)
	if renewed.ID != record.ID || renewed.Next != tunnel.Key(d.public()) || renewed.Certificate.SPKI != pki.CertificateSPKISum(next.Certificate) {
		t.Errorf("renewed as %+v", renewed)
	}
	if _, err := g.store.Revoke(t.Context(), administrator, record.ID, "lost"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Renew(t.Context(), next, d.key, p); err == nil {
		t.Error("a revoked device renewed its certificate")
	}
}
