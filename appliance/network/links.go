package network

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// Links are the machine's cards and what is built on them, by name, as the kernel has them.
// Entries of the network whose card is missing are there with a problem.
func (m *Manager) Links() []appliance.LinkIs {
	m.mu.Lock()
	defer m.mu.Unlock()
	links, err := allLinks()
	if err != nil {
		return []appliance.LinkIs{{Name: "?", Problem: err.Error()}}
	}
	picked := choose(m.net, facts(links))
	seen := make(map[string]bool)
	var out []appliance.LinkIs
	for _, l := range links {
		c, ok := m.configured(l, picked)
		if !ok && !card(l) {
			continue
		}
		seen[c.Entry] = seen[c.Entry] || ok
		is := describe(l)
		is.Problem = m.problem(l, c, ok)
		out = append(out, is)
	}
	for name, e := range m.net.Ethernets {
		if !seen[name] && order(e.Match) < 2 {
			out = append(out, appliance.LinkIs{Name: name, MAC: strings.ToLower(e.Match.MAC), Problem: "there is no such card"})
		}
	}
	slices.SortFunc(out, func(a, b appliance.LinkIs) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func describe(l netlink.Link) appliance.LinkIs {
	a := l.Attrs()
	is := appliance.LinkIs{Name: a.Name, MAC: a.HardwareAddr.String(), Up: carrier(l)}
	addrs, _ := allAddrs(l, netlink.FAMILY_ALL) // none: the link went away meanwhile
	for _, x := range addrs {
		is.Addresses = append(is.Addresses, fromNet(x.IPNet))
	}
	slices.SortStableFunc(is.Addresses, func(a, b netip.Prefix) int { return rank(a) - rank(b) })
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, _ := allRoutes(l, family)
		for _, r := range routes {
			if got := fromRoute(r, family); got.To.Bits() == 0 && got.Via.IsValid() && r.Table == unix.RT_TABLE_MAIN {
				is.Gateways = append(is.Gateways, got.Via)
			}
		}
	}
	return is
}

// rank puts what people know a machine by first.
func rank(p netip.Prefix) int {
	switch {
	case p.Addr().Is4():
		return 0
	case !p.Addr().IsLinkLocalUnicast():
		return 1
	}
	return 2
}

func (m *Manager) problem(l netlink.Link, c chosen, configured bool) string {
	a := l.Attrs()
	if fault := m.faults[a.Name]; fault != "" {
		return fault
	}
	if !configured {
		return "not configured"
	}
	if !carrier(l) {
		return "nothing is connected"
	}
	for _, six := range []bool{false, true} {
		r := m.clients[clientKey{a.Index, six}]
		if r != nil && r.lease == nil && r.problem != "" && (!six || !c.AcceptRA && !c.DHCP4) {
			return r.problem // DHCPv6 that is silent beside others is no problem
		}
	}
	return ""
}
