package client

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
)

// authorityOf is a root with an issuing CA and a CMP responder below it.
type authorityOf struct {
	root, issuing, responder *x509.Certificate
	issuingKey, responderKey crypto.Signer
	rootKey                  crypto.Signer
}

func newAuthority(t testing.TB, name string) *authorityOf {
	a := &authorityOf{rootKey: ecKey(t), issuingKey: ecKey(t), responderKey: ecKey(t)}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: name + " root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	a.root = sign(t, ca, ca, a.rootKey.Public(), a.rootKey)
	a.issuing = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name + " devices"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign},
		a.root, a.issuingKey.Public(), a.rootKey)
	a.responder = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name + " CMP"}, KeyUsage: x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidCMCRA}}, a.root, a.responderKey.Public(), a.rootKey)
	return a
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	template.BasicConstraintsValid = true
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gateway answers CMP as ENROLLMENT asks, for one code, with knobs to do it wrongly.
type gateway struct {
	*authorityOf
	t        testing.TB
	code     code.Code
	server   *httptest.Server
	proofKey *ecdh.PrivateKey
	welcome  cmp.Welcome

	mu       sync.Mutex
	seen     []cmp.Kind // requests accepted, in order
	last     map[cmp.Kind]*cmp.Message
	issuedTo map[string][]byte                                 // certificates by public key and WireGuard key
	given    *cmp.Message                                      // the latest answer with a certificate
	blind    bool                                              // does not compare exporters
	lose     map[cmp.Kind]int                                  // answers to drop after the work is done
	shape    func(*http.Request, *cmp.Message)                 // changes an answer before it is protected
	leaf     func(*x509.Certificate)                           // changes a certificate before it is signed
	tamper   func(request cmp.Kind, der []byte) []byte         // changes an answer on its way
	before   func(w http.ResponseWriter, r *http.Request) bool // answers instead
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	otp, err := code.Draw(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{authorityOf: newAuthority(t, "Test"), t: t, code: otp,
		last: map[cmp.Kind]*cmp.Message{}, issuedTo: map[string][]byte{}, lose: map[cmp.Kind]int{}}
	if g.proofKey, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	key := ecKey(t)
	self := &x509.Certificate{Subject: pkix.Name{CommonName: "listener"}}
	listener := sign(t, self, self, key.Public(), key)
	g.server = serve(t, http.HandlerFunc(g.ServeHTTP), tls.Certificate{Certificate: [][]byte{listener.Raw}, PrivateKey: key})
	hash, next := sha256.Sum256(listener.RawSubjectPublicKeyInfo), sha256.Sum256([]byte("next"))
	g.welcome = cmp.Welcome{Version: 1, ListenerKeys: [][]byte{next[:], hash[:]}, ProofKeyID: "k1", ProofKey: g.proofKey.PublicKey().Bytes()}
	return g
}

func serve(t testing.TB, h http.Handler, cert tls.Certificate) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.before != nil && g.before(w, r) {
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/.well-known/cmp" || r.Header.Get("Content-Type") != contentType || r.TLS.Version != tls.VersionTLS13 {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	request, err := cmp.Parse(body)
	if err != nil {
		http.Error(w, "malformed", http.StatusBadRequest)
		return
	}
	der := g.answer(r, request)
	if kind := request.Body.Kind; g.lose[kind] > 0 {
		g.lose[kind]--
		panic(http.ErrAbortHandler)
	}
	if g.tamper != nil {
		der = g.tamper(request.Body.Kind, der)
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(der)
}

// answer checks a request as the desk does and answers it; anything wrong is refused.
func (g *gateway) answer(r *http.Request, request *cmp.Message) []byte {
	refuse := cmp.Refusal(request.Header)
	if !g.admits(request) {
		return refuse
	}
	own, err := r.TLS.ExportKeyingMaterial(cmp.ExporterLabel, nil, cmp.ExporterSize)
	if err != nil {
		return refuse
	}
	if g.blind {
		own, _, _ = cmp.ReadExporter(request.Header.GeneralInfo)
	}
	if theirs, ok, err := cmp.ReadExporter(request.Header.GeneralInfo); !ok || err != nil || string(theirs) != string(own) {
		return refuse
	}
	answer := &cmp.Message{Header: request.Header.Reply(time.Now())}
	switch request.Body.Kind {
	case cmp.GenM:
		welcome, err := cmp.WelcomeInfo(g.welcome)
		if err != nil {
			return refuse
		}
		answer.Body = cmp.Body{Kind: cmp.GenP, Infos: []cmp.Info{cmp.CACertsInfo(g.root.Raw, g.issuing.Raw), welcome}}
	case cmp.P10CR:
		csr, err := x509.ParseCertificateRequest(request.Body.PKCS10)
		if err != nil || csr.CheckSignature() != nil || len(csr.URIs) != 1 {
			return refuse
		}
		g.issue(request, answer, cmp.CP, -1, csr.PublicKey, csr.URIs[0].String(), g.code.Reference)
	case cmp.KUR:
		want := request.Body.Requests[0]
		pub, err := x509.ParsePKIXPublicKey(want.Template.PublicKey)
		uris, uriErr := want.Template.URIs()
		if err != nil || uriErr != nil || len(uris) != 1 || want.VerifyPOP() != nil || want.Old == nil {
			return refuse
		}
		g.issue(request, answer, cmp.KUP, 0, pub, uris[0], "")
	case cmp.CertConf:
		if !g.confirmed(request) {
			return refuse
		}
		answer.Body.Kind = cmp.PKIConf
	default:
		return refuse
	}
	if answer.Body.Kind == 0 {
		return refuse
	}
	g.seen = append(g.seen, request.Body.Kind)
	if g.shape != nil {
		g.shape(r, answer)
	}
	return g.protect(request, answer)
}

// confirmed reports whether certConf names the certificate answered last, in its transaction.
func (g *gateway) confirmed(conf *cmp.Message) bool {
	if g.given == nil || len(conf.Body.Statuses) != 1 {
		return false
	}
	cert, err := x509.ParseCertificate(g.given.Body.Responses[0].Certificate)
	if err != nil {
		return false
	}
	status, hash := conf.Body.Statuses[0], sha256.Sum256(cert.Raw) // signed with ECDSA-SHA-256
	return string(conf.Header.TransactionID) == string(g.given.Header.TransactionID) &&
		string(conf.Header.RecipNonce) == string(g.given.Header.SenderNonce) &&
		status.RequestID == g.given.Body.Responses[0].RequestID && string(status.Hash) == string(hash[:])
}

func (g *gateway) admits(m *cmp.Message) bool {
	if !m.Signed() {
		return string(m.Header.SenderKID) == g.code.Reference && m.VerifyMAC([]byte(g.code.Secret), cmp.Policy{}) == nil
	}
	signer, err := x509.ParseCertificate(m.ExtraCerts[0])
	return err == nil && m.VerifySignature(signer.PublicKey) == nil && signer.CheckSignatureFrom(g.issuing) == nil
}

// issue fills answer with the certificate for a pair of keys, the same each time.
func (g *gateway) issue(request, answer *cmp.Message, kind cmp.Kind, id int64, pub crypto.PublicKey, uri, reference string) {
	wireguard, err := cmp.ParseWireGuardURI(uri)
	if err != nil {
		return
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return
	}
	peer, err := ecdh.X25519().NewPublicKey(wireguard[:])
	if err != nil {
		return
	}
	shared, err := g.proofKey.ECDH(peer)
	if err != nil {
		return
	}
	proof, ok, err := cmp.ReadProof(request.Header.GeneralInfo)
	if !ok || err != nil || proof.KeyID != "k1" || !cmp.VerifyProof(shared, proof.MAC, cmp.ProofInput{
		TransactionID: request.Header.TransactionID, SPKI: spki, WireGuard: wireguard, Reference: reference}) {
		return
	}
	stored := g.issuedTo[string(spki)+uri]
	if stored == nil {
		u, err := url.Parse(uri)
		if err != nil {
			return
		}
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "dev1"}, URIs: []*url.URL{u},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if g.leaf != nil {
			g.leaf(leaf)
		}
		stored = sign(g.t, leaf, g.issuing, pub, g.issuingKey).Raw
		g.issuedTo[string(spki)+uri] = stored
	}
	settings, err := cmp.SettingsInfo(cmp.Settings{Version: 1, Device: "d1", Quarantine: cmp.Network{
		Pool: "quarantine", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/32")}}})
	if err != nil {
		return
	}
	answer.Header.GeneralInfo = []cmp.Info{settings}
	answer.Body = cmp.Body{Kind: kind, CAPubs: [][]byte{g.root.Raw}, Responses: []cmp.CertResponse{{RequestID: id, Certificate: stored}}}
	answer.ExtraCerts = [][]byte{g.issuing.Raw}
	g.last[request.Body.Kind], g.given = request, answer
}

func (g *gateway) protect(request, answer *cmp.Message) []byte {
	var err error
	if request.Signed() {
		err = answer.ProtectSignature(g.responderKey, g.responder, g.issuing)
	} else {
		err = answer.ProtectMAC([]byte(g.code.Secret), cmp.NewMACParams())
	}
	if err != nil {
		g.t.Error(err)
	}
	der, err := answer.Marshal()
	if err != nil {
		g.t.Error(err)
	}
	return der
}

func (g *gateway) client(t testing.TB, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{Server: g.server.URL, Log: slog.New(slog.DiscardHandler), Backoff: time.Microsecond, Attempts: 3}
	for _, c := range change {
		c(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (g *gateway) requests() []cmp.Kind {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen)
}

// memory is a Store.
type memory struct {
	keys  *Keys
	saved *Result
	fail  error
}

func (m *memory) Keys(context.Context) (Keys, error) {
	if m.keys == nil {
		certificate, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return Keys{}, err
		}
		wireguard, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return Keys{}, err
		}
		m.keys = &Keys{Certificate: certificate, WireGuard: wireguard}
	}
	return *m.keys, m.fail
}

func (m *memory) Save(_ context.Context, r *Result) error {
	m.saved = r
	return m.fail
}
