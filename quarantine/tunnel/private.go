package tunnel

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
)

// ErrWeakKey reports a public key of low order: whatever the private key, the shared
// secret with it is known to everybody (RFC 7748, section 6.1).
var ErrWeakKey = errors.New("public key of low order")

// redacted is all that a PrivateKey prints as.
const redacted = "(private key)"

// PrivateKey is a WireGuard private key: 32 bytes of X25519. It never prints itself:
// the bytes stand behind a pointer, so that not even a struct that hides the key in
// an unexported field shows them. The zero PrivateKey holds no key.
type PrivateKey struct{ key *ecdh.PrivateKey }

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
	return PrivateKey{k}, nil
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
	return k.key.Bytes()
}

// Text returns the secret in base64, for configuration files of stock WireGuard apps.
func (k PrivateKey) Text() string { return base64.StdEncoding.EncodeToString(k.Bytes()) }

// Public returns the public half; the zero Key for the zero PrivateKey.
func (k PrivateKey) Public() Key {
	if k.key == nil {
		return Key{}
	}
	return Key(k.key.PublicKey().Bytes())
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
	secret, err := k.key.ECDH(public)
	if err != nil { // crypto/ecdh refuses an all-zero result, and has no other error here
		return nil, fmt.Errorf("agreeing with %s: %w", other, ErrWeakKey)
	}
	return secret, nil
}

// prober stands in for any private key: the order of a point does not depend on who
// multiplies it, since every clamped scalar is a multiple of 8 and of nothing that
// divides the order of the large subgroup.
var prober = func() PrivateKey {
	k, err := NewPrivateKey(append(bytes.Repeat([]byte{0x40}, 31), 0x40))
	if err != nil {
		panic(err) // 32 constant bytes
	}
	return k
}()

// Valid reports whether k can be a peer's key: not zero and not of low order. An
// X25519 key needs no other check (RFC 7748, section 5).
func (k Key) Valid() bool {
	_, err := prober.Shared(k)
	return err == nil
}

// Format implements fmt.Formatter, for every verb.
func (PrivateKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// String implements fmt.Stringer, for callers that ask by method.
func (PrivateKey) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (PrivateKey) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }
