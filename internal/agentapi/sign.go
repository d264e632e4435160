package agentapi

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Domains of signatures: what is signed as one thing is never taken for another.
const (
	domainWelcome = "lazaret management session welcome v1"
	domainResync  = "lazaret management session resync v1"
	domainProof   = "lazaret management session proof v1"
	domainCommand = "lazaret command v1"
	domainResult  = "lazaret command result v1"
	domainWake    = "lazaret wake-up v1"
)

// ErrSignature reports a signature that is not of whom, or not over what, it has to be.
var ErrSignature = errors.New("the signature is wrong")

// digest is SHA-256 over the domain and the parts, each behind its length.
func digest(domain string, parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(domain)}, parts...) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return h.Sum(nil)
}

// sign signs with a key on P-256 or P-384 (ECDSA, SHA-256, ASN.1) or of Ed25519.
func sign(key crypto.Signer, domain string, parts ...[]byte) ([]byte, error) {
	opts := crypto.SignerOpts(crypto.SHA256)
	switch key.Public().(type) {
	case *ecdsa.PublicKey:
	case ed25519.PublicKey:
		opts = crypto.Hash(0)
	default:
		return nil, fmt.Errorf("signing: keys of type %T do not sign here", key.Public())
	}
	sig, err := key.Sign(rand.Reader, digest(domain, parts...), opts)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return sig, nil
}

// verify returns nil or an error that wraps ErrSignature.
func verify(pub crypto.PublicKey, sig []byte, domain string, parts ...[]byte) error {
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest(domain, parts...), sig)
	case ed25519.PublicKey:
		ok = len(k) == ed25519.PublicKeySize && ed25519.Verify(k, digest(domain, parts...), sig)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// number is a number as it stands in what is signed.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// OIDSigner is id-kp-configSigning (RFC 9809, section 3), the one usage of the certificate
// that a management signer has. Nothing else in the hierarchy has it.
var OIDSigner = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 41}

// maxChain bounds a signer's chain, in certificates and in bytes of one.
const (
	maxChain       = 3
	maxCertificate = 4096
)

// Signer is a management signer that a device believes.
type Signer struct {
	Key crypto.PublicKey
	ID  [4]byte // names it in a wake-up
}

// SignerID is the first bytes of SHA-256 of a signer's SubjectPublicKeyInfo. It names a
// signer, and proves nothing.
func SignerID(cert *x509.Certificate) (id [4]byte) {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	copy(id[:], sum[:])
	return id
}

// CheckSigner returns the signer whose certificate comes first in the chain, DER, if it
// leads to root at now and is a management signer's and nothing else.
func CheckSigner(chain [][]byte, root *x509.Certificate, now time.Time) (Signer, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return Signer{}, fmt.Errorf("checking the management signer: a chain of %d certificates", len(chain))
	}
	pool, roots := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	var leaf *x509.Certificate
	for i, der := range chain {
		if len(der) > maxCertificate {
			return Signer{}, fmt.Errorf("checking the management signer: a certificate of %d bytes", len(der))
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return Signer{}, fmt.Errorf("checking the management signer: %w", err)
		}
		if i == 0 {
			leaf = cert
		} else {
			pool.AddCert(cert)
		}
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 0 ||
		len(leaf.UnknownExtKeyUsage) != 1 || !leaf.UnknownExtKeyUsage[0].Equal(OIDSigner) || bytes.Equal(leaf.Raw, root.Raw) {
		return Signer{}, errors.New("checking the management signer: its certificate is for another use")
	}
	// crypto/x509 cannot ask for this usage: it was compared above.
	opts := x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := leaf.Verify(opts); err != nil {
		return Signer{}, fmt.Errorf("checking the management signer: %w", err)
	}
	return Signer{Key: leaf.PublicKey, ID: SignerID(leaf)}, nil
}
