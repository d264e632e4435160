package cmp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// responder answers stock clients with what this codec builds.
type responder struct {
	t        *testing.T
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	mu       sync.Mutex // guards failWith
	failWith Failure    // a protected error instead of an answer
}

func newResponder(t *testing.T) *responder {
	r := &responder{t: t, key: ecKey(t, elliptic.P256())}
	r.ca = r.certify(&x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}},
	}, nil, r.key.Public())
	return r
}

func (r *responder) certify(c, parent *x509.Certificate, pub any) *x509.Certificate {
	if parent == nil {
		parent = c
	}
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	c.NotBefore, c.NotAfter, c.BasicConstraintsValid = time.Now().Add(-time.Hour), time.Now().Add(time.Hour), true
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, r.key)
	if err != nil {
		r.t.Error(err)
		return nil
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		r.t.Error(err)
	}
	return out
}

func (r *responder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/pkixcmp")
	m, err := Parse(body)
	if err != nil {
		r.t.Errorf("stock client's message: %v", err)
		return
	}
	if m.Signed() {
		signer, err := x509.ParseCertificate(m.ExtraCerts[0])
		if err != nil || m.VerifySignature(signer.PublicKey) != nil || signer.CheckSignatureFrom(r.ca) != nil {
			r.t.Errorf("stock client's signature does not hold: %v", err)
		}
	} else if m.VerifyMAC([]byte(goldenSecret), Policy{AllowSHA1: true}) != nil {
		_, _ = w.Write(Refusal(m.Header))
		return
	}
	answer := r.answer(m)
	if m.Signed() {
		err = answer.ProtectSignature(r.key, r.ca)
	} else {
		p, _ := m.MACParams()
		err = answer.ProtectMAC([]byte(goldenSecret), p.Fresh())
	}
	der, merr := answer.Marshal()
	if err != nil || merr != nil {
		r.t.Error(err, merr)
	}
	_, _ = w.Write(der)
}

func (r *responder) answer(m *Message) *Message {
	r.mu.Lock()
	failWith := r.failWith
	r.mu.Unlock()
	if failWith != 0 {
		return NewError(m.Header, time.Now(), failWith, "not here")
	}
	answer := &Message{Header: m.Header.Reply(time.Now())}
	kind, id := CP, int64(-1)
	var pub any
	switch m.Body.Kind {
	case GenM:
		answer.Body = Body{Kind: GenP, Infos: []Info{CACertsInfo(r.ca.Raw)}}
		return answer
	case CertConf:
		answer.Body = Body{Kind: PKIConf}
		return answer
	case RR:
		answer.Body = Body{Kind: RP, Revoked: []StatusInfo{{}}, RevokedIDs: []CertID{{
			Issuer: DirectoryName(m.Body.Revocations[0].Template.Issuer), Serial: m.Body.Revocations[0].Template.Serial}}}
		return answer
	case P10CR:
		csr, err := x509.ParseCertificateRequest(m.Body.PKCS10)
		if err != nil {
			r.t.Error(err)
			return answer
		}
		pub = csr.PublicKey
	default:
		kind, id = m.Body.Kind+1, 0
		var err error
		if pub, err = x509.ParsePKIXPublicKey(m.Body.Requests[0].Template.PublicKey); err != nil || m.Body.Requests[0].VerifyPOP() != nil {
			r.t.Errorf("stock client's request: %v", err)
		}
	}
	leaf := r.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "dev1"}, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte{1, 2}}, r.ca, pub)
	settings, err := SettingsInfo(Settings{Version: 1, Device: "d1"}) // stock clients skip it
	if err != nil {
		r.t.Error(err)
	}
	answer.Header.GeneralInfo = []Info{settings}
	answer.Body = Body{Kind: kind, CAPubs: [][]byte{r.ca.Raw}, Responses: []CertResponse{{RequestID: id, Certificate: leaf.Raw}}}
	answer.ExtraCerts = [][]byte{r.ca.Raw}
	return answer
}

// TestStockClient has openssl cmp enroll, renew, ask and revoke against this codec's answers.
func TestStockClient(t *testing.T) {
	openssl := testneed.Program(t, "openssl")
	dir := t.TempDir()
	r := newResponder(t)
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dev.key", "new.key"} {
		key := ecKey(t, elliptic.P256())
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name, "PRIVATE KEY", der)
		if name == "dev.key" {
			csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			write("dev.csr", "CERTIFICATE REQUEST", csr)
		}
	}
	write("ca.pem", "CERTIFICATE", r.ca.Raw)
	run := func(args string) (string, error) {
		cmd := exec.Command(openssl, append([]string{"cmp", "-config", "", "-batch", "-server", server.Listener.Addr().String(), "-path", "x"}, strings.Fields(args)...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	secret := "-ref 7K2M9QXA -secret pass:" + goldenSecret
	signature := "-cert p10cr.pem -key dev.key -trusted ca.pem"
	for _, args := range []string{
		secret + " -cmd genm -infotype caCerts",
		secret + " -cmd p10cr -mac hmacWithSHA256 -csr dev.csr -certout p10cr.pem",
		secret + " -cmd ir -newkey new.key -subject /CN=x -certout ir.pem -cacertsout cas.pem",
		secret + " -cmd cr -digest sha384 -mac hmacWithSHA384 -newkey new.key -subject /CN=x -certout cr.pem",
		signature + " -cmd kur -newkey new.key -certout kur.pem",
		signature + " -cmd rr -oldcert p10cr.pem -revreason 1",
	} {
		if out, err := run(args); err != nil {
			t.Errorf("openssl cmp %s: %v\n%s", args, err, out)
		}
	}
	if cas, err := os.ReadFile(filepath.Join(dir, "cas.pem")); err != nil || !bytes.Contains(cas, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("no CA certificate from caPubs: %v", err)
	}
	if out, err := run("-ref 7K2M9QXA -secret pass:wrong -unprotected_errors -cmd ir -newkey new.key -subject /CN=x -certout x.pem"); err == nil || !strings.Contains(out, "badMessageCheck") {
		t.Errorf("wrong secret: %v\n%s", err, out)
	}
	r.mu.Lock()
	r.failWith = DuplicateCertReq
	r.mu.Unlock()
	if out, err := run(secret + " -cmd ir -newkey new.key -subject /CN=x -certout x.pem"); err == nil || !strings.Contains(out, "duplicateCertReq") || !strings.Contains(out, "not here") {
		t.Errorf("protected error: %v\n%s", err, out)
	}
}
