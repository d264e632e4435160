package enroll

import (
	"cmp"
	"net/netip"
	"slices"

	cmpmsg "lazaret/enroll/cmp"
	"lazaret/quarantine"
)

// DefaultMTU leaves room for WireGuard's header over a link of 1500 bytes, in IPv6 too.
const DefaultMTU = 1420

// SettingsFor is what a device is told of its network, in answers here and by the agent
// API. The full network is there only while the device is routed: what it does not have,
// it is not told. An MTU of zero is DefaultMTU.
func SettingsFor(r quarantine.Record, p quarantine.Profile, pools map[string]quarantine.Pool, gateways []cmpmsg.Gateway, mtu int) cmpmsg.Settings {
	s := cmpmsg.Settings{
		Version: 1, Device: string(r.ID), Name: r.Name, MTU: cmp.Or(mtu, DefaultMTU), Gateways: gateways,
	}
	var home quarantine.Pool
	for _, pool := range pools {
		if pool.Quarantine {
			home = pool
		}
	}
	s.Quarantine = network(home, home, r.Seat)
	for _, reach := range home.Reach {
		s.Quarantine.Routes = append(s.Quarantine.Routes, reach.To)
	}
	for _, g := range gateways {
		for _, a := range g.Tunnel {
			s.Quarantine.Routes = append(s.Quarantine.Routes, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	s.Quarantine.Routes = sorted(s.Quarantine.Routes)
	full, ok := pools[r.Pool]
	if r.Stage != quarantine.Routed || !ok || full.Quarantine {
		return s
	}
	from := full
	if p.Addressing == quarantine.Fixed {
		from = home
	}
	s.Full = network(full, from, r.Seat)
	if p.Addressing != quarantine.Fixed {
		// The gateway's ICMP errors to an address of a pool come from its own there. A device
		// that takes no packet from it never hears that one was too big (RFC 8201, section 1).
		for _, a := range full.GatewayAddresses() {
			s.Full.Routes = append(s.Full.Routes, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
	}
	s.Full.Routes = sorted(s.Full.Routes)
	return s
}

// network is pool as a device sees it, with its address from one pool's prefixes.
func network(pool, from quarantine.Pool, seat quarantine.Seat) cmpmsg.Network {
	n := cmpmsg.Network{Pool: pool.Name, Routes: slices.Clone(pool.Routes), DNS: slices.Clone(pool.DNS)}
	v4, v6, err := from.Address(seat)
	if err != nil {
		return n
	}
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			n.Addresses = append(n.Addresses, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return n
}

func sorted(routes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(routes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(routes)
}
