package enroll

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// device is a test's own device: it speaks CMP by the codec alone.
type device struct {
	t      testing.TB
	g      *gateway
	code   code.Code
	key    crypto.Signer
	tunnel *ecdh.PrivateKey
	claim  cmp.Claim
	proof  bool
	extra  []cmp.Info // added to generalInfo
	change func(*x509.CertificateRequest)
	edit   func(*cmp.Message) // before protection
	mac    *cmp.MACParams
	from   string
	old    *cmp.CertID // that kur names, instead of the signer's
	nonce  []byte      // of the last message sent
}

// issue makes an OTP and a device that holds its code.
func (g *gateway) device(t testing.TB, r Request) *device {
	t.Helper()
	if r.User == "" {
		r.User = "anna@example.com"
	}
	if r.Profile == "" {
		r.Profile = "plain"
	}
	c, _, err := g.CreateOTP(t.Context(), administrator, r)
	if err != nil {
		t.Fatal(err)
	}
	return g.holder(t, c)
}

// holder is a device with fresh keys that holds a code.
func (g *gateway) holder(t testing.TB, c code.Code) *device {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wg, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &device{t: t, g: g, code: c, key: key, tunnel: wg, proof: true, from: "192.0.2.99:1234"}
}

func (d *device) public() tunnel.Key { return tunnel.Key(d.tunnel.PublicKey().Bytes()) }

func (d *device) spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(d.key.Public())
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

