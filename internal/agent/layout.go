package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/quarantine/tunnel"
)

const (
	// Routes into the tunnel stand in tables of their own, which the tunnel's own packets
	// do not look at: managementTable before the device's ordinary routes, so that a
	// management server is reached through the tunnel even if it seems to be near;
	// poolTable behind them.
	managementTable = 51820
	poolTable       = 51821
	// mark is on the tunnel's own packets.
	mark = 0x6c7a
	// keepAlive holds the way through address translators open.
	keepAlive = 25 * time.Second
)

// layout is the device's network as the settings want it: pure, so that one change of
// placement touches only what differs.
type layout struct {
	Addresses []netip.Prefix
	Routes    []tunnel.Route
	Peer      tunnel.Peer
	DNS       []netip.Addr // none: as the device has it
	Routed    bool
}

// layoutFor works out addresses, routes and the peer. Management traffic always leaves
// with the quarantine address, everything else with the pool's; so a move never touches
// the management session.
func layoutFor(s cmp.Settings, via way) (layout, error) {
	g, err := gatewayOf(s, via)
	if err != nil {
		return layout{}, err
	}
	key, err := tunnel.ParseKey(g.WireGuard)
	if err != nil {
		return layout{}, fmt.Errorf("gateway %s: %w", g.Name, err)
	}
	l := layout{
		Addresses: slices.Clone(s.Quarantine.Addresses),
		Peer:      tunnel.Peer{Key: key, Endpoint: via.Endpoint, KeepAlive: keepAlive},
		DNS:       s.Quarantine.DNS,
		Routed:    len(s.Full.Addresses) > 0,
	}
	if l.Routed {
		l.DNS = s.Full.DNS
	}
	l.DNS = slices.DeleteFunc(slices.Clone(l.DNS), unfit)
	for _, own := range s.Full.Addresses { // the same ones, where addressing is fixed
		if !slices.Contains(l.Addresses, own) {
			l.Addresses = append(l.Addresses, own)
		}
	}
	if len(s.Quarantine.Addresses) == 0 {
		return layout{}, fmt.Errorf("the gateway gave this device no address")
	}
	allowed := map[netip.Prefix]bool{}
	add := func(to netip.Prefix, from []netip.Prefix, table int) {
		src := sourceFor(to, from)
		if !src.IsValid() || allowed[to] {
			return // no address of that family, or there already
		}
		allowed[to] = true
		l.Routes = append(l.Routes, tunnel.Route{To: to, Source: src, Table: table})
		l.Peer.AllowedIPs = append(l.Peer.AllowedIPs, to)
	}
	for _, a := range g.Tunnel {
		add(netip.PrefixFrom(a, a.BitLen()), s.Quarantine.Addresses, managementTable)
	}
	for _, to := range s.Quarantine.Routes {
		add(to, s.Quarantine.Addresses, managementTable)
	}
	for _, to := range s.Full.Routes {
		add(to, s.Full.Addresses, poolTable)
	}
	return l, nil
}

// unfit says that an address is not for a resolver's file: a zone names an interface of
// somebody else's, and may hold anything, also the end of a line.
func unfit(server netip.Addr) bool { return !server.IsValid() || server.Zone() != "" }

// sourceFor picks the own address of the destination's family.
func sourceFor(to netip.Prefix, own []netip.Prefix) netip.Addr {
	for _, p := range own {
		if p.Addr().Is4() == to.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// equal compares all but the DNS servers, which are set by themselves.
func (l layout) equal(o layout) bool {
	return slices.Equal(l.Addresses, o.Addresses) && slices.Equal(l.Routes, o.Routes) && l.Routed == o.Routed &&
		l.Peer.Key == o.Peer.Key && l.Peer.Endpoint == o.Peer.Endpoint && slices.Equal(l.Peer.AllowedIPs, o.Peer.AllowedIPs)
}
