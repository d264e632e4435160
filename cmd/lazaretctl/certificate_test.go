package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// certificateLab is a gateway's API as far as its server certificate goes.
type certificateLab struct {
	t    *testing.T
	dir  string
	asks []string
	set  api.CertificateSet
	acme api.CertificateACMESet
}

func newCertificateLab(t *testing.T) *certificateLab {
	l := &certificateLab{t: t, dir: t.TempDir()}
	srv := httptest.NewTLSServer(l)
	t.Cleanup(srv.Close)
	for name, text := range map[string]string{"server": srv.URL, "root.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})), "token": "lzt_x"} {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *certificateLab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.asks = append(l.asks, r.Method+" "+strings.TrimPrefix(r.URL.Path, certificatePath))
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	now := time.Now()
	own := api.CertificateInfo{Source: "own", Names: []string{"gw.example.com"}, Issuer: "CN=Example Servers", NotBefore: now, NotAfter: now.Add(30 * 24 * time.Hour), DaysLeft: 29, SHA256: "ab12"}
	got := api.Certificate{Names: []string{"gw.example.com"}, Shown: own}
	switch {
	case r.Method == http.MethodDelete || r.URL.Path == certificatePath+"/renew":
		w.WriteHeader(http.StatusNoContent)
		return
	case r.URL.Path == certificatePath+"/request":
		_ = json.NewEncoder(w).Encode(api.CertificateRequested{Names: got.Names, Request: "-----BEGIN CERTIFICATE REQUEST-----\n"})
		return
	case r.URL.Path == certificatePath+"/acme":
		_ = json.Unmarshal(body, &l.acme)
		got.ACME = &api.CertificateACME{Directory: l.acme.Directory, Failures: 2, Problem: "refused \x1b[2J", Tried: now, Next: now.Add(time.Hour)}
	case r.Method == http.MethodPut:
		_ = json.Unmarshal(body, &l.set)
		kept := own
		kept.Source, kept.Issuer, kept.SHA256 = "file", "CN=House", "cd34"
		got.Kept, got.Shown = &kept, kept
	}
	_ = json.NewEncoder(w).Encode(got)
}

// run runs lazaretctl and returns what it printed on both.
func (l *certificateLab) run(in string, args ...string) (string, string, error) {
	l.t.Helper()
	c := root()
	var out, errs bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetIn(strings.NewReader(in))
	c.SetArgs(append([]string{"--dir", l.dir, "--token-file", filepath.Join(l.dir, "token"), "certificate"}, args...))
	err := c.ExecuteContext(l.t.Context())
	return out.String(), errs.String(), err
}

func TestCertificateCommands(t *testing.T) {
	l := newCertificateLab(t)
	file := func(name, text string) string {
		path := filepath.Join(l.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	chain, key := file("chain.pem", "CHAIN"), file("mac", "MAC-KEY\n")
	for _, c := range []struct {
		in             string
		args           []string
		out, errs, ask string
	}{
		{"", []string{"show"}, "the gateway's own, issued by CN=Example Servers", "", "GET "},
		{"", []string{"csr"}, "-----BEGIN CERTIFICATE REQUEST", "a request for gw.example.com", "POST /request"},
		{"", []string{"csr", "-o", filepath.Join(l.dir, "gw.csr")}, "", "certificate set --chain", "POST /request"},
		{"KEY", []string{"set", "--chain", chain, "--key-file", "-"}, "brought with its key, issued by CN=House", "root.pem", "PUT "},
		{"", []string{"acme", "set", "--directory", "https://acme.example.com", "--agree-terms", "--eab-kid", "k", "--eab-key-file", key}, "problem   refused ?[2J (attempt 2", "asked for in a moment", "PUT /acme"},
		{"", []string{"renew"}, "asked; see", "", "POST /renew"},
		{"", []string{"acme", "unset"}, "no certificate is got", "", "DELETE /acme"},
		{"", []string{"unset"}, "own certificate is shown", "", "DELETE "},
	} {
		out, errs, err := l.run(c.in, c.args...)
		if err != nil || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) || l.asks[len(l.asks)-1] != c.ask {
			t.Errorf("%v: %v, asked %q, printed %q and %q; want %q and %q", c.args, err, l.asks[len(l.asks)-1], out, errs, c.out, c.errs)
		}
		if strings.Contains(out+errs, "KEY") {
			t.Errorf("%v prints a key: %s%s", c.args, out, errs)
		}
	}
	if l.set.Chain != "CHAIN" || l.set.Key != "KEY" || l.acme.MAC != "MAC-KEY" || !l.acme.Agreed {
		t.Errorf("sent %+v, %+v", l.set, l.acme)
	}
	was := len(l.asks)
	for want, args := range map[string][]string{
		"give --chain, or --pkcs12": {"set"}, "leave --key-file out": {"set", "--pkcs12", chain, "--key-file", chain},
		"one file alone": {"set", "--chain", "-", "--key-file", "-"}, "goes with --pkcs12": {"set", "--chain", chain, "--password-file", key},
		"turn it into PEM": {"set", "--pkcs12", chain},
	} {
		if _, _, err := l.run("", args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	if len(l.asks) != was {
		t.Error("the gateway was asked")
	}
}

// TestPKCS12 reads files as openssl makes them, new and old, with certificates in whatever
// order, and sends them as PEM in theirs.
func TestPKCS12(t *testing.T) {
	roundsAreBounded(t)
	openssl := testneed.Program(t, "openssl")
	l := newCertificateLab(t)
	keys := [3]*ecdsa.PrivateKey{}
	var certs [3]*x509.Certificate // root, issuer, server
	for i := range certs {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: string(rune('a' + i))}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: i < 2, BasicConstraintsValid: true}
		parent, by := c, keys[i]
		if i > 0 {
			parent, by = certs[i-1], keys[i-1]
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, keys[i].Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	encode := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	der, err := x509.MarshalPKCS8PrivateKey(keys[2])
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"server.pem": encode(certs[2]), "others.pem": append(encode(certs[0]), encode(certs[1])...),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "password": []byte("Passwort mit ß\n")} {
		if err := os.WriteFile(filepath.Join(l.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for what, more := range map[string][]string{"today's": nil, "older": {"-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1"}} {
		c := exec.CommandContext(t.Context(), openssl, append([]string{"pkcs12", "-export", "-in", "server.pem", "-inkey", "key.pem", "-certfile", "others.pem", "-passout", "file:password", "-out", "gw.p12"}, more...)...)
		c.Dir = l.dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", what, err, out)
		}
		if _, _, err := l.run("", "set", "--pkcs12", filepath.Join(l.dir, "gw.p12"), "--password-file", filepath.Join(l.dir, "password")); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if l.set.Chain != string(encode(certs[2]))+string(encode(certs[1]))+string(encode(certs[0])) || !strings.Contains(l.set.Key, "BEGIN PRIVATE KEY") {
			t.Errorf("%s: sent %s", what, l.set.Chain)
		}
	}
	if _, _, err := l.run("wrong", "set", "--pkcs12", filepath.Join(l.dir, "gw.p12"), "--password-file", "-"); err == nil || !strings.Contains(err.Error(), "--password-file") {
		t.Errorf("a wrong password: %v", err)
	}
}

// roundsAreBounded looks at what openssl writes, and at what it would take years to read.
func roundsAreBounded(t *testing.T) {
	t.Helper()
	openssl := testneed.Program(t, "openssl")
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), openssl, args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v %s", args, err, out)
		}
	}
	run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x", "-keyout", "key.pem", "-out", "x.pem")
	run("pkcs12", "-export", "-in", "x.pem", "-inkey", "key.pem", "-passout", "pass:x", "-iter", "70001", "-out", "gw.p12")
	file, err := os.ReadFile(filepath.Join(dir, "gw.p12"))
	if err != nil {
		t.Fatal(err)
	}
	if got := iterations(file, 0); got != 70001 {
		t.Errorf("openssl's rounds: %d", got)
	}
	// Each of the places in turn: mac, certificates, key.
	was, places := []byte{2, 3, 1, 0x11, 0x71}, 0
	for at := 0; ; places++ {
		i := bytes.Index(file[at:], was)
		if i < 0 {
			break
		}
		at += i
		many := bytes.Clone(file)
		copy(many[at:], []byte{2, 3, 0x7f, 0xff, 0xff}) // below the bound, and seen
		if got := iterations(many, 0); got != 0x7fffff {
			t.Errorf("at %d: %d", at, got)
		}
		at++
	}
	if places != 3 {
		t.Errorf("rounds stand in %d places", places)
	}
	huge := []byte{0x30, 13, 4, 1, 0, 2, 8, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	path := filepath.Join(dir, "huge.p12")
	if err := os.WriteFile(path, huge, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (bringFlags{p12: path}).readPKCS12(&cobra.Command{}, api.CertificateSet{}); err == nil || !strings.Contains(err.Error(), "rounds") {
		t.Errorf("a file of very many rounds: %v", err)
	}
}
