package cmp

import (
	"crypto"
	"crypto/hmac"
	_ "crypto/sha1" // HMAC-SHA-1, under Policy
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of PasswordBasedMac: the sender chooses the parameters and the receiver pays.
const (
	minIterations = 100 // RFC 9810, section 5.1.3.1
	maxIterations = 10_000
	minSalt       = 8
	maxSalt       = 128
)

// MACParams are PasswordBasedMac's parameters (RFC 9810, section 5.1.3.1).
type MACParams struct {
	Salt       []byte
	OWF        crypto.Hash // SHA-256, 384 or 512
	Iterations int         // 100 to 10,000
	MAC        crypto.Hash // of HMAC: SHA-256, 384, 512, or SHA-1 under Policy
}

// NewMACParams returns SHA-256, 500 iterations, HMAC-SHA-256 and a fresh salt of 16 bytes.
// More iterations would only slow a secret of 80 random bits down.
func NewMACParams() MACParams {
	return MACParams{OWF: crypto.SHA256, Iterations: 500, MAC: crypto.SHA256}.Fresh()
}

// Fresh returns p with a fresh salt: an answer uses the algorithms of the request.
func (p MACParams) Fresh() MACParams {
	p.Salt = random16()
	return p
}

// MACParams reads the parameters a message is protected with, without judging them.
// ErrUnprotected if it carries no PasswordBasedMac; an algorithm unknown here is zero.
func (m *Message) MACParams() (MACParams, error) {
	if len(m.Protection) == 0 || m.Header.Algorithm == nil {
		return MACParams{}, fmt.Errorf("%w: no MAC", ErrUnprotected)
	}
	id, params, err := algorithm(m.Header.Algorithm)
	if err != nil {
		return MACParams{}, err
	}
	if id != idPasswordBasedMAC {
		return MACParams{}, fmt.Errorf("%w: not by PasswordBasedMac", ErrUnprotected)
	}
	r := newReader(params)
	s := r.enter(asn1.SEQUENCE, "PBMParameter")
	p := MACParams{Salt: s.octets("salt")}
	owf := s.elementOf(asn1.SEQUENCE, "owf")
	iterations := s.integer("iterationCount")
	mac := s.elementOf(asn1.SEQUENCE, "mac")
	s.end("the MAC's algorithm")
	r.end("PBMParameter")
	if err := r.err(); err != nil {
		return MACParams{}, err
	}
	p.Iterations = int(min(max(iterations, -1), maxIterations+1))
	p.OWF, p.MAC = find(owfIDs, owf), find(macIDs, mac)
	return p, nil
}

var (
	owfIDs = map[crypto.Hash]OID{crypto.SHA256: idSHA256, crypto.SHA384: idSHA384, crypto.SHA512: idSHA512}
	macIDs = map[crypto.Hash]OID{
		crypto.SHA1: idHMACSHA1IPsec, crypto.SHA256: idHMACSHA256, crypto.SHA384: idHMACSHA384, crypto.SHA512: idHMACSHA512,
	}
)

// find returns the hash whose identifier der is, or zero if there is none or it is malformed.
func find(ids map[crypto.Hash]OID, der []byte) crypto.Hash {
	id, params, err := algorithm(der)
	if err != nil || params != nil {
		return 0
	}
	if id == idHMACSHA1 { // the other name of HMAC-SHA-1
		id = idHMACSHA1IPsec
	}
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if ids[hash] == id {
			return hash
		}
	}
	return 0
}

// allowed judges the parameters before anything is computed from them.
func (p MACParams) allowed(policy Policy) error {
	if owfIDs[p.OWF] == "" || macIDs[p.MAC] == "" {
		return fmt.Errorf("%w: PasswordBasedMac needs SHA-256, SHA-384 or SHA-512", ErrAlgorithm)
	}
	if p.MAC == crypto.SHA1 && !policy.AllowSHA1 {
		return fmt.Errorf("%w: HMAC-SHA-1 is switched off (with openssl cmp, add -mac hmacWithSHA256)", ErrAlgorithm)
	}
	if p.Iterations < minIterations || p.Iterations > maxIterations {
		return fmt.Errorf("%w: iteration count is not between %d and %d", ErrAlgorithm, minIterations, maxIterations)
	}
	if len(p.Salt) < minSalt || len(p.Salt) > maxSalt {
		return fmt.Errorf("%w: salt of %d bytes", ErrAlgorithm, len(p.Salt))
	}
	return nil
}

// mac computes PasswordBasedMac over data. The key of HMAC is the whole output of the
// one-way function, whatever HMAC's hash, as OpenSSL has it.
func (p MACParams) mac(secret, data []byte) []byte {
	h := p.OWF.New()
	h.Write(secret)
	h.Write(p.Salt)
	key := h.Sum(nil)
	for range p.Iterations - 1 {
		h.Reset()
		h.Write(key)
		key = h.Sum(key[:0])
	}
	mac := hmac.New(p.MAC.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

// VerifyMAC checks the message's PasswordBasedMac, in constant time. Parameters are judged
// before anything is computed. Errors: ErrFormat, ErrUnprotected, ErrAlgorithm, ErrProtection.
func (m *Message) VerifyMAC(secret []byte, policy Policy) error {
	p, err := m.MACParams()
	if err != nil {
		return err
	}
	if err := p.allowed(policy); err != nil {
		return err
	}
	if m.protected == nil || !hmac.Equal(p.mac(secret, m.protectedPart()), m.Protection) {
		return ErrProtection
	}
	return nil
}

// ProtectMAC protects the message as it now is; later changes to it are not sent.
func (m *Message) ProtectMAC(secret []byte, p MACParams) error {
	if err := p.allowed(Policy{AllowSHA1: true}); err != nil {
		return fmt.Errorf("protecting message: %w", err)
	}
	m.Header.Algorithm = p.identifier()
	protected, err := m.encode()
	if err != nil {
		return err
	}
	m.protected = protected
	m.Protection = p.mac(secret, m.protectedPart())
	return nil
}

func (p MACParams) identifier() []byte {
	var b builder
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		addOID(b, idPasswordBasedMAC)
		b.AddASN1(asn1.SEQUENCE, func(b *builder) {
			b.AddASN1OctetString(p.Salt)
			addAlgorithm(b, owfIDs[p.OWF], false)
			b.AddASN1Int64(int64(p.Iterations))
			addAlgorithm(b, macIDs[p.MAC], false)
		})
	})
	return b.BytesOrPanic()
}
