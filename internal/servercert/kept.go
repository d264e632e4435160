package servercert

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"lazaret/pki"
)

// Source says where a certificate comes from.
type Source string

const (
	Own     Source = "own"     // the gateway's issuing authority
	File    Source = "file"    // brought with its key
	Request Source = "request" // brought for a key that the gateway made
	ACME    Source = "acme"
)

// saved is the blob of the certificate.
type saved struct {
	Version int       `json:"v"` // 1
	Source  Source    `json:"source"`
	Chain   [][]byte  `json:"chain"` // DER, the leaf first, without a root
	Key     []byte    `json:"key"`   // PKCS#8
	For     []string  `json:"for,omitempty"`
	At      time.Time `json:"at"`
	Renew   time.Time `json:"renew,omitzero"` // by ACME
}

// kept is a certificate as it is shown; it is never changed once it is published.
type kept struct {
	saved       saved
	certificate *tls.Certificate
	begin, end  time.Time // of the whole chain
}

// span is when all certificates of a chain are valid.
func span(chain []*x509.Certificate) (begin, end time.Time) {
	begin, end = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		begin = latest(begin, c.NotBefore)
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return begin, end
}

func (s *kept) leaf() *x509.Certificate { return s.certificate.Leaf }

// savedRequests is the blob of the keys that certificates were asked for, the newest last.
type savedRequests struct {
	Version  int            `json:"v"` // 1
	Requests []savedRequest `json:"requests"`
}

type savedRequest struct {
	Key   []byte    `json:"key"` // PKCS#8
	Names []string  `json:"names"`
	At    time.Time `json:"at"`
}

// mostRequests is how many keys wait for their certificates; the oldest goes first.
const mostRequests = 4

// errForm hides a cause that could quote a key.
var errForm = errors.New("not in the form it was saved")

// get reads a blob; the answer is whether there is one.
func (k *Keeper) get(ctx context.Context, name string, v any) (bool, error) {
	blob, err := k.config.Store.Get(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", name, err)
	}
	if json.Unmarshal(blob, v) != nil {
		return false, fmt.Errorf("reading %s: %w", name, errForm)
	}
	return true, nil
}

func (k *Keeper) put(ctx context.Context, name string, v any) error {
	blob, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("keeping %s: %w", name, errForm)
	}
	if err := k.config.Store.Put(ctx, name, blob); err != nil {
		return fmt.Errorf("keeping %s: %w", name, err)
	}
	return nil
}

// fault is why a blob is not in use.
type fault struct{ err error }

// passing says whether the blob itself may be well: the store did not give it.
func (f *fault) passing() bool { return f != nil && !errors.Is(f.err, errForm) }

// say is what a person is told, with what to do.
func (f *fault) say(remedy string) string {
	if f.passing() {
		remedy = "it is tried again by itself; if this stays: " + remedy
	}
	return clip(f.err.Error()) + "; " + remedy
}

// load reads certificate and ACME account. What is whole is used, whatever the other is.
func (k *Keeper) load(ctx context.Context) {
	k.loadShown(ctx)
	k.loadACME(ctx)
}

// reload reads again what the store could not give.
func (k *Keeper) reload(ctx context.Context) {
	if k.noShown.Load().passing() {
		k.loadShown(ctx)
	}
	if k.noACME.Load().passing() {
		k.loadACME(ctx)
	}
}

func (k *Keeper) loadShown(ctx context.Context) {
	var s saved
	var read *kept
	ok, err := k.get(ctx, blobShown, &s)
	if ok {
		read, err = s.open()
	}
	if err != nil {
		k.config.Log.Error("the server certificate that was brought or obtained cannot be read: the gateway's own is shown", "err", err)
		k.noShown.Store(&fault{err})
		return
	}
	k.shown.Store(read)
	k.noShown.Store(nil)
}

func (k *Keeper) loadACME(ctx context.Context) {
	var a account
	ok, err := k.get(ctx, blobACME, &a)
	if ok && a.Version != 1 {
		err = fmt.Errorf("reading %s: %w: version %d is unknown", blobACME, errForm, a.Version)
	}
	if err != nil {
		k.config.Log.Error("what is set for ACME cannot be read: no server certificate is asked for", "err", err)
		k.noACME.Store(&fault{err})
		return
	}
	if ok {
		k.acme.Store(&a)
	}
	k.noACME.Store(nil)
}

// byACME says whether it is ACME that certificates come by, or may be.
func (k *Keeper) byACME(ctx context.Context) bool {
	k.reload(ctx)
	return k.acme.Load() != nil || k.noACME.Load() != nil
}

func (s saved) open() (*kept, error) {
	if s.Version != 1 || len(s.Chain) == 0 {
		return nil, fmt.Errorf("reading %s: %w: version %d is unknown", blobShown, errForm, s.Version)
	}
	var chain []*x509.Certificate
	for _, der := range s.Chain {
		c, err := parseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w: %w", blobShown, errForm, err)
		}
		chain = append(chain, c)
	}
	leaf := chain[0]
	key, err := pki.ParseKey(s.Key)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", blobShown, errForm)
	}
	if !fits(leaf, key) {
		return nil, fmt.Errorf("reading %s: %w: the key is another certificate's", blobShown, errForm)
	}
	begin, end := span(chain)
	return &kept{saved: s, begin: begin, end: end, certificate: &tls.Certificate{Certificate: s.Chain, PrivateKey: key, Leaf: leaf}}, nil
}

// fits says whether key is the certificate's.
func fits(leaf *x509.Certificate, key crypto.Signer) bool {
	sum, err := pki.SPKISum(key.Public())
	return err == nil && sum == pki.CertificateSPKISum(leaf)
}

// keep saves a certificate and shows it from then on.
func (k *Keeper) keep(ctx context.Context, b Bundle, s saved) error {
	key, err := pki.MarshalKey(b.Key)
	if err != nil {
		return err
	}
	s.Version, s.Key, s.At = 1, key, k.now()
	for _, c := range b.Chain {
		s.Chain = append(s.Chain, c.Raw)
	}
	next, err := s.open()
	if err != nil {
		return err
	}
	if err := k.put(ctx, blobShown, s); err != nil {
		return err
	}
	k.shown.Store(next)
	k.noShown.Store(nil)
	return nil
}
