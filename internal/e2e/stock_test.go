package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/agentapi"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// stock is a device that has `openssl cmp` and a WireGuard app, and nothing of ours.
type stock struct {
	t       testing.TB
	g       *gateway
	host    *testnet.Host
	program string
	dir     string
	wg      tunnel.PrivateKey
}

func newStock(t testing.TB, g *gateway, h *testnet.Host) *stock {
	t.Helper()
	s := &stock{t: t, g: g, host: h, program: testneed.Program(t, "openssl"), dir: t.TempDir(), wg: newWireGuardKey(t)}
	root, err := os.ReadFile(filepath.Join(g.admin, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("root.pem", root)
	s.want(s.wg.Public())
	return s
}

func (s *stock) write(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stock) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// want writes the configuration of a request for a certificate that names the WireGuard
// key, and whatever else is asked for.
func (s *stock) want(key tunnel.Key, more ...string) {
	s.t.Helper()
	lines := append([]string{"[req]", "distinguished_name=dn", "prompt=no", "[dn]", "CN=stock", "[cmp]", "[wg]"}, more...)
	if !strings.Contains(strings.Join(more, " "), "subjectAltName") {
		lines = append(lines, "subjectAltName=URI:"+cmp.WireGuardURI(key))
	}
	s.write("req.cnf", []byte(strings.Join(lines, "\n")+"\n"))
}

// run runs openssl on the device's host.
func (s *stock) run(args ...string) (string, error) {
	s.t.Helper()
	p, err := s.host.Start(soon(s.t), testnet.Spec{Path: s.program, Args: args, Dir: s.dir, Env: []string{"no_proxy=*"}})
	if err != nil {
		s.t.Fatal(err)
	}
	err = p.Wait(soon(s.t))
	return p.Output(), err
}

func (s *stock) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s *stock) makeKey(name string) {
	s.t.Helper()
	s.must("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name)
}

// cmp runs one transaction and returns what it printed; want is "" for success, else
// what the refusal must say.
func (s *stock) cmp(want string, args ...string) {
	s.t.Helper()
	out, err := s.run(append([]string{"cmp", "-config", "req.cnf", "-section", "cmp", "-server", s.g.outer.String() + ":443",
		"-path", ".well-known/cmp", "-tls_used", "-unprotected_errors", "-total_timeout", "20"}, args...)...)
	switch {
	case want == "" && err != nil:
		s.t.Fatalf("openssl cmp %s: %v\n%s", strings.Join(args, " "), err, out)
	case want != "" && (err == nil || !strings.Contains(out, want)):
		s.t.Errorf("openssl cmp %s: %v; want a failure with %q:\n%s", strings.Join(args, " "), err, want, out)
	}
}

// as are the arguments that say which one-time password is used.
func as(t testing.TB, text string) []string {
	t.Helper()
	c, err := code.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-ref", c.Reference, "-secret", "pass:" + c.Secret}
}

// ir and p10cr ask for a certificate for a key, in the two ways.
func (s *stock) ir(key, out, text string) []string {
	return append([]string{"-cmd", "ir", "-newkey", key, "-subject", "/CN=stock", "-reqexts", "wg", "-certout", out,
		"-cacertsout", out + ".root", "-extracertsout", out + ".issuer"}, as(s.t, text)...)
}

func (s *stock) p10cr(key, out, text string) []string {
	s.t.Helper()
	s.must("req", "-new", "-config", "req.cnf", "-reqexts", "wg", "-key", key, "-out", key+".csr")
	return append([]string{"-cmd", "p10cr", "-csr", key + ".csr", "-certout", out, "-cacertsout", out + ".root", "-extracertsout", out + ".issuer"}, as(s.t, text)...)
}

func (s *stock) certificate(name string) *x509.Certificate {
	s.t.Helper()
	block, _ := pem.Decode(s.read(name))
	if block == nil {
		s.t.Fatalf("%s holds no certificate", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// tls is what the device shows as a TLS client.
func (s *stock) tls(cert, key string) tls.Certificate {
	s.t.Helper()
	pair, err := tls.X509KeyPair(append(s.read(cert), s.read("dev.crt.issuer")...), s.read(key))
	if err != nil {
		s.t.Fatal(err)
	}
	return pair
}

// otherSecret is the code with another secret.
func otherSecret(t testing.TB, text string) []string {
	t.Helper()
	args := as(t, text)
	secret := strings.TrimPrefix(args[3], "pass:")
	other := map[bool]string{true: "1", false: "0"}[secret[0] == '0'] + secret[1:]
	return []string{"-ref", args[1], "-secret", "pass:" + other}
}

// TestStockClient is M3 to M6 for a device with nothing of ours on it: it enrolls, asks
// again, is refused with another key, and renews; it cannot be released before it has
// shown that it holds its WireGuard key, by one request from its own address.
func TestStockClient(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	for i, kind := range []string{"ir", "p10cr"} {
		host := []*testnet.Host{theLab(t).Dev1, theLab(t).Dev2}[i] // failures are counted by address
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			user := kind + "@example.com"
			s := newStock(t, g, host)
			s.makeKey("dev.key")
			s.makeKey("other.key")
			o := g.otp(t, api.OTPRequest{User: user})
			ask := map[string]func(key, out, text string) []string{"ir": s.ir, "p10cr": s.p10cr}[kind]

			s.cmp("badMessageCheck", append(ask("dev.key", "wrong.crt", o.Code), otherSecret(t, o.Code)...)...)
			if n := len(g.of(t, user)); n != 0 || g.otpState(t, o.Reference) != "pending" {
				t.Fatalf("after a wrong secret: %d devices, the password is %s", n, g.otpState(t, o.Reference))
			}
			s.cmp("", ask("dev.key", "dev.crt", o.Code)...)
			s.must("verify", "-CAfile", "root.pem", "-untrusted", "dev.crt.issuer", "-purpose", "sslclient", "dev.crt")
			if !bytes.Equal(s.certificate("dev.crt.root").Raw, s.certificate("root.pem").Raw) {
				t.Error("the client was given another root than lazaretd init made")
			}
			s.cmp("", ask("dev.key", "again.crt", o.Code)...)
			if !bytes.Equal(s.read("again.crt"), s.read("dev.crt")) {
				t.Error("asking again gave another certificate")
			}
			s.cmp("duplicateCertReq", ask("other.key", "other.crt", o.Code)...)
			if d := g.one(t, user); d.ID != s.certificate("dev.crt").Subject.CommonName {
				t.Fatalf("the device is %s, and the certificate names another", d.ID)
			}
			s.renews()
			s.proves(user)
		})
	}
}

// renews re-keys with kur, and the API shows the new certificate.
func (s *stock) renews() {
	s.t.Helper()
	s.makeKey("new.key")
	s.cmp("", "-cmd", "kur", "-cert", "dev.crt", "-key", "dev.key", "-newkey", "new.key", "-reqexts", "wg",
		"-trusted", "root.pem", "-untrusted", "dev.crt.issuer", "-certout", "new.crt")
	old, renewed := s.certificate("dev.crt"), s.certificate("new.crt")
	if bytes.Equal(old.RawSubjectPublicKeyInfo, renewed.RawSubjectPublicKeyInfo) || old.Subject.CommonName != renewed.Subject.CommonName {
		s.t.Errorf("renewed %s as %s", old.Subject, renewed.Subject)
	}
	until(s.t, "the API shows the renewal", func() bool { return s.g.show(s.t, old.Subject.CommonName).Certificate != hexSerial(old) })
	if d := s.g.show(s.t, old.Subject.CommonName); !strings.EqualFold(d.Certificate, hexSerial(renewed)) || d.Proven {
		s.t.Errorf("after the renewal the API shows certificate %s, proven %v; want %s, unproven", d.Certificate, d.Proven, hexSerial(renewed))
	}
}

// proves goes from unproven to released.
func (s *stock) proves(user string) {
	t, g := s.t, s.g
	t.Helper()
	a := g.one(t, user)
	if a.Proven || a.Stage != "quarantined" {
		t.Fatalf("a stock client's device is %s, proven %v", a.Stage, a.Proven)
	}
	d := &device{g: g, host: s.host, wg: s.wg, id: a.ID}
	d.openAt(t, a.Seat)
	if stage := g.reported(t, a.ID, "compliant"); stage != "quarantined" {
		t.Errorf("an unproven device was %s by a report", stage)
	}
	e := g.explain(t, a.ID)
	if e.Decided.Stage != "quarantined" || !unmet(e, "proof") || e.Decided.Reasons[0].Rule != "proof" {
		t.Errorf("explain does not say that the proof is missing: %+v", e.Decided)
	}
	if !d.shut(t) {
		t.Error("an unproven device reached the intranet")
	}

	// A certificate that was replaced proves nothing, nor does another's address.
	for name, try := range map[string]func() (answered, error){
		"the old certificate": func() (answered, error) {
			return d.agentAPI(soon(t), t, d.quarantine, s.tls("dev.crt", "dev.key"), "GET", agentapi.StatusPath, nil, nil)
		},
		"from the full pool's address": func() (answered, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // nothing answers there
			defer cancel()
			return d.agentAPI(ctx, t, d.full, s.tls("new.crt", "new.key"), "GET", agentapi.StatusPath, nil, nil)
		},
	} {
		if a, err := try(); err == nil && a.status < 400 {
			t.Errorf("with %s: %s", name, a)
		}
	}
	if g.show(t, a.ID).Proven {
		t.Fatal("proven by a request that was refused")
	}
	var st agentapi.Status
	got, err := d.agentAPI(soon(t), t, d.quarantine, s.tls("new.crt", "new.key"), "GET", agentapi.StatusPath, nil, &st)
	if err != nil || got.status != http.StatusOK || st.Device != a.ID {
		t.Fatalf("the agent API from inside the tunnel: %s, %v", got, err)
	}
	if !g.show(t, a.ID).Proven {
		t.Error("still unproven after a request with the certificate from its own address")
	}
	// The report that could not release it stands, and releases it now.
	until(t, a.ID+" is routed", func() bool { return g.show(t, a.ID).Stage == "routed" })
	if !d.routed(t) {
		t.Error("released, but no packet reaches the intranet")
	}
	if stage := g.reported(t, a.ID, "noncompliant"); stage != "quarantined" {
		t.Errorf("%s after a bad report", stage)
	}
	if !d.shut(t) {
		t.Error("reached the intranet after a bad report")
	}
}

// unmet says whether a rule stands among the reasons and speaks against routing.
func unmet(e api.Explanation, rule string) bool {
	return slices.ContainsFunc(e.Decided.Reasons, func(r api.Reason) bool { return r.Rule == rule && !r.Holds })
}

// hexSerial is a serial number as the API writes it.
func hexSerial(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber.Bytes()) }
