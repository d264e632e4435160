package servercert

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"lazaret/pki"
)

// blobs is a Store in memory.
type blobs struct {
	mu   sync.Mutex
	kept map[string][]byte
	fail error
}

func (b *blobs) Get(_ context.Context, name string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, ok := b.kept[name]; ok {
		return slices.Clone(v), nil
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func (b *blobs) Put(_ context.Context, name string, blob []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.kept[name] = slices.Clone(blob)
	return nil
}

func (b *blobs) Delete(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.kept, name)
	return nil
}

func (b *blobs) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.kept))
}

// house is an authority of somebody else's: a root, and an issuer under it.
type house struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey crypto.Signer
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if template.SerialNumber == nil {
		n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber = n
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

func authority(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(3650 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{rootKey: newKey(t), issuerKey: newKey(t)}
	top := authority("House Root")
	h.root = issue(t, top, top, h.rootKey.Public(), h.rootKey)
	h.issuer = issue(t, authority("House Issuer"), h.root, h.issuerKey.Public(), h.rootKey)
	return h
}

// server is a template for a server's certificate.
func server(names ...string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

// leaf issues a server's certificate for a key.
func (h *house) leaf(t testing.TB, pub crypto.PublicKey, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	return issue(t, template, h.issuer, pub, h.issuerKey)
}

func (h *house) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(h.root)
	return p
}

func text(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyText(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// lab is a keeper with an own certificate and somebody else's authority.
type lab struct {
	*Keeper
	*house
	store  *blobs
	own    *x509.Certificate // under ownRoot
	ownPEM []byte            // its root
	config Config
	notes  []string
	full   error     // what keeps the audit log from taking more
	now    time.Time // zero: the clock's
	at     string    // where serve listens
}

const name = "gw.example.test"

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{house: newHouse(t), store: &blobs{kept: map[string][]byte{}}}
	ours := newHouse(t)
	key := newKey(t)
	l.own, l.ownPEM = ours.leaf(t, key.Public(), server(name, "only-ours.example.test", "localhost")), text(ours.root)
	own := &tls.Certificate{Certificate: [][]byte{l.own.Raw, ours.issuer.Raw}, PrivateKey: key, Leaf: l.own}
	l.config = Config{
		Own:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil },
		Names: []string{name}, Store: l.store, Log: slog.New(slog.DiscardHandler), Roots: l.pool(),
		Note: l.note, Share: func() float64 { return 0 },
		Now: func() time.Time {
			if l.now.IsZero() {
				return time.Now()
			}
			return l.now
		},
	}
	l.open(t)
	return l
}

// open starts the keeper again, with what is kept.
func (l *lab) open(t testing.TB) {
	t.Helper()
	k, err := New(t.Context(), l.config)
	if err != nil {
		t.Fatal(err)
	}
	l.Keeper = k
}

func (l *lab) note(_ context.Context, action string, _ map[string]string) error {
	if l.full != nil {
		return l.full
	}
	l.notes = append(l.notes, action)
	return nil
}

// bring sets a good certificate with a key of its own.
func (l *lab) bring(t testing.TB, names ...string) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	c := l.leaf(t, key.Public(), server(names...))
	if err := l.Set(t.Context(), l.note, Brought{Chain: text(c, l.issuer), Key: keyText(t, key)}); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve runs an HTTPS server as the gateway's is.
func (l *lab) serve(t testing.TB) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello over %s", r.Proto) }))
	s.TLS = l.Challenged(l.TLS(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", http11}}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	// StartTLS would put a certificate of its own beside ours.
	s.Listener = tls.NewListener(s.Listener, s.TLS)
	s.Start()
	l.at = s.Listener.Addr().String()
	t.Cleanup(s.Close)
	return s
}
