// Package cmp is the Certificate Management Protocol (RFC 9810, profile RFC 9483) as
// a pure codec: parse, build, protect. It opens no connection and keeps no state.
package cmp

import "net/netip"

// Welcome is what message 2 (genp) tells a device that has shown a valid MAC.
// Versioned; carried as JSON in a private information type.
type Welcome struct {
	Version      int       `json:"v"`             // 1
	ListenerKeys [][]byte  `json:"listener_keys"` // SHA-256 of each SPKI the listeners may show, current and next
	ProofKeyID   string    `json:"proof_key_id"`
	ProofKey     []byte    `json:"proof_key"` // X25519, 32 bytes
	Gateways     []Gateway `json:"gateways"`
}

// Gateway is one gateway a device may connect to.
type Gateway struct {
	Name      string       `json:"name"`
	WireGuard string       `json:"wireguard"`         // base64 public key
	Endpoints []string     `json:"endpoints"`         // host:port, UDP
	Tunnel    []netip.Addr `json:"tunnel"`            // its addresses inside the quarantine pool
	API       string       `json:"api"`               // base URL of the agent API on the tunnel address
	Portal    string       `json:"portal,omitempty"`  // URL of the page that says where the device stands; empty: none
	Captive   string       `json:"captive,omitempty"` // URL of the captive portal API (RFC 8908)
}

// Settings is what messages ip, cp and kup tell a device about its network, and what
// the agent API repeats. Versioned; carried as JSON in a private information type.
type Settings struct {
	Version    int       `json:"v"` // 1
	Device     string    `json:"device"`
	Name       string    `json:"name"`
	Quarantine Network   `json:"quarantine"`
	Full       Network   `json:"full"` // what it gets when routed; Addresses empty: not while quarantined
	MTU        int       `json:"mtu"`
	Gateways   []Gateway `json:"gateways"`
}

// Network is one pool as a device sees it.
type Network struct {
	Pool      string         `json:"pool"`
	Addresses []netip.Prefix `json:"addresses"` // /32 and /128
	Routes    []netip.Prefix `json:"routes"`    // quarantine: the management servers and the gateway
	DNS       []netip.Addr   `json:"dns,omitempty"`
}
