package testnet

import (
	"context"
	"fmt"
	"net/netip"
)

// NetConfig is what to set up, or take away, on a host. It adds to what is there.
type NetConfig struct {
	Sysctls map[string]string `json:"sysctls,omitempty"` // by path under /proc/sys, with slashes
	Links   []LinkConfig      `json:"links,omitempty"`
	Routes  []Route           `json:"routes,omitempty"`
	Rules   []Rule            `json:"rules,omitempty"`
}

// LinkConfig names an interface, which is set up unless Down says otherwise, and
// its addresses.
type LinkConfig struct {
	Name  string         `json:"name"`
	Down  bool           `json:"down,omitempty"`
	MTU   int            `json:"mtu,omitempty"`
	Addrs []netip.Prefix `json:"addrs,omitempty"`
}

// Route is a route by a neighbour, by an interface alone, or to nowhere. On its
// way into the kernel it replaces one to the same prefix in the same table.
type Route struct {
	To     netip.Prefix `json:"to"`
	Via    netip.Addr   `json:"via,omitzero"`
	Device string       `json:"device,omitempty"`
	From   netip.Addr   `json:"from,omitzero"` // preferred source
	Table  int          `json:"table,omitempty"`
	// Blackhole drops what is sent there, Unreachable answers it with ICMP errors.
	Blackhole   bool `json:"blackhole,omitempty"`
	Unreachable bool `json:"unreachable,omitempty"`
}

// Rule sends what matches to a routing table. Family is 4 or 6, needed where
// neither From nor To tells.
type Rule struct {
	Priority int          `json:"priority"`
	Family   int          `json:"family,omitempty"`
	From     netip.Prefix `json:"from,omitzero"`
	To       netip.Prefix `json:"to,omitzero"`
	Out      string       `json:"out,omitempty"` // sockets bound to this interface
	Table    int          `json:"table"`
}

type configureRequest struct {
	NetConfig
	Remove bool `json:"remove,omitempty"`
}

// Configure adds what c lists. Routes and addresses that are there already are
// replaced.
func (h *Host) Configure(ctx context.Context, c NetConfig) error {
	if err := h.agent.call(ctx, opConfigure, configureRequest{NetConfig: c}, nil); err != nil {
		return fmt.Errorf("configuring %s: %w", h.name, err)
	}
	return nil
}

// Unconfigure takes away the rules, routes and addresses that c lists; its
// sysctls are not looked at.
func (h *Host) Unconfigure(ctx context.Context, c NetConfig) error {
	if err := h.agent.call(ctx, opConfigure, configureRequest{NetConfig: c, Remove: true}, nil); err != nil {
		return fmt.Errorf("unconfiguring %s: %w", h.name, err)
	}
	return nil
}
