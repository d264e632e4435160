package enroll

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/internal/testneed"
	"lazaret/pki"
	"lazaret/quarantine"
)

// stock drives `openssl cmp` against a desk behind TLS 1.3.
type stock struct {
	t       *testing.T
	g       *gateway
	program string
	dir     string
	server  string
}

func newStock(t *testing.T, change ...func(*Config)) *stock {
	s := &stock{t: t, program: testneed.Program(t, "openssl"), dir: t.TempDir()}
	s.g = newGateway(t, append(change, func(c *Config) { c.Clock = time.Now; c.Exporter = true })...)
	u, err := url.Parse(s.g.serve(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	s.server = u.Host
	s.write("root.pem", "CERTIFICATE", s.g.hierarchy.Root.Certificate.Raw)
	return s
}

func (s *stock) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stock) write(name, kind string, der []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stock) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
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

// config writes an OpenSSL configuration that asks for the device's WireGuard key.
func (s *stock) config(d *device) {
	s.t.Helper()
	text := "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=stock\n[cmp]\n[wg]\nsubjectAltName=URI:" + cmp.WireGuardURI(d.public()) + "\n"
	if err := os.WriteFile(s.path("req.cnf"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// openssl runs the program in the directory of this test.
func (s *stock) openssl(args ...string) (string, error) {
	c := exec.CommandContext(s.t.Context(), s.program, args...)
	c.Dir = s.dir
	c.Env = append(os.Environ(), "no_proxy=*")
	out, err := c.CombinedOutput()
	return string(out), err
}

// cmp runs one transaction; want is "" for success, else part of what it must print.
func (s *stock) cmp(want string, args ...string) {
	s.t.Helper()
	out, err := s.openssl(append([]string{"cmp", "-config", "req.cnf", "-section", "cmp", "-server", s.server, "-path", Path, "-tls_used",
		"-unprotected_errors", "-total_timeout", "20"}, args...)...)
	_, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err != nil && !failed:
		s.t.Fatal(err)
	case want == "" && failed:
		s.t.Fatalf("openssl cmp %s: %v\n%s", strings.Join(args, " "), err, out)
	case want != "" && (!failed || !strings.Contains(out, want)):
		s.t.Errorf("openssl cmp %s: %v, want a failure with %q:\n%s", strings.Join(args, " "), err, want, out)
	}
}

func (s *stock) key(name string) {
	s.t.Helper()
	if out, err := s.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
}

func TestStockOpenSSL(t *testing.T) {
	for _, mac := range []string{"hmac-sha1", "hmacWithSHA256"} {
		for _, kind := range []string{"ir", "cr", "p10cr"} {
			t.Run(kind+" with "+mac, func(t *testing.T) {
				t.Parallel()
				s := newStock(t)
				d := s.g.device(t, Request{User: "anna@example.com"})
				s.config(d)
				s.key("dev.key")
				s.key("other.key")
				for _, key := range []string{"dev", "other"} {
					if out, err := s.openssl("req", "-new", "-config", "req.cnf", "-reqexts", "wg", "-key", key+".key", "-out", key+".csr"); err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
				}
				as := []string{"-ref", d.code.Reference, "-secret", "pass:" + d.code.Secret}
				if mac != "hmac-sha1" { // 3.0's default
					as = append(as, "-mac", mac)
				}
				ask := func(key, out string) []string {
					args := append([]string{"-cmd", kind, "-certout", out, "-cacertsout", "ca.pem", "-extracertsout", "extra.pem"}, as...)
					if kind == "p10cr" {
						return append(args, "-csr", key+".csr")
					}
					return append(args, "-newkey", key+".key", "-subject", "/CN=stock", "-reqexts", "wg")
				}

				wrong := ask("dev", "wrong.crt")
				s.cmp("badMessageCheck", append(wrong, "-secret", "pass:0123456789ABCDEF")...)
				s.cmp("badMessageCheck", append(wrong, "-ref", "ZZZZZZZZ")...)
				if s.g.made.issued.Load() != 0 {
					t.Fatal("a certificate was signed")
				}
				s.cmp("", append([]string{"-cmd", "genm", "-infotype", "caCerts"}, as...)...)

				s.cmp("", ask("dev", "dev.crt")...)
				cert := s.certificate("dev.crt")
				if len(cert.URIs) != 1 || cert.URIs[0].String() != cmp.WireGuardURI(d.public()) {
					t.Errorf("URIs %v", cert.URIs)
				}
				if out, err := s.openssl("verify", "-CAfile", "root.pem", "-untrusted", "extra.pem", "dev.crt"); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				if got := s.certificate("ca.pem"); !got.Equal(s.g.hierarchy.Root.Certificate) {
					t.Error("caPubs is not the root")
				}
				r, err := s.g.store.Device(t.Context(), quarantine.ID(cert.Subject.CommonName))
				if err != nil || r.Stage != quarantine.Quarantined || r.Proven || !r.Confirmed {
					t.Errorf("a stock client's device is %s, proven %v, confirmed %v (%v); want it quarantined, unproven, confirmed", r.Stage, r.Proven, r.Confirmed, err)
				}

				s.cmp("", ask("dev", "again.crt")...)
				if !bytes.Equal(s.read("again.crt"), s.read("dev.crt")) {
					t.Error("asking again yielded another certificate")
				}
				s.cmp("duplicateCertReq", ask("other", "other.crt")...)
				if n := s.g.made.issued.Load(); n != 1 || s.g.store.live() != 1 {
					t.Errorf("%d signed, %d devices; want 1 and 1", n, s.g.store.live())
				}

				if _, err := s.g.store.Revoke(t.Context(), administrator, r.ID, "lost"); err != nil {
					t.Fatal(err)
				}
				s.cmp("certRevoked", ask("dev", "revoked.crt")...)
			})
		}
	}
}

func TestStockOpenSSLRenews(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		s := newStock(t)
		d := s.g.device(t, Request{})
		s.config(d)
		s.key("dev.key")
		s.key("new.key")
		s.cmp("", "-cmd", "ir", "-ref", d.code.Reference, "-secret", "pass:"+d.code.Secret, "-newkey", "dev.key", "-subject", "/CN=stock",
			"-reqexts", "wg", "-certout", "dev.crt", "-extracertsout", "extra.pem")
		kur := func(out string, more ...string) []string {
			args := []string{"-cmd", "kur", "-cert", "dev.crt", "-key", "dev.key", "-newkey", "new.key", "-reqexts", "wg",
				"-trusted", "root.pem", "-untrusted", "extra.pem", "-certout", out}
			if implicit {
				args = append(args, "-implicit_confirm")
			}
			return append(args, more...)
		}
		s.cmp("", kur("new.crt")...)
		old, renewed := s.certificate("dev.crt"), s.certificate("new.crt")
		if renewed.Subject.CommonName != old.Subject.CommonName || renewed.URIs[0].String() != old.URIs[0].String() || sha256.Sum256(renewed.RawSubjectPublicKeyInfo) == sha256.Sum256(old.RawSubjectPublicKeyInfo) {
			t.Errorf("renewed %v %v as %v %v", old.Subject, old.URIs, renewed.Subject, renewed.URIs)
		}
		r, err := s.g.store.Device(t.Context(), quarantine.ID(renewed.Subject.CommonName))
		if err != nil || r.Certificate.SPKI != pki.CertificateSPKISum(renewed) {
			t.Errorf("the record does not hold the new key (%v)", err)
		}

		s.cmp("badRequest", "-cmd", "rr", "-cert", "new.crt", "-key", "new.key", "-oldcert", "new.crt", "-trusted", "root.pem", "-untrusted", "extra.pem", "-revreason", "1")
		if _, err := s.g.store.change(r.ID, quarantine.Change{Kind: quarantine.Block, By: administrator}); err != nil {
			t.Fatal(err)
		}
		s.cmp("signerNotTrusted", kur("blocked.crt", "-cert", "new.crt", "-key", "new.key")...)
	}
}

func TestStockOpenSSLInStrictMode(t *testing.T) {
	s := newStock(t, func(c *Config) { c.AllowSHA1 = false })
	d := s.g.device(t, Request{})
	s.config(d)
	s.key("dev.key")
	ask := []string{"-cmd", "ir", "-ref", d.code.Reference, "-secret", "pass:" + d.code.Secret, "-newkey", "dev.key", "-subject", "/CN=stock", "-reqexts", "wg", "-certout", "dev.crt"}
	s.cmp("badAlg", ask...)
	s.cmp("", append(ask, "-mac", "hmacWithSHA512", "-digest", "sha512")...)
}
