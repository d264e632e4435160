package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"lazaret/internal/form"
)

// Bounds of what is believed of a DHCP server's answer; the rest is left out.
const (
	maxServers = 3  // of names, which is what resolv.conf takes; of time, as many
	maxSearch  = 6  // domains
	maxRoutes  = 32 // classless static routes
	minMTU4    = 576
	minMTU6    = 1280
	maxMTU     = 9216
)

// route is one route of a link, in the kernel's main table.
type route struct {
	To     netip.Prefix
	Via    netip.Addr // invalid: on the link
	Metric int        // 0: the family's default
	OnLink bool       // via is on the link though no address says so
	Leased bool       // by DHCP, not by configuration
}

// lease is what a DHCP server gave, after everything in it was looked at.
type lease struct {
	Address    netip.Prefix
	Routes     []route
	DNS        []netip.Addr
	Search     []string
	Time       []string
	MTU        int // 0: none
	T1, T2     time.Duration
	Life       time.Duration
	Left       []string // what was left out, and why; sentences for the log
	four       *dhcpv4.DHCPv4
	six        *dhcpv6.Message
	sixAddress net.IP
}

func (l *lease) leave(format string, args ...any) {
	if len(l.Left) < maxRoutes {
		l.Left = append(l.Left, fmt.Sprintf(format, args...))
	}
}

// limits are what a lease must not touch.
type limits struct {
	own  []netip.Prefix // the tunnel's networks
	set  []netip.Prefix // networks and routes that are configured for other links
	six  bool           // the link speaks IPv6, so its MTU is at least 1280
	iaid [4]byte
}

// hits says whether p takes something of the tunnel's networks. A default route does not: theirs are longer.
func (l limits) hits(p netip.Prefix) bool {
	return slices.ContainsFunc(l.own, func(o netip.Prefix) bool { return o.Overlaps(p) && p.Bits() >= o.Bits() })
}

// takes says what an address with its network, or a route, would take away, or "".
func (l limits) takes(p netip.Prefix) string {
	for _, of := range []struct {
		name string
		list []netip.Prefix
	}{{"the tunnel's networks", l.own}, {"what is configured for another link", l.set}} {
		if (limits{own: of.list}).hits(p.Masked()) || slices.ContainsFunc(of.list, func(o netip.Prefix) bool { return o.Contains(p.Addr()) && p.Addr() != p.Masked().Addr() }) {
			return of.name
		}
	}
	return ""
}

// host says whether a can be a single host's address on an ordinary network.
func host(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && (a.Is6() || a.As4()[0] != 0 && a.As4()[0] < 240)
}

func fromIP4(ip net.IP) netip.Addr {
	four := ip.To4()
	if four == nil {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(four) // of length 4: never fails
	return a
}

// fromACK reads a DHCPACK (RFC 2131). What a server may not say ends the lease if the
// address itself is wrong, and is left out otherwise.
func fromACK(m *dhcpv4.DHCPv4, lim limits) (l lease, err error) {
	defer recovered(&err)
	l.four = m
	address := fromIP4(m.YourIPAddr)
	ones, bits := m.SubnetMask().Size()
	if bits != 32 || ones < 8 {
		return lease{}, fmt.Errorf("the DHCP server gave no usable prefix length with %s", address)
	}
	l.Address = netip.PrefixFrom(address, ones)
	if !host(address) || ones < 31 && (address == l.Address.Masked().Addr() || address == broadcast(l.Address)) {
		return lease{}, fmt.Errorf("the DHCP server gave %s, which is no host's address", l.Address)
	}
	if of := lim.takes(l.Address); of != "" {
		return lease{}, fmt.Errorf("the DHCP server gave %s, which lies in %s", l.Address, of)
	}
	if len(m.Options.Get(dhcpv4.OptionIPAddressLeaseTime)) != 4 || m.IPAddressLeaseTime(0) <= 0 {
		return lease{}, errors.New("the DHCP server gave no lease time")
	}
	if !fromIP4(m.ServerIdentifier()).IsValid() {
		return lease{}, errors.New("the DHCP server did not identify itself")
	}
	l.times(m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0), m.IPAddressLeaseTime(0))
	l.routes4(m, lim)
	l.DNS = l.servers("name", m.DNS())
	for _, a := range l.servers("time", m.NTPServers()) {
		l.Time = append(l.Time, a.String())
	}
	l.domains(m)
	l.mtu(m, lim)
	return l, nil
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// times sets T1 and T2, with RFC 2131's defaults where the server's make no sense.
func (l *lease) times(t1, t2, life time.Duration) {
	l.Life = max(life, 2*time.Second)
	if t2 <= 0 || t2 >= l.Life {
		t2 = l.Life / 8 * 7
	}
	if t1 <= 0 || t1 >= t2 {
		if t1 = l.Life / 2; t1 >= t2 {
			t1 = t2 / 2
		}
	}
	l.T1, l.T2 = max(t1, time.Second), max(t2, time.Second)
}

// routes4 takes classless static routes (RFC 3442), and routers where there are none.
func (l *lease) routes4(m *dhcpv4.DHCPv4, lim limits) {
	given := m.ClasslessStaticRoute()
	if m.Options.Get(dhcpv4.OptionClasslessStaticRoute) == nil {
		for _, r := range m.Router() {
			given = append(given, &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: r})
			break // one default route is enough
		}
	}
	if len(given) > maxRoutes {
		l.leave("%d of %d routes are too many", len(given)-maxRoutes, len(given))
		given = given[:maxRoutes]
	}
	near := []netip.Prefix{l.Address.Masked()}
	for _, g := range given {
		ones, _ := g.Dest.Mask.Size()
		r := route{To: netip.PrefixFrom(fromIP4(g.Dest.IP), ones).Masked(), Via: fromIP4(g.Router), Leased: true}
		if r.Via.IsUnspecified() {
			r.Via = netip.Addr{}
		}
		if why := l.unfit(r, near, lim); why != "" {
			l.leave("the route to %s by %s %s", r.To, g.Router, why)
			continue
		}
		if !r.Via.IsValid() {
			near = append(near, r.To)
		} else {
			r.OnLink = !l.Address.Masked().Contains(r.Via)
		}
		if !slices.ContainsFunc(l.Routes, func(o route) bool { return o.To == r.To }) {
			l.Routes = append(l.Routes, r)
		}
	}
}

