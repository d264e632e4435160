package servercert

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lazaret/pki"
)

// KeyKinds are the keys that a certificate may be asked for; the first is the default.
var KeyKinds = []string{"p256", "p384", "rsa3072"}

// makeKey makes one of KeyKinds; empty is the first.
func makeKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "", "p256":
		return pki.GenerateKey()
	case "p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, invalid(fmt.Sprintf("choose one of %v", KeyKinds), "there is no key %.20q", kind)
}

// maxCommonName is ub-common-name (RFC 5280, appendix A.1).
const maxCommonName = 64

// signRequest returns a request (RFC 2986), DER.
func signRequest(names []string, key crypto.Signer) ([]byte, error) {
	t := &x509.CertificateRequest{DNSNames: names}
	if len(names[0]) <= maxCommonName { // older authorities look for it
		t.Subject = pkix.Name{CommonName: names[0]}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate request: %w", err)
	}
	return der, nil
}

// wanted checks the names to ask for: none means those of the configuration, all of which
// must be among others.
func (k *Keeper) wanted(names []string) ([]string, error) {
	names = lower(names)
	if len(names) == 0 {
		names = k.config.Names
	}
	if len(names) == 0 {
		return nil, invalid("name a host", "enroll.names holds no host name, and a certificate for an address is shown to nobody")
	}
	if len(names) > mostNames {
		return nil, invalid("ask for those that clients use", "there are more than %d names", mostNames)
	}
	for _, n := range names {
		if !isName(n) {
			return nil, invalid("write it like gw.example.com", "%.80q is no host name", n)
		}
	}
	for _, n := range k.config.Names {
		if !slices.Contains(names, n) {
			return nil, invalid("name it, too: all of enroll.names have to be there", "%s is not among the names", n)
		}
	}
	return names, nil
}

const mostNames = 50

