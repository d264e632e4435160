package appliance

import (
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"lazaret/internal/form"
)

// Bounds of a network: far above what a gateway has, and small enough that a wrong
// document costs nothing.
const (
	maxLinks  = 64
	maxOnLink = 64 // addresses, routes and name servers of one link, each
)

// BondModes are those of the kernel, by netplan's names.
var BondModes = []string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}

// linkName is what the kernel takes as a link's name (IFNAMSIZ) without what paths and
// consoles stumble over.
var linkName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,14}$`) })

// reserved are links of others: the loopback and the tunnel with its shards.
var reserved = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(lo|lz[0-9]+.*|wg[0-9]+|all|default)$`) })

// reporter takes one fault at a path.
type reporter func(path, format string, args ...any)

// check reports what is wrong; path is that of the network in its document, "" or ending in a dot.
func (n Network) check(path string, fault reporter) {
	if n.Version != 2 {
		fault(path+"version", "version: must be 2")
	}
	if count := len(n.Ethernets) + len(n.Bonds) + len(n.VLANs); count > maxLinks {
		fault(path+"ethernets", "there are %d links; the most is %d", count, maxLinks)
		return
	}
	used := make(map[string]string) // members of bonds
	seen := make(map[string]string) // names, over all kinds
	for _, name := range slices.Sorted(maps.Keys(n.Ethernets)) {
		e, at := n.Ethernets[name], path+"ethernets."+name
		seen[name] = at
		e.Match.check(name, at, fault)
		e.Link.check(at, fault)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Bonds)) {
		at := path + "bonds." + name
		n.name(name, at, seen, fault)
		n.checkBond(n.Bonds[name], name, at, used, fault)
	}
	for _, name := range slices.Sorted(maps.Keys(n.VLANs)) {
		at := path + "vlans." + name
		n.name(name, at, seen, fault)
		n.checkVLAN(n.VLANs[name], at, used, fault)
	}
	for member, bond := range used {
		if e, ok := n.Ethernets[member]; ok && !e.Link.plain() {
			fault(path+"ethernets."+member, "%s is part of %s and can have no addresses, routes or name servers of its own", member, bond)
		}
	}
}

// plain says that nothing but the link itself is configured.
func (l Link) plain() bool {
	return !l.DHCP4 && !l.DHCP6 && !l.AcceptRA && len(l.Addresses)+len(l.Routes)+len(l.Nameservers.Addresses)+len(l.Nameservers.Search) == 0
}

// name checks the name of a link that we make.
func (n Network) name(name, at string, seen map[string]string, fault reporter) {
	if !linkName().MatchString(name) {
		fault(at, "%s: a name has up to 15 letters, digits, hyphens and underscores, and begins with a letter or digit", at)
	} else if reserved().MatchString(name) {
		fault(at, "%s: that name is taken by the gateway itself", at)
	}
	if other := seen[name]; other != "" {
		fault(at, "%s: the name is that of %s too", at, other)
	}
	seen[name] = at
}

func (m Match) check(name, at string, fault reporter) {
	switch {
	case m == Match{}:
		if !linkName().MatchString(name) {
			fault(at, "%s: not the name of a card; give the card by match, with its macaddress or name", at)
		} else if reserved().MatchString(name) {
			fault(at, "%s: that is no card", at)
		}
	case m.MAC != "":
		if hw, err := net.ParseMAC(m.MAC); err != nil || len(hw) != 6 {
			fault(at+".match.macaddress", "%s.match.macaddress: %q is not a hardware address, like 52:54:00:12:34:56", at, m.MAC)
		}
	}
	if p := strings.TrimSuffix(m.Name, "*"); m.Name != "" && (strings.ContainsAny(p, "*?[") || p != "" && !linkName().MatchString(p) || reserved().MatchString(m.Name)) {
		fault(at+".match.name", "%s.match.name: %q is not the name of a card; it may end in one *", at, m.Name)
	}
}

// primaryModes are those of BondModes whose bonds use one card before others; without a mode
// a bond is of the first (Documentation/networking/bonding.rst).
var primaryModes = []string{"active-backup", "balance-tlb", "balance-alb"}

func (n Network) checkBond(b Bond, name, at string, used map[string]string, fault reporter) {
	if len(b.Interfaces) == 0 {
		fault(at, "%s: interfaces: name at least one card", at)
	}
	for _, member := range b.Interfaces {
		if _, ok := n.Ethernets[member]; !ok {
			fault(at+".interfaces", "%s.interfaces: %s is not among ethernets", at, member)
		}
		if other := used[member]; other != "" {
			fault(at+".interfaces", "%s.interfaces: %s is part of %s already", at, member, other)
		}
		used[member] = name
	}
	p := b.Parameters
	if p.Mode != "" && !slices.Contains(BondModes, p.Mode) {
		fault(at+".parameters.mode", "%s.parameters.mode: %q is none of %s", at, p.Mode, strings.Join(BondModes, ", "))
	}
	if p.Monitor < 0 || p.Monitor > 10_000 {
		fault(at+".parameters.mii-monitor-interval", "%s.parameters.mii-monitor-interval: must be from 0 to 10000 ms", at)
	}
	if p.Primary != "" && !slices.Contains(b.Interfaces, p.Primary) {
		fault(at+".parameters.primary", "%s.parameters.primary: %s is not among its interfaces", at, p.Primary)
	}
	if p.Primary != "" && p.Mode != "" && slices.Contains(BondModes, p.Mode) && !slices.Contains(primaryModes, p.Mode) {
		fault(at+".parameters.primary", "%s.parameters.primary: with mode %s only", at, strings.Join(primaryModes, ", "))
	}
	if p.LACPRate != "" && (p.LACPRate != "slow" && p.LACPRate != "fast" || p.Mode != "802.3ad") {
		fault(at+".parameters.lacp-rate", "%s.parameters.lacp-rate: slow or fast, and with mode 802.3ad only", at)
	}
	b.Link.check(at, fault)
}

