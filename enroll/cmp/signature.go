package cmp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// signature is one of the signature algorithms done here.
type signature struct {
	id   OID
	hash crypto.Hash // zero for Ed25519, which hashes by itself
	kind byte        // 'E' ECDSA, 'R' RSA PKCS #1 v1.5, 'D' Ed25519
}

var signatures = []signature{
	{idECDSASHA256, crypto.SHA256, 'E'}, {idECDSASHA384, crypto.SHA384, 'E'}, {idECDSASHA512, crypto.SHA512, 'E'},
	{idRSASHA256, crypto.SHA256, 'R'}, {idRSASHA384, crypto.SHA384, 'R'}, {idRSASHA512, crypto.SHA512, 'R'},
	{idEd25519, 0, 'D'},
}

// parseSignature reads an AlgorithmIdentifier.
func parseSignature(der []byte) (signature, error) {
	id, params, err := algorithm(der)
	if err != nil {
		return signature{}, err
	}
	for _, s := range signatures {
		if s.id == id && params == nil {
			return s, nil
		}
	}
	return signature{}, fmt.Errorf("%w: signature by an unknown or weak algorithm", ErrAlgorithm)
}

// signatureFor chooses the algorithm that fits a key.
func signatureFor(pub crypto.PublicKey) (signature, error) {
	kind := byte(0)
	hash := crypto.SHA256
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		kind = 'E'
		if k.Curve == elliptic.P384() {
			hash = crypto.SHA384
		}
	case *rsa.PublicKey:
		kind = 'R'
	case ed25519.PublicKey:
		kind, hash = 'D', 0
	}
	for _, s := range signatures {
		if s.kind == kind && s.hash == hash {
			return s, s.fits(pub)
		}
	}
	return signature{}, fmt.Errorf("%w: keys of type %T", ErrAlgorithm, pub)
}

func (s signature) identifier() []byte {
	var b builder
	addAlgorithm(&b, s.id, s.kind == 'R') // RFC 4055 wants NULL, RFC 5758 and 8410 nothing
	return b.BytesOrPanic()
}

// fits refuses keys of another kind, too weak, or so large that checking them is a burden.
func (s signature) fits(pub crypto.PublicKey) error {
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = s.kind == 'E' && (k.Curve == elliptic.P256() || k.Curve == elliptic.P384())
	case *rsa.PublicKey:
		ok = s.kind == 'R' && k.N.BitLen() >= 2048 && k.N.BitLen() <= 4096
	case ed25519.PublicKey:
		ok = s.kind == 'D' && len(k) == ed25519.PublicKeySize
	}
	if !ok {
		return fmt.Errorf("%w: want P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits, and a signature of its kind", ErrAlgorithm)
	}
	return nil
}

func (s signature) digest(data []byte) []byte {
	if s.hash == 0 {
		return data
	}
	h := s.hash.New()
	h.Write(data)
	return h.Sum(nil)
}

// verify reports whether sig is pub's over data; the error is ErrAlgorithm.
func (s signature) verify(pub crypto.PublicKey, data, sig []byte) (bool, error) {
	if err := s.fits(pub); err != nil {
		return false, err
	}
	digest := s.digest(data)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, sig), nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, s.hash, digest, sig) == nil, nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, sig), nil
	}
	return false, nil
}

func (s signature) sign(key crypto.Signer, data []byte) ([]byte, error) {
	return key.Sign(rand.Reader, s.digest(data), s.hash)
}

// Signed reports whether the message carries a signature rather than a MAC.
func (m *Message) Signed() bool {
	if len(m.Protection) == 0 || m.Header.Algorithm == nil {
		return false
	}
	id, _, err := algorithm(m.Header.Algorithm)
	return err == nil && id != idPasswordBasedMAC
}

// VerifySignature checks the message's signature with pub. Whose key that is, and whether
// it may sign this, the caller settles. Errors: ErrFormat, ErrUnprotected, ErrAlgorithm,
// ErrProtection.
func (m *Message) VerifySignature(pub crypto.PublicKey) error {
	if m.protected == nil || !m.Signed() {
		return fmt.Errorf("%w: no signature", ErrUnprotected)
	}
	s, err := parseSignature(m.Header.Algorithm)
	if err != nil {
		return err
	}
	ok, err := s.verify(pub, m.protectedPart(), m.Protection)
	if err != nil {
		return err
	}
	if !ok {
		return ErrProtection
	}
	return nil
}

// ProtectSignature signs the message as it now is; later changes to it are not sent.
// Certs, the signer's first and without the root, become ExtraCerts; sender and senderKID
// come from the first (RFC 9483, section 3.1).
func (m *Message) ProtectSignature(key crypto.Signer, certs ...*x509.Certificate) error {
	s, err := signatureFor(key.Public())
	if err != nil {
		return fmt.Errorf("protecting message: %w", err)
	}
	if len(certs) > 0 {
		m.Header.Sender = DirectoryName(certs[0].RawSubject)
		m.Header.SenderKID = nil
		if len(certs[0].SubjectKeyId) > 0 {
			m.Header.SenderKID = certs[0].SubjectKeyId
		}
	}
	m.ExtraCerts = nil
	for _, c := range certs {
		m.ExtraCerts = append(m.ExtraCerts, c.Raw)
	}
	m.Header.Algorithm = s.identifier()
	protected, err := m.encode()
	if err != nil {
		return err
	}
	m.protected = protected
	if m.Protection, err = s.sign(key, m.protectedPart()); err != nil {
		return fmt.Errorf("signing message: %w", err)
	}
	return nil
}

// CertHash is the hash that confirms cert (RFC 9810, section 5.3.18): by the algorithm of
// its signature, SHA-512 for Ed25519 (RFC 9481, section 2.2).
func CertHash(cert *x509.Certificate) ([]byte, error) {
	hash := map[x509.SignatureAlgorithm]crypto.Hash{
		x509.ECDSAWithSHA256: crypto.SHA256, x509.SHA256WithRSA: crypto.SHA256,
		x509.ECDSAWithSHA384: crypto.SHA384, x509.SHA384WithRSA: crypto.SHA384,
		x509.ECDSAWithSHA512: crypto.SHA512, x509.SHA512WithRSA: crypto.SHA512,
		x509.PureEd25519: crypto.SHA512,
	}[cert.SignatureAlgorithm]
	if hash == 0 {
		return nil, fmt.Errorf("%w: certificate signed with %s", ErrAlgorithm, cert.SignatureAlgorithm)
	}
	return signature{hash: hash}.digest(cert.Raw), nil
}
