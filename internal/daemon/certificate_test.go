package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// TestSwitchOfServerCertificate: somebody else's certificate is shown to who knows their root
// alone, on both listeners, and no device meets it: those that enrolled before, with our
// client and with openssl cmp, renew over every switch and start, as do those that enrolled
// meanwhile; lazaretctl goes on, too. The key is nowhere in the clear (G8).
func TestSwitchOfServerCertificate(t *testing.T) {
	testneed.Program(t, "openssl")
	testneed.Program(t, "curl")
	l := newCertificateLab(t)
	before := l.enrolled("before@example.com")
	stock := newStock(l)
	otp := l.otp("stock@example.com")
	if err := stock.cmp("-cmd", "ir", "-subject", "/CN=stock", "-ref", otp.Reference, "-secret", "pass:"+otp.Secret, "-extracertsout", "issuer.pem"); err != nil {
		t.Fatal(err)
	}
	l.curl("theirs.pem", false)

	der, err := x509.MarshalPKCS8PrivateKey(l.serverKey)
	if err != nil {
		t.Fatal(err)
	}
	var problem api.Problem
	if got := l.ask("PUT", "/api/v1/certificate", api.CertificateSet{Chain: string(l.issue(l.serverKey, -time.Minute)), Key: string(pemOf("PRIVATE KEY", der))}, &problem); got != http.StatusUnprocessableEntity || !strings.Contains(problem.Error, "ended on") {
		t.Errorf("one that is over: %d %+v", got, problem)
	}
	var shown api.Certificate
	l.must("PUT", "/api/v1/certificate", api.CertificateSet{Chain: string(l.serverCert), Key: string(pemOf("PRIVATE KEY", der))}, &shown)
	if shown.Shown.Source != "file" || shown.Shown.DaysLeft != 89 || !strings.Contains(shown.Shown.Issuer, "Somebody") || !slices.Equal(shown.Names, []string{"localhost"}) {
		t.Errorf("shown: %+v", shown)
	}
	l.curl("theirs.pem", true)
	before.renews("after the switch")
	stock.renews("after the switch")
	meanwhile := l.enrolled("meanwhile@example.com")

	l.stop()
	l.noKeyInTheClear(der)
	l.start()
	l.curl("theirs.pem", true)
	before.renews("after a start")
	meanwhile.renews("after a start")
	stock.renews("after a start")

	l.must("DELETE", "/api/v1/certificate", nil, nil)
	l.curl("theirs.pem", false)
	l.curl("root.pem", true)
	before.renews("after the way back")
	meanwhile.renews("after the way back")
	stock.renews("after the way back")
	if got := l.ask("DELETE", "/api/v1/certificate", nil, nil); got != http.StatusNotFound {
		t.Errorf("deleting what is not there: %d", got)
	}
	l.audited("certificate.set", "certificate.unset")
	l.stop()
}

// noKeyInTheClear looks for parts of the key in all that the gateway wrote.
func (l *certificateLab) noKeyInTheClear(der []byte) {
	l.t.Helper()
	secret, err := l.serverKey.Bytes()
	if err != nil {
		l.t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(l.config.State, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "ballast" || d.Name() == "spare" {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if bytes.Contains(b, secret) || bytes.Contains(b, der) {
			l.t.Errorf("%s holds the key", path)
		}
		return err
	})
	if err != nil || files < 4 {
		l.t.Errorf("looked at %d files: %v", files, err)
	}
}

// audited looks for entries of the administrator's.
func (l *certificateLab) audited(actions ...string) {
	l.t.Helper()
	var all []api.AuditEntry
	l.must("GET", "/api/v1/audit?limit=500", nil, &all)
	for _, a := range actions {
		if !slices.ContainsFunc(all, func(e api.AuditEntry) bool { return e.Action == a && strings.Contains(e.By, "tester") }) {
			l.t.Errorf("no audit entry of %s", a)
		}
	}
}

// TestCertificateRequestOverTheAPI: the key of a request stays, and the certificate for it is
// taken without one; keys that wait go with unset.
func TestCertificateRequestOverTheAPI(t *testing.T) {
	l := newCertificateLab(t)
	var q api.CertificateRequested
	l.must("POST", "/api/v1/certificate/request", api.CertificateRequest{}, &q)
	block, _ := pem.Decode([]byte(q.Request))
	if block == nil {
		t.Fatalf("no request: %+v", q)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil || !slices.Equal(request.DNSNames, []string{"localhost"}) {
		t.Fatalf("%+v %v", request, err)
	}
	l.serverKey = &ecdsa.PrivateKey{PublicKey: *request.PublicKey.(*ecdsa.PublicKey)}
	var shown api.Certificate
	l.must("PUT", "/api/v1/certificate", api.CertificateSet{Chain: string(l.issue(l.serverKey, 24*time.Hour))}, &shown)
	if shown.Shown.Source != "request" || len(shown.Requests) != 0 || shown.Shown.DaysLeft != 0 {
		t.Errorf("%+v", shown)
	}
	var problem api.Problem
	if got := l.ask("POST", "/api/v1/certificate/renew", nil, &problem); got != http.StatusNotFound {
		t.Errorf("renewing without ACME: %d %+v", got, problem)
	}
	set := api.CertificateACMESet{Directory: "https://localhost:1/directory", Agreed: true, KeyID: "k", MAC: "c2VjcmV0LXNlY3JldC1zZWNyZXQ"}
	if got := l.ask("PUT", "/api/v1/certificate/acme", api.CertificateACMESet{Directory: "http://x"}, &problem); got != http.StatusUnprocessableEntity || !strings.Contains(problem.Error, "2 fault(s)") {
		t.Errorf("a bad directory: %d %+v", got, problem)
	}
	l.must("PUT", "/api/v1/certificate/acme", set, &shown)
	if shown.ACME == nil || shown.ACME.KeyID != "k" {
		t.Errorf("%+v", shown.ACME)
	}
	if got := l.ask("DELETE", "/api/v1/certificate", nil, &problem); got != http.StatusConflict || !strings.Contains(problem.Error, "acme unset") {
		t.Errorf("unset while there is ACME: %d %+v", got, problem)
	}
	l.must("DELETE", "/api/v1/certificate/acme", nil, nil)
	l.must("DELETE", "/api/v1/certificate", nil, nil)
	l.audited("certificate.request", "certificate.acme.set", "certificate.acme.unset")
	l.stop()
}
