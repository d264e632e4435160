package cmp

import (
	"errors"

	"golang.org/x/crypto/cryptobyte/asn1"
)

var (
	ErrFormat      = errors.New("not a well-formed CMP message")
	ErrUnprotected = errors.New("message is not protected as required")
	ErrProtection  = errors.New("message protection does not match")
	ErrAlgorithm   = errors.New("algorithm not allowed")
	ErrPOP         = errors.New("proof of possession does not match")
)

// Policy says which of the weaker algorithms are accepted. The zero Policy is the strict one.
type Policy struct {
	AllowSHA1 bool // HMAC-SHA-1 as PasswordBasedMac's MAC: OpenSSL 3.0's default
}

// protectedPart is what MAC and signature cover: DER(SEQUENCE{header, body}), out of the
// very bytes received.
func (m *Message) protectedPart() []byte { return retag(asn1.SEQUENCE, m.protected) }

// algorithm splits an AlgorithmIdentifier; params is nil where they are absent or NULL.
func algorithm(der []byte) (id OID, params []byte, err error) {
	r := newReader(der)
	s := r.enter(asn1.SEQUENCE, "algorithm")
	id = s.oid("algorithm")
	if !s.in.Empty() && !s.in.PeekASN1Tag(asn1.NULL) {
		params = s.element("parameters")
	} else if !s.in.Empty() {
		s.enter(asn1.NULL, "parameters")
	}
	s.end("the parameters")
	r.end("the algorithm")
	return id, params, r.err()
}

// addAlgorithm adds an AlgorithmIdentifier, with NULL for parameters or with none.
func addAlgorithm(b *builder, id OID, null bool) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		addOID(b, id)
		if null {
			b.AddASN1NULL()
		}
	})
}