// unfit says why a route of the server's is not taken, or "".
func (l *lease) unfit(r route, near []netip.Prefix, lim limits) string {
	switch {
	case !r.To.IsValid():
		return "is none"
	case r.To.Addr().IsMulticast() || r.To.Addr().IsLoopback() || r.To.Addr().IsLinkLocalUnicast():
		return "cannot be routed"
	case lim.takes(r.To) != "":
		return "takes from " + lim.takes(r.To)
	case !r.Via.IsValid() && r.To.Bits() < 8:
		return "puts too much on the link"
	case !r.Via.IsValid():
		return ""
	case !host(r.Via) || r.Via == l.Address.Addr():
		return "has no router"
	case l.Address.Bits() < 32 && !slices.ContainsFunc(near, func(p netip.Prefix) bool { return p.Contains(r.Via) }):
		return "has a router that is not on the link"
	}
	return ""
}

// servers takes the first few usable addresses.
func (l *lease) servers(kind string, ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		a, _ := netip.AddrFromSlice(ip) // invalid: no host
		a = a.Unmap()
		if !host(a) || slices.Contains(out, a) {
			continue
		}
		if len(out) == maxServers {
			l.leave("%s servers beyond %d", kind, maxServers)
			break
		}
		out = append(out, a)
	}
	return out
}

func (l *lease) domains(m *dhcpv4.DHCPv4) {
	names := []string{m.DomainName()}
	if s := m.DomainSearch(); s != nil {
		names = append(names, s.Labels...)
	}
	l.search(names)
}

func (l *lease) search(names []string) {
	for _, s := range names {
		if form.HostName(s) && !slices.Contains(l.Search, s) && len(l.Search) < maxSearch {
			l.Search = append(l.Search, s)
		}
	}
}

func (l *lease) mtu(m *dhcpv4.DHCPv4, lim limits) {
	b := m.Options.Get(dhcpv4.OptionInterfaceMTU)
	if len(b) != 2 {
		return
	}
	n, least := int(b[0])<<8|int(b[1]), minMTU4
	if lim.six {
		least = minMTU6
	}
	if n < least || n > maxMTU {
		l.leave("an MTU of %d is not between %d and %d", n, least, maxMTU)
		return
	}
	l.MTU = n
}

// fromReply reads a DHCPv6 Reply (RFC 8415) to what asked for one address.
func fromReply(m *dhcpv6.Message, lim limits) (l lease, err error) {
	defer recovered(&err)
	l.six = m
	if s := m.Options.Status(); s != nil && s.StatusCode != 0 {
		return lease{}, fmt.Errorf("the DHCPv6 server says %s: %w", s.StatusCode, errRefused)
	}
	ia := m.Options.OneIANA()
	if ia == nil || ia.IaId != lim.iaid || m.Options.ServerID() == nil {
		return lease{}, errors.New("the DHCPv6 server answered to something else")
	}
	if s := ia.Options.Status(); s != nil && s.StatusCode != 0 {
		return lease{}, fmt.Errorf("the DHCPv6 server says %s: %w", s.StatusCode, errRefused)
	}
	for _, given := range ia.Options.Addresses() {
		a, ok := netip.AddrFromSlice(given.IPv6Addr)
		if !ok || !host(a) || !a.Is6() || a.IsLinkLocalUnicast() || given.ValidLifetime <= 0 || given.PreferredLifetime > given.ValidLifetime {
			continue
		}
		if of := lim.takes(netip.PrefixFrom(a, 128)); of != "" {
			return lease{}, fmt.Errorf("the DHCPv6 server gave %s, which lies in %s", a, of)
		}
		l.Address, l.sixAddress = netip.PrefixFrom(a, 128), given.IPv6Addr
		l.times(ia.T1, ia.T2, given.ValidLifetime)
		break
	}
	if !l.Address.IsValid() {
		return lease{}, fmt.Errorf("the DHCPv6 server gave no usable address: %w", errRefused)
	}
	l.DNS = l.servers("name", m.Options.DNS())
	for _, a := range l.servers("time", m.Options.NTPServers()) {
		l.Time = append(l.Time, a.String())
	}
	if s := m.Options.DomainSearchList(); s != nil {
		l.search(s.Labels)
	}
	return l, nil
}
