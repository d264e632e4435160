// Package pki makes certificates: the organization's root and issuing authorities,
// and every leaf below them. It builds each certificate from what was admitted, never
// from what a device asked for, and asserts every field of the result before it hands
// it out. It keeps no records and knows nothing of devices, users or protocols.
package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"time"
)

// Kind is what a leaf certificate is for. The zero Kind is issued to nobody.
type Kind string

const (
	Device        Kind = "device"        // clientAuth, by the devices' authority
	Server        Kind = "server"        // serverAuth, by the servers' authority
	Administrator Kind = "administrator" // clientAuth, by the administrators' authority
	// Responder signs CMP answers: id-kp-cmcRA (RFC 6402, section 2.10), by the servers'
	// authority. It is a service of the gateway, and the devices' authority stays for
	// clientAuth alone: whatever is issued to a device can never sign for the gateway.
	Responder Kind = "responder"
)

var (
	// ErrKey reports a public key that the key policy refuses.
	ErrKey = errors.New("public key not accepted")
	// ErrPOP reports a certificate request whose signature does not prove possession of its key.
	ErrPOP = errors.New("no proof of possession of the private key")
	// ErrRequest reports a Request that no certificate can be issued for.
	ErrRequest = errors.New("certificate cannot be issued")
)

// backdate is how far certificates begin before they are made, for clocks that lag.
const backdate = 5 * time.Minute

// oidCMCRA is id-kp-cmcRA (27 is id-kp-cmcCA, the authority itself).
var oidCMCRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// profile is what a kind of leaf is, and may have.
type profile struct {
	issuer      Kind // the kind whose authority issues it
	usage       []x509.ExtKeyUsage
	unknown     []asn1.ObjectIdentifier // usages that crypto/x509 has no name for
	uris, hosts bool                    // names it may have
}

func (k Kind) profile() (profile, bool) {
	switch k {
	case Device, Administrator:
		return profile{issuer: k, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, uris: true}, true
	case Server:
		return profile{issuer: k, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, hosts: true}, true
	case Responder:
		return profile{issuer: Server, unknown: []asn1.ObjectIdentifier{oidCMCRA}}, true
	case Manager:
		return profile{issuer: Server, unknown: []asn1.ObjectIdentifier{oidConfigSigning}}, true
	}
	return profile{}, false
}

// KeyPair is a certificate and the private key of its public key. The key may be any
// crypto.Signer: a key in memory, or one that stays in a TPM or a token.
type KeyPair struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// check returns an error unless both are there and belong together.
func (p KeyPair) check() error {
	if p.Certificate == nil || p.Key == nil {
		return errors.New("certificate or private key missing")
	}
	pub, ok := p.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(p.Certificate.PublicKey) {
		return errors.New("private key belongs to another certificate")
	}
	return nil
}

// signer signs a template, for the public key in it. What it returns is asserted, not
// believed.
type signer interface {
	sign(template *x509.Certificate) (der []byte, err error)
}

// sign makes a certificate below p's: with p's subject as its issuer, and p's key identifier.
func (p KeyPair) sign(template *x509.Certificate) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, p.Certificate, template.PublicKey, p.Key)
}
