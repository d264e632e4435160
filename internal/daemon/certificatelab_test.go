package daemon

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/config"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// certificateLab is a gateway called localhost, its administrator, and somebody else's
// authority.
type certificateLab struct {
	t          *testing.T
	dir        string
	config     config.Config
	stop       func()
	admin      tls.Certificate
	ours       []byte // root.pem
	root       *x509.Certificate
	key        *ecdsa.PrivateKey // of the other authority
	serverKey  *ecdsa.PrivateKey
	serverCert []byte // PEM
}

func newCertificateLab(t *testing.T) *certificateLab {
	t.Helper()
	l := &certificateLab{t: t, dir: t.TempDir()}
	o := gatewayOptions(l.dir)
	o.Values["enroll.names"] = []string{"localhost"}
	if _, err := Init(t.Context(), o, silent); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(o.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	c.AlertEvery = time.Second
	l.config = c
	l.start()
	if l.admin, err = tls.LoadX509KeyPair(filepath.Join(o.AdminDir, "admin.pem"), filepath.Join(o.AdminDir, "admin-key.pem")); err != nil {
		t.Fatal(err)
	}
	if l.ours, err = os.ReadFile(filepath.Join(o.AdminDir, "root.pem")); err != nil {
		t.Fatal(err)
	}
	l.key, l.serverKey = ecKey(t), ecKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Somebody Else's Root"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour * 24 * 365), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, l.key.Public(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	if l.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	l.serverCert = l.issue(l.serverKey, 90*24*time.Hour)
	for file, b := range map[string][]byte{"theirs.pem": pemOf("CERTIFICATE", l.root.Raw), "root.pem": l.ours} {
		l.write(file, b)
	}
	return l
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue is a certificate for localhost with its root, PEM.
func (l *certificateLab) issue(key *ecdsa.PrivateKey, life time.Duration) []byte {
	l.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, l.root, key.Public(), l.key)
	if err != nil {
		l.t.Fatal(err)
	}
	return append(pemOf("CERTIFICATE", der), pemOf("CERTIFICATE", l.root.Raw)...)
}

func (l *certificateLab) write(name string, b []byte) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), b, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// start runs the gateway, on other ports each time.
func (l *certificateLab) start() {
	l.t.Helper()
	l.config, l.stop = served(l.t, l.config)
}

// ask asks the API as lazaretctl does: by its name, with our root alone.
func (l *certificateLab) ask(method, path string, in, out any) int {
	l.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(l.ours)
	body, err := json.Marshal(in)
	if err != nil {
		l.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(l.t.Context(), method, "https://localhost:"+strconv.Itoa(int(l.config.API.Listen[0].Port()))+path, bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	if in == nil {
		r.Body = http.NoBody
	}
	r.Header.Set("Content-Type", "application/json")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{l.admin}}}}
	resp, err := c.Do(r)
	if err != nil {
		l.t.Fatalf("as lazaretctl asks: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if resp.StatusCode < 300 && out != nil {
		err = json.Unmarshal(text, out)
	} else if out, ok := out.(*api.Problem); ok {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		l.t.Fatalf("%s %s: %s: %v", method, path, text, err)
	}
	return resp.StatusCode
}

func (l *certificateLab) must(method, path string, in, out any) {
	l.t.Helper()
	if got := l.ask(method, path, in, out); got >= 300 {
		l.t.Fatalf("%s %s: %d", method, path, got)
	}
}

// enrollURL is where devices go.
func (l *certificateLab) enrollURL() string {
	return "https://localhost:" + strconv.Itoa(int(l.config.Enroll.Listen[0].Port()))
}

// curl says whether curl with these roots alone gets an answer, on both listeners.
func (l *certificateLab) curl(roots string, want bool) {
	l.t.Helper()
	for _, u := range []string{l.enrollURL(), "https://localhost:" + strconv.Itoa(int(l.config.API.Listen[0].Port())) + "/api/v1/openapi.json"} {
		c := exec.CommandContext(l.t.Context(), testneed.Program(l.t, "curl"), "-4", "-sS", "--noproxy", "*", "--max-time", "60", "-o", os.DevNull, "--cacert", roots, u)
		c.Dir = l.dir
		if out, err := c.CombinedOutput(); (err == nil) != want {
			l.t.Errorf("curl with %s alone at %s: %v %s, want success: %v", roots, u, err, out, want)
		}
	}
}