// isName accepts what tls.ClientHelloInfo.ServerName can be.
func isName(n string) bool {
	if len(n) == 0 || len(n) > 253 {
		return false
	}
	label, letters := 0, false
	for i, r := range []byte(n) {
		switch {
		case r == '.':
			if label == 0 || n[i-1] == '-' {
				return false
			}
			label = 0
			continue
		case r == '-' && label > 0, r >= '0' && r <= '9', r == '_':
		case r >= 'a' && r <= 'z':
			letters = true
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return letters && label > 0 && n[len(n)-1] != '-'
}

// Request makes a key, which never leaves the gateway, and returns a request for a
// certificate of these names (none: those of the configuration) for it, PEM.
func (k *Keeper) Request(ctx context.Context, note Note, names []string, kind string) ([]byte, []string, error) {
	names, err := k.wanted(names)
	if err != nil {
		return nil, nil, err
	}
	key, err := makeKey(kind)
	if err != nil {
		return nil, nil, err
	}
	der, err := signRequest(names, key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := pki.MarshalKey(key)
	if err != nil {
		return nil, nil, err
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	if k.byACME(ctx) {
		return nil, nil, ErrACME
	}
	all, err := k.requests(ctx)
	if errors.Is(err, errForm) {
		all = savedRequests{Version: 1} // those keys are lost; State tells
	} else if err != nil {
		return nil, nil, err
	}
	all.Requests = append(all.Requests, savedRequest{Key: pkcs8, Names: names, At: k.now()})
	all.Requests = all.Requests[max(0, len(all.Requests)-mostRequests):]
	if err := note(ctx, "certificate.request", map[string]string{"names": clip(strings.Join(names, " "))}); err != nil {
		return nil, nil, err
	}
	if err := k.put(ctx, blobRequests, all); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), names, nil
}

func (k *Keeper) requests(ctx context.Context) (savedRequests, error) {
	all := savedRequests{Version: 1}
	_, err := k.get(ctx, blobRequests, &all)
	if err == nil && all.Version != 1 {
		err = fmt.Errorf("reading %s: %w: version %d is unknown", blobRequests, errForm, all.Version)
	}
	if err != nil {
		return savedRequests{}, err
	}
	return all, nil
}

// Brought is what an administrator brings.
type Brought struct {
	Chain []byte   // PEM, the certificate first; its key may be in it
	Key   []byte   // PEM; empty: the gateway made it
	For   []string // names to show it for; none: all that it bears
}

// Set shows a certificate from now on, or says all that is wrong with it (*Faults).
func (k *Keeper) Set(ctx context.Context, note Note, in Brought) error {
	b, err := Parse(in.Chain, in.Key)
	if err != nil {
		return err
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	if k.byACME(ctx) {
		return ErrACME
	}
	source, waiting := File, savedRequests{}
	if b.Key == nil {
		if waiting, err = k.requests(ctx); err != nil && !errors.Is(err, errForm) {
			return err
		}
		if b.Key, err = k.keyFor(b.Chain[0], waiting); err != nil {
			return err
		}
		source = Request
	}
	roots, err := k.roots()
	if err != nil {
		return err
	}
	b, err = check{names: k.config.Names, now: k.config.Now(), roots: roots}.run(b)
	if err = joinFaults(err, shownFor(b.Chain[0], in.For)); err != nil {
		return err
	}
	detail := about(b.Chain[0])
	detail["source"] = string(source)
	if err := note(ctx, "certificate.set", detail); err != nil {
		return err
	}
	if err := k.keep(ctx, b, saved{Source: source, For: lower(in.For)}); err != nil {
		return err
	}
	if source == Request {
		if err := k.forget(ctx, b, waiting); err != nil { // what was asked for is done
			k.config.Log.Warn("a key whose certificate came is kept among those that wait", "err", err)
		}
	}
	return nil
}

func (k *Keeper) roots() (*x509.CertPool, error) {
	if k.config.Roots != nil {
		return k.config.Roots, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the public authorities: %w", err)
	}
	return pool, nil
}

// shownFor refuses names that the certificate does not bear.
func shownFor(leaf *x509.Certificate, names []string) error {
	var f Faults
	for _, n := range lower(names) {
		if leaf.VerifyHostname(n) != nil {
			f.add("it is to be shown for %.80q, which it does not bear", "leave that name out", n)
		}
	}
	return f.err()
}

// joinFaults makes one list of two.
func joinFaults(a, b error) error {
	x, ok := errors.AsType[*Faults](a)
	y, also := errors.AsType[*Faults](b)
	if !ok || !also {
		return errors.Join(a, b)
	}
	all := append(slices.Clone(*x), *y...)
	return &all
}

// keyFor returns the key that the gateway made for a certificate: one that waits for it, or
// that of the certificate before; nil where there is none.
func (k *Keeper) keyFor(leaf *x509.Certificate, waiting savedRequests) (crypto.Signer, error) {
	for _, r := range waiting.Requests {
		key, err := pki.ParseKey(r.Key)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", blobRequests, errForm)
		}
		if fits(leaf, key) {
			return key, nil
		}
	}
	if s := k.shown.Load(); s != nil && s.saved.Source != File {
		if key, ok := s.certificate.PrivateKey.(crypto.Signer); ok && fits(leaf, key) {
			return key, nil
		}
	}
	return nil, nil
}

// forget drops the key whose certificate has come.
func (k *Keeper) forget(ctx context.Context, b Bundle, waiting savedRequests) error {
	rest := slices.DeleteFunc(slices.Clone(waiting.Requests), func(r savedRequest) bool {
		key, err := pki.ParseKey(r.Key)
		return err == nil && fits(b.Chain[0], key)
	})
	if len(rest) == len(waiting.Requests) {
		return nil
	}
	if len(rest) == 0 {
		return k.config.Store.Delete(ctx, blobRequests)
	}
	return k.put(ctx, blobRequests, savedRequests{Version: 1, Requests: rest})
}

// Unset forgets the certificate and its key: the gateway's own is shown from now on. Keys
// that wait for a certificate stay, unless they cannot be read. ErrNone where there is nothing.
func (k *Keeper) Unset(ctx context.Context, note Note) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	if k.byACME(ctx) {
		return ErrACME
	}
	_, waiting := k.requests(ctx)
	if waiting == nil && k.shown.Load() == nil && k.noShown.Load() == nil {
		return ErrNone
	}
	if err := note(ctx, "certificate.unset", nil); err != nil {
		return err
	}
	if err := k.config.Store.Delete(ctx, blobShown); err != nil {
		return err
	}
	k.shown.Store(nil)
	k.noShown.Store(nil)
	if errors.Is(waiting, errForm) {
		return k.config.Store.Delete(ctx, blobRequests)
	}
	return nil
}