func (n Network) checkVLAN(v VLAN, at string, used map[string]string, fault reporter) {
	if v.ID < 1 || v.ID > 4094 {
		fault(at+".id", "%s.id: must be from 1 to 4094", at)
	}
	_, card := n.Ethernets[v.On]
	if _, bond := n.Bonds[v.On]; !card && !bond {
		fault(at+".link", "%s.link: %q is neither among ethernets nor bonds", at, v.On)
	} else if bond := used[v.On]; bond != "" {
		fault(at+".link", "%s.link: %s is part of %s: put the VLAN on that", at, v.On, bond)
	}
	v.Link.check(at, fault)
}

// check reports what is wrong with what all links share.
func (l Link) check(at string, fault reporter) {
	if l.MTU != 0 && (l.MTU < 576 || l.MTU > 65535) {
		fault(at+".mtu", "%s.mtu: must be from 576 to 65535", at)
	} else if l.MTU != 0 && l.MTU < 1280 && l.IPv6() {
		fault(at+".mtu", "%s.mtu: IPv6 needs 1280 (RFC 8200)", at)
	}
	if max(len(l.Addresses), len(l.Routes), len(l.Nameservers.Addresses), len(l.Nameservers.Search)) > maxOnLink {
		fault(at, "%s: more than %d addresses, routes or name servers", at, maxOnLink)
		return
	}
	seen := make(map[netip.Addr]bool)
	for i, p := range l.Addresses {
		where := item(at+".addresses", i)
		if !p.IsValid() {
			fault(where, "%s: an address with its prefix length is missing", where)
			continue
		}
		if why := unfit(p); why != "" {
			fault(where, "%s: %s %s", where, p, why)
		}
		if seen[p.Addr()] {
			fault(where, "%s: %s is there already", where, p.Addr())
		}
		seen[p.Addr()] = true
	}
	for i, r := range l.Routes {
		r.check(l, item(at+".routes", i), fault)
	}
	for i, a := range l.Nameservers.Addresses {
		if where := item(at+".nameservers.addresses", i); a.IsValid() && (a.IsMulticast() || a.IsUnspecified() || a.Zone() != "") {
			fault(where, "%s: %s is no server's address", where, a)
		}
	}
	for i, s := range l.Nameservers.Search {
		if where := item(at+".nameservers.search", i); !form.HostName(s) {
			fault(where, "%s: %q is no domain", where, s)
		}
	}
}

// IPv6 says whether the link speaks it.
func (l Link) IPv6() bool {
	return l.DHCP6 || l.AcceptRA || slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// unfit says why a host cannot have that address, or "".
func unfit(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case a.Is4In6():
		return "is an IPv4 address in disguise: write it as IPv4"
	case a.IsMulticast(), a.IsUnspecified(), a.IsLoopback(), p.Bits() == 0, a.Is4() && a.As4()[0] >= 240:
		return "cannot be a host's address"
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return "is the network's own address: give the host's"
	case a.Is4() && p.Bits() < 31 && a == last(p):
		return "is the network's broadcast address"
	}
	return ""
}

// last is the highest address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// Target is where the route leads; default is the whole of via's family.
func (r Route) Target() (netip.Prefix, bool) {
	if r.To == "default" {
		if !r.Via.IsValid() {
			return netip.Prefix{}, false
		}
		return netip.PrefixFrom(r.Via, 0).Masked(), true
	}
	p, err := netip.ParsePrefix(r.To)
	return p, err == nil && p == p.Masked() && !p.Addr().Is4In6()
}

func (r Route) check(l Link, at string, fault reporter) {
	to, ok := r.Target()
	switch {
	case r.To == "default" && !ok:
		fault(at, "%s: a default route needs via, the router's address", at)
	case !ok:
		fault(at+".to", "%s.to: %q is neither a network, like 192.0.2.0/24, nor default", at, r.To)
	case to.Addr().IsMulticast() || to.Addr().IsLoopback():
		fault(at+".to", "%s.to: %s cannot be routed", at, r.To)
	case !r.Via.IsValid():
	case r.Via.Is4() != to.Addr().Is4():
		fault(at+".via", "%s.via: %s and %s are not of one family", at, r.To, r.Via)
	case r.Via.IsUnspecified() || r.Via.IsMulticast() || r.Via.IsLoopback() || r.Via.Zone() != "":
		fault(at+".via", "%s.via: %s is no router's address", at, r.Via)
	case !l.DHCP4 && !l.DHCP6 && !l.AcceptRA && !r.Via.IsLinkLocalUnicast() && !l.onLink(r.Via):
		fault(at+".via", "%s.via: %s is in none of this link's networks", at, r.Via)
	}
	if r.Metric < 0 || r.Metric > 1<<30 {
		fault(at+".metric", "%s.metric: must be from 0 to %d", at, 1<<30)
	}
}

func (l Link) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.IsValid() && p.Masked().Contains(a) })
}
