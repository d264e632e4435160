package cmp

import (
	"crypto"
	"crypto/x509"
	"errors"
	"time"
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

// MACParams are PasswordBasedMac's parameters (RFC 9810, section 5.1.3.1).
type MACParams struct {
	Salt       []byte
	OWF        crypto.Hash // SHA-256, 384 or 512
	Iterations int
	MAC        crypto.Hash // HMAC with SHA-256, 384, 512, or SHA-1 under Policy
}

// NewMACParams returns SHA-256, 500 iterations, HMAC-SHA-256 and a fresh salt of 16 bytes.
func NewMACParams() MACParams { panic("not yet") }

// Fresh returns p with a fresh salt of 16 bytes: an answer uses the algorithms of the request.
func (p MACParams) Fresh() MACParams { panic("not yet") }

// MACParams reads the parameters a message is protected with, without judging them.
// ErrUnprotected if it carries no PasswordBasedMac.
func (m *Message) MACParams() (MACParams, error) { panic("not yet") }

// VerifyMAC checks the message's PasswordBasedMac, in constant time. Parameters are judged
// before anything is computed. Errors: ErrUnprotected, ErrAlgorithm, ErrProtection.
func (m *Message) VerifyMAC(secret []byte, policy Policy) error { panic("not yet") }

// ProtectMAC protects the message as it now is; later changes to it are not sent.
func (m *Message) ProtectMAC(secret []byte, p MACParams) error { panic("not yet") }

// Signed reports whether the message carries a signature rather than a MAC.
func (m *Message) Signed() bool { panic("not yet") }

// VerifySignature checks the message's signature with pub. Whose key that is, and whether
// it may sign this, the caller has settled. Errors: ErrUnprotected, ErrAlgorithm, ErrProtection.
func (m *Message) VerifySignature(pub crypto.PublicKey) error { panic("not yet") }

// ProtectSignature signs the message as it now is. Certs, the signer's first and without
// the root, become ExtraCerts; from the first come sender and senderKID.
func (m *Message) ProtectSignature(key crypto.Signer, certs ...*x509.Certificate) error {
	panic("not yet")
}

// Parse reads one message of at most MaxSize bytes, strictly DER. Errors are ErrFormat.
func Parse(der []byte) (*Message, error) { panic("not yet") }

// Marshal encodes the message: what was protected, or all of it if nothing was.
func (m *Message) Marshal() ([]byte, error) { panic("not yet") }

// MaxSize is the largest message, in bytes.
const MaxSize = 64 << 10

// Refusal is the one answer to anybody whose MAC is not valid: error{rejection,
// badMessageCheck}, unprotected. Its bytes depend on the transaction ID and nonce of h alone.
func Refusal(h Header) []byte { panic("not yet") }

// NewError builds an error message in answer to h, yet to be protected.
func NewError(h Header, now time.Time, fail Failure, text string) *Message { panic("not yet") }

// CertHash is the hash that confirms cert (RFC 9810, section 5.3.18): by the algorithm of
// its signature, SHA-512 for Ed25519.
func CertHash(cert *x509.Certificate) ([]byte, error) { panic("not yet") }

// NullDN is the empty directory name; CommonName names by a single CN; DirectoryName
// wraps a DER Name, such as x509.Certificate.RawSubject.
func NullDN() GeneralName                      { panic("not yet") }
func CommonName(cn string) GeneralName         { panic("not yet") }
func DirectoryName(rawName []byte) GeneralName { panic("not yet") }
