package tunnel

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// ErrWeakKey reports a public key of low order: whatever the private key, the shared
// secret with it is known to everybody (RFC 7748, section 6.1).
var ErrWeakKey = errors.New("public key of low order")

// redacted is all that a PrivateKey prints as.
const redacted = "(private key)"

// PrivateKey is a WireGuard private key: 32 bytes of X25519. It never prints itself:
// the bytes stand behind a function, since package fmt calls no method of a value in
// an unexported field, and shows what a pointer there points to. The zero PrivateKey
// holds no key.
type PrivateKey struct{ key func() *ecdh.PrivateKey }

// GeneratePrivateKey makes a new key from the system's random numbers.
func GeneratePrivateKey() (PrivateKey, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return PrivateKey{}, fmt.Errorf("making a private key: %w", err)
	}
	b[0] &= 248 // as wg(8) stores it; X25519 does the same on use
	b[31] = b[31]&127 | 64
	return NewPrivateKey(b[:])
}

// NewPrivateKey takes the 32 bytes of a private key.
func NewPrivateKey(b []byte) (PrivateKey, error) {
	if len(b) != 32 || bytes.Equal(b, make([]byte, 32)) {
		return PrivateKey{}, fmt.Errorf("%w, and not all of them zero", ErrKey)
	}
	k, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("taking a private key: %w", err)
	}
	return PrivateKey{func() *ecdh.PrivateKey { return k }}, nil
}

// ParsePrivateKey reads the base64 form of wg(8) and of wg-quick files.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return PrivateKey{}, ErrKey // not the text: it may be most of a key
	}
	return NewPrivateKey(b)
}

// IsZero reports whether k holds no key.
func (k PrivateKey) IsZero() bool { return k.key == nil }

// Bytes returns a copy of the 32 secret bytes, for sealing; nil for the zero key.
func (k PrivateKey) Bytes() []byte {
	if k.key == nil {
		return nil
	}
	return k.key().Bytes()
}

// Text returns the secret in base64, for configuration files of stock WireGuard apps.
func (k PrivateKey) Text() string { return base64.StdEncoding.EncodeToString(k.Bytes()) }

// Public returns the public half; the zero Key for the zero PrivateKey.
func (k PrivateKey) Public() Key {
	if k.key == nil {
		return Key{}
	}
	return Key(k.key().PublicKey().Bytes())
}

// Shared returns the X25519 shared secret with other. It refuses a key of low order
// (ErrWeakKey): an all-zero secret must never become one (RFC 7748, section 6.1).
func (k PrivateKey) Shared(other Key) ([]byte, error) {
	if k.key == nil {
		return nil, fmt.Errorf("agreeing with %s: no private key", other)
	}
	public, err := ecdh.X25519().NewPublicKey(other[:])
	if err != nil {
		return nil, fmt.Errorf("agreeing with %s: %w", other, err)
	}
	secret, err := k.key().ECDH(public)
	if err != nil { // crypto/ecdh refuses an all-zero result, and has no other error here
		return nil, fmt.Errorf("agreeing with %s: %w", other, ErrWeakKey)
	}
	return secret, nil
}

// weak are the encodings of the points of order 1, 2, 4 and 8 on the curve and its
// twist, with the top bit clear: 0, 1, the two of order 8, p-1, p and p+1 (the list of
// cr.yp.to/ecdh.html; a test holds it against crypto/ecdh). A list, since a
// multiplication per key would cost a plan of 100,000 devices four seconds.
var weak = [7]Key{
	{},
	{0: 1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	field(0xec), field(0xed), field(0xee),
}

// field is 2^255-256 plus last: p is field(0xed).
func field(last byte) Key {
	k := Key(bytes.Repeat([]byte{0xff}, 32))
	k[0], k[31] = last, 0x7f
	return k
}

// Valid reports whether k can be a peer's key: not zero and not of low order. An
// X25519 key needs no other check (RFC 7748, section 5, which also has the top bit ignored).
func (k Key) Valid() bool {
	k[31] &= 0x7f
	return !slices.Contains(weak[:], k)
}

// Format implements fmt.Formatter, for every verb.
func (PrivateKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// String implements fmt.Stringer, for callers that ask by method.
func (PrivateKey) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (PrivateKey) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }
