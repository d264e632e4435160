package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/curve25519"

	"lazaret/quarantine/tunnel"
)

// PrivateKey is a WireGuard private key.
type PrivateKey [32]byte

// Public returns the key that peers know the owner by.
func (k PrivateKey) Public() tunnel.Key {
	b, err := curve25519.X25519(k[:], curve25519.Basepoint)
	if err != nil {
		return tunnel.Key{} // cannot be: the base point is no low order point
	}
	return tunnel.Key(b)
}

// WireGuardSpec is a WireGuard interface without agent or gateway around it.
type WireGuardSpec struct {
	Device    string          `json:"device"`
	Key       PrivateKey      `json:"key"`
	Port      uint16          `json:"port,omitempty"` // zero: any
	MTU       int             `json:"mtu,omitempty"`  // 1420 by default
	Addrs     []netip.Prefix  `json:"addrs,omitempty"`
	Peers     []WireGuardPeer `json:"peers"`
	KeepAlive time.Duration   `json:"keepalive,omitempty"`
}

// WireGuardPeer is the other end, or one of them.
type WireGuardPeer struct {
	Key      tunnel.Key     `json:"key"`
	Endpoint netip.AddrPort `json:"endpoint,omitzero"` // zero: waits to be called
	Allowed  []netip.Prefix `json:"allowed"`
}

// WireGuard starts an interface on the host, in a process of its own, and returns
// when it is up with its addresses. It goes away with the process. Routes are the
// caller's.
func (h *Host) WireGuard(ctx context.Context, s WireGuardSpec) (*Process, error) {
	return nil, fmt.Errorf("starting %s on %s: not built yet", s.Device, h.name)
}

func runWireGuard(ctx context.Context, args []string) error { return nil }
