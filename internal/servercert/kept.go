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

// load reads certificate and ACME account. What is whole is used, whatever the other is.
func (k *Keeper) load(ctx context.Context) error {
	var s saved
	ok, err := k.get(ctx, blobShown, &s)
	if ok {
		var read *kept
		if read, err = s.open(); err == nil {
			k.shown.Store(read)
		}
	}
	var a account
	there, broken := k.get(ctx, blobACME, &a)
	if there && a.Version != 1 {
		broken = fmt.Errorf("reading %s: version %d is unknown", blobACME, a.Version)
	}
	if there && broken == nil {
		k.acme.Store(&a)
	}
	return errors.Join(err, broken)
}

func (s saved) open() (*kept, error) {
	if s.Version != 1 || len(s.Chain) == 0 {
		return nil, fmt.Errorf("reading %s: version %d is unknown", blobShown, s.Version)
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", blobShown, err)
	}
	key, err := pki.ParseKey(s.Key)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", blobShown, errForm)
	}
	if !fits(leaf, key) {
		return nil, fmt.Errorf("reading %s: the key is another certificate's", blobShown)
	}
	return &kept{saved: s, certificate: &tls.Certificate{Certificate: s.Chain, PrivateKey: key, Leaf: leaf}}, nil
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
	s.Version, s.Key, s.At = 1, key, k.config.Now().UTC()
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
	k.broken.Store(nil)
	return nil
}