// agentOf is a device with our own client, as internal/agent uses it.
type agentOf struct {
	l      *certificateLab
	keys   client.Keys
	result *client.Result
}

func (a *agentOf) Keys(context.Context) (client.Keys, error)      { return a.keys, nil }
func (a *agentOf) Save(_ context.Context, r *client.Result) error { a.result = r; return nil }
func (a *agentOf) client() *client.Client {
	a.l.t.Helper()
	c, err := client.New(client.Config{Server: a.l.enrollURL(), Log: silent, Attempts: 1})
	if err != nil {
		a.l.t.Fatal(err)
	}
	return c
}

func (l *certificateLab) otp(user string) code.Code {
	l.t.Helper()
	var o api.OTPCreated
	l.must("POST", "/api/v1/otps", api.OTPRequest{User: user}, &o)
	c, err := code.Parse(o.Code)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (a *agentOf) fresh() {
	a.l.t.Helper()
	wg, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		a.l.t.Fatal(err)
	}
	a.keys = client.Keys{Certificate: ecKey(a.l.t), WireGuard: wg}
}

func (l *certificateLab) enrolled(user string) *agentOf {
	l.t.Helper()
	a := &agentOf{l: l}
	a.fresh()
	if _, err := a.client().Enroll(l.t.Context(), l.otp(user), a); err != nil {
		l.t.Fatalf("enrolling: %v", err)
	}
	return a
}

// renews with the listener keys that were learned last, and does not learn others meanwhile.
func (a *agentOf) renews(when string) {
	a.l.t.Helper()
	was, key := a.result, a.keys.Certificate
	a.fresh()
	if _, err := a.client().Renew(a.l.t.Context(), was, key, a); err != nil {
		a.l.t.Errorf("%s, a device renews: %v", when, err)
	}
}

// stockOf is a device with openssl alone, which knows our root.
type stockOf struct {
	l    *certificateLab
	key  string
	cert string
	n    int
}

func newStock(l *certificateLab) *stockOf {
	l.t.Helper()
	wg, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("req.cnf", []byte("[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=stock\n[cmp]\n[wg]\nsubjectAltName=URI:"+cmp.WireGuardURI([32]byte(wg.PublicKey().Bytes()))+"\n"))
	return &stockOf{l: l}
}

func (s *stockOf) openssl(args ...string) error {
	s.l.t.Helper()
	c := exec.CommandContext(s.l.t.Context(), testneed.Program(s.l.t, "openssl"), args...)
	c.Dir, c.Env = s.l.dir, append(os.Environ(), "no_proxy=*")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("openssl %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (s *stockOf) cmp(args ...string) error {
	s.l.t.Helper()
	s.n++
	next := fmt.Sprintf("stock%d", s.n)
	if err := s.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", next+".key"); err != nil {
		return err
	}
	err := s.openssl(slices.Concat([]string{"cmp", "-config", "req.cnf", "-section", "cmp", "-server", strings.TrimPrefix(s.l.enrollURL(), "https://"), "-path", ".well-known/cmp",
		"-tls_used", "-tls_trusted", "root.pem", "-tls_host", "localhost", "-total_timeout", "60", "-newkey", next + ".key", "-reqexts", "wg", "-certout", next + ".crt"}, args)...)
	if err == nil {
		s.key, s.cert = next+".key", next+".crt"
	}
	return err
}

func (s *stockOf) renews(when string) {
	s.l.t.Helper()
	if err := s.cmp("-cmd", "kur", "-cert", s.cert, "-key", s.key, "-trusted", "root.pem", "-untrusted", "issuer.pem"); err != nil {
		s.l.t.Errorf("%s, a stock device renews: %v", when, err)
	}
}
