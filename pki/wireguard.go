package pki

import (
	"encoding/base64"
	"errors"
	"net/url"
)

const schemeWireGuard = "wireguard"

// WireGuardURI returns wireguard:<base64url key without padding>, the name by which a
// certificate binds a device's WireGuard key.
func WireGuardURI(key [32]byte) *url.URL {
	return &url.URL{Scheme: schemeWireGuard, Opaque: base64.RawURLEncoding.EncodeToString(key[:])}
}

// ParseWireGuardURI reads what WireGuardURI wrote, and nothing else: there is one URI for
// each key. It does not judge the key.
func ParseWireGuardURI(u *url.URL) ([32]byte, error) {
	var key [32]byte
	if u == nil || u.Scheme != schemeWireGuard {
		return key, errors.New("parsing WireGuard URI: scheme is not wireguard")
	}
	b, err := base64.RawURLEncoding.DecodeString(u.Opaque)
	if err != nil || len(b) != len(key) {
		return key, errors.New("parsing WireGuard URI: want 32 bytes in base64url without padding")
	}
	copy(key[:], b)
	if WireGuardURI(key).String() != u.String() { // a line break, spare bits, a query, a fragment
		return [32]byte{}, errors.New("parsing WireGuard URI: holds more than a key")
	}
	return key, nil
}