// csr is a PKCS#10 request for the device's two keys.
func (d *device) csr() []byte {
	u, err := url.Parse(cmp.WireGuardURI(d.public()))
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whatever"}, URIs: []*url.URL{u}}
	if d.change != nil {
		d.change(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

func (d *device) header() cmp.Header {
	h := cmp.NewHeader(*d.g.clock.Load())
	h.SenderKID = []byte(d.code.Reference)
	h.Recipient = cmp.NullDN()
	return h
}

func (d *device) proofInfo(transaction []byte, reference string) cmp.Info {
	current := d.g.config.ProofKeys[0]
	shared, err := d.tunnel.ECDH(current.Key.PublicKey())
	if err != nil {
		d.t.Fatal(err)
	}
	mac, err := cmp.MakeProof(shared, cmp.ProofInput{TransactionID: transaction, SPKI: d.spki(), WireGuard: d.public(), Reference: reference})
	if err != nil {
		d.t.Fatal(err)
	}
	return cmp.ProofInfo(cmp.Proof{KeyID: current.ID, MAC: mac})
}

func (d *device) genm() []byte {
	return d.keyed(&cmp.Message{Header: d.header(), Body: cmp.Body{Kind: cmp.GenM, Infos: []cmp.Info{cmp.CACertsInfo()}}})
}

func (d *device) p10cr() []byte {
	m := &cmp.Message{Header: d.header(), Body: cmp.Body{Kind: cmp.P10CR, PKCS10: d.csr()}}
	return d.keyed(d.stated(m))
}

func (d *device) ir() []byte {
	r, err := cmp.NewCertRequest(0, cmp.Template{Extensions: []cmp.Extension{d.names()}}, nil, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	m := &cmp.Message{Header: d.header(), Body: cmp.Body{Kind: cmp.IR, Requests: []cmp.CertRequest{r}}}
	return d.keyed(d.stated(m))
}

// names is the subjectAltName of the device's PKCS#10 request.
func (d *device) names() cmp.Extension {
	csr, err := x509.ParseCertificateRequest(d.csr())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, x := range csr.Extensions {
		if x.Id.String() == "2.5.29.17" {
			return cmp.Extension{ID: "\x55\x1d\x11", Value: x.Value}
		}
	}
	d.t.Fatal("no subjectAltName")
	return cmp.Extension{}
}

func (d *device) stated(m *cmp.Message) *cmp.Message {
	h := &m.Header
	if d.proof {
		h.GeneralInfo = append(h.GeneralInfo, d.proofInfo(h.TransactionID, d.code.Reference))
	}
	if d.claim != (cmp.Claim{}) {
		d.claim.Version = 1
		info, err := cmp.ClaimInfo(d.claim)
		if err != nil {
			d.t.Fatal(err)
		}
		h.GeneralInfo = append(h.GeneralInfo, info)
	}
	h.GeneralInfo = append(h.GeneralInfo, d.extra...)
	return m
}

func (d *device) certConf(after *cmp.Message, cert *x509.Certificate) []byte {
	hash, err := cmp.CertHash(cert)
	if err != nil {
		d.t.Fatal(err)
	}
	h := d.header()
	h.TransactionID, h.RecipNonce = after.Header.TransactionID, after.Header.SenderNonce
	return d.keyed(&cmp.Message{Header: h, Body: cmp.Body{Kind: cmp.CertConf, Statuses: []cmp.CertStatus{{Hash: hash, RequestID: after.Body.Responses[0].RequestID}}}})
}

// keyed protects a message with the code's secret.
func (d *device) keyed(m *cmp.Message) []byte {
	if d.edit != nil {
		d.edit(m)
	}
	d.nonce = m.Header.SenderNonce
	p := cmp.NewMACParams()
	p.Iterations = 100
	if d.mac != nil {
		p = d.mac.Fresh()
	}
	if err := m.ProtectMAC([]byte(d.code.Secret), p); err != nil {
		d.t.Fatal(err)
	}
	der, err := m.Marshal()
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

// post sends one message and returns the raw answer.
func (d *device) post(body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/pkixcmp")
	r.RemoteAddr = d.from
	w := httptest.NewRecorder()
	d.g.ServeHTTP(w, r)
	return w
}

// ask sends one message and checks the answer as a device does: HTTP, MAC, IDs, nonces.
func (d *device) ask(body []byte) *cmp.Message {
	d.t.Helper()
	m := d.parse(d.post(body))
	if err := m.VerifyMAC([]byte(d.code.Secret), cmp.Policy{AllowSHA1: true}); err != nil {
		d.t.Fatalf("the answer's MAC does not verify: %v", err)
	}
	sent, err := cmp.Parse(body)
	if err != nil {
		d.t.Fatal(err)
	}
	h := m.Header
	if !bytes.Equal(h.TransactionID, sent.Header.TransactionID) || !bytes.Equal(h.RecipNonce, sent.Header.SenderNonce) || len(h.SenderNonce) < 16 {
		d.t.Fatal("the answer does not give back the IDs, or has no nonce")
	}
	return m
}

func (d *device) parse(w *httptest.ResponseRecorder) *cmp.Message {
	d.t.Helper()
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/pkixcmp" {
		d.t.Fatalf("HTTP %d %q, want 200 with application/pkixcmp: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	m, err := cmp.Parse(w.Body.Bytes())
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// certificate takes the certificate from ip, cp or kup.
func (d *device) certificate(m *cmp.Message) *x509.Certificate {
	d.t.Helper()
	if len(m.Body.Responses) != 1 {
		d.t.Fatalf("answer of kind %d without a certificate: %v", m.Body.Kind, m.Body.Error.Status)
	}
	c, err := x509.ParseCertificate(m.Body.Responses[0].Certificate)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// enroll runs messages 3 to 6.
func (d *device) enroll() (*x509.Certificate, quarantine.Record) {
	d.t.Helper()
	m := d.ask(d.p10cr())
	cert := d.certificate(m)
	if a := d.ask(d.certConf(m, cert)); a.Body.Kind != cmp.PKIConf {
		d.t.Fatalf("certConf got kind %d: %v", a.Body.Kind, a.Body.Error.Status)
	}
	return cert, d.record(cert)
}

func (d *device) record(cert *x509.Certificate) quarantine.Record {
	d.t.Helper()
	r, err := d.g.store.Device(d.t.Context(), quarantine.ID(cert.Subject.CommonName))
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// refused expects a protected error.
func (d *device) refused(body []byte, fail cmp.Failure, text string) {
	d.t.Helper()
	m := d.ask(body)
	if m.Body.Kind != cmp.Error {
		d.t.Fatalf("answered with kind %d, want an error", m.Body.Kind)
	}
	s := m.Body.Error.Status
	if s.Status != cmp.Rejection || s.Fail != fail || !contains(strings.Join(s.Text, " "), text) {
		d.t.Errorf("refused with %v, want %v: ...%s...", s, fail, text)
	}
}

// signed protects a message with the device's certificate.
func (d *device) signed(m *cmp.Message, key crypto.Signer, cert *x509.Certificate) []byte {
	d.t.Helper()
	if err := m.ProtectSignature(key, cert, d.g.made.Issuing(pki.Device)); err != nil {
		d.t.Fatal(err)
	}
	der, err := m.Marshal()
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

const hour = time.Hour
