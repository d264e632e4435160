// Package tunnel is the WireGuard link and its peers: kernel WireGuard where the
// kernel has it, wireguard-go elsewhere. It knows keys and addresses, and nothing
// of devices, pools or certificates.
package tunnel

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Key is a WireGuard public key: 32 bytes of Curve25519. The zero Key names no peer.
type Key [32]byte

// ErrKey reports text that is no WireGuard key.
var ErrKey = errors.New("not a WireGuard key: want 32 bytes in base64")

// ParseKey reads a key in the base64 form that wg(8) prints.
func ParseKey(s string) (Key, error) {
	var k Key
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) {
		return Key{}, fmt.Errorf("%w (got %d characters)", ErrKey, len(s))
	}
	copy(k[:], b)
	return k, nil
}

// String returns the base64 form that wg(8) prints.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k == Key{} }

// MarshalText implements encoding.TextMarshaler; the zero Key is the empty text.
func (k Key) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return nil, nil
	}
	return []byte(k.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*k = Key{}
		return nil
	}
	parsed, err := ParseKey(string(b))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// Peer is one peer of the link as it should be. AllowedIPs holds whole addresses
// (/32 and /128); a peer without any is known to the link but can send nothing.
type Peer struct {
	Key        Key
	AllowedIPs []netip.Prefix
	Endpoint   netip.AddrPort // zero: learnt from the peer's packets
	KeepAlive  time.Duration  // zero: none
}

// PeerStatus is what the link saw of a peer.
type PeerStatus struct {
	Peer
	LastHandshake time.Time // zero: never
	Received      uint64    // bytes
	Sent          uint64    // bytes
}
