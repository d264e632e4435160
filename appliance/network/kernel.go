package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// alias marks the links that we made, as the kernel keeps it.
const alias = "lazaret"

// card says whether a link is one: a device, or the end of a cable between namespaces.
func card(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagLoopback == 0 && (l.Type() == "device" || l.Type() == "veth") && len(a.HardwareAddr) == 6
}

func toFact(l netlink.Link) fact {
	a := l.Attrs()
	mac := a.HardwareAddr
	if len(a.PermHWAddr) == 6 && a.PermHWAddr.String() != "00:00:00:00:00:00" {
		mac = a.PermHWAddr // a bond gives its members another
	}
	return fact{Index: a.Index, Name: a.Name, MAC: strings.ToLower(mac.String()), Card: card(l), Made: a.Alias == alias}
}

// carrier says whether something is at the other end.
func carrier(l netlink.Link) bool {
	return l.Attrs().RawFlags&(unix.IFF_UP|unix.IFF_LOWER_UP) == unix.IFF_UP|unix.IFF_LOWER_UP
}

// readLayer reads a link's addresses and routes as far as they are ours to change. ours are
// the addresses that we gave it; with routers, other IPv6 addresses are the kernel's.
func readLayer(l netlink.Link, ours map[netip.Prefix]bool, routers bool) (layer, error) {
	var out layer
	addrs, err := allAddrs(l, netlink.FAMILY_ALL)
	if err != nil {
		return layer{}, fmt.Errorf("listing addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		p := fromNet(a.IPNet)
		if p.Addr().Is6() && (p.Addr().IsLinkLocalUnicast() || routers && !ours[p]) {
			continue
		}
		out.Addresses = append(out.Addresses, p)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := allRoutes(l, family)
		if err != nil {
			return layer{}, fmt.Errorf("listing routes of %s: %w", l.Attrs().Name, err)
		}
		for _, r := range routes {
			if r.Table != unix.RT_TABLE_MAIN || r.Protocol != protoConfigured && r.Protocol != protoLeased {
				continue
			}
			out.Routes = append(out.Routes, fromRoute(r, family))
		}
	}
	return out, nil
}

func fromNet(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}

func fromRoute(r netlink.Route, family int) route {
	out := route{To: fromNet(r.Dst), Metric: r.Priority, Leased: r.Protocol == protoLeased, OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0}
	if !out.To.IsValid() {
		out.To = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			out.To = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if via, ok := netip.AddrFromSlice(r.Gw); ok {
		out.Via = via.Unmap()
	}
	return out
}

func toNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toRoute(index int, r route) *netlink.Route {
	n := &netlink.Route{LinkIndex: index, Dst: toNet(r.To), Priority: r.Metric, Protocol: protoConfigured, Table: unix.RT_TABLE_MAIN}
	if r.Leased {
		n.Protocol = protoLeased
	}
	if r.Via.IsValid() {
		n.Gw = r.Via.AsSlice()
	} else if r.To.Addr().Is4() {
		n.Scope = netlink.SCOPE_LINK
	}
	if r.OnLink {
		n.Flags = int(netlink.FLAG_ONLINK)
	}
	return n
}

// apply makes a change to a link. What fails is named; the rest is done.
func apply(l netlink.Link, c change, ours map[netip.Prefix]bool) error {
	var errs []error
	index := l.Attrs().Index
	for _, p := range c.AddAddresses {
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: toNet(p)}); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("adding address %s: %w", p, err))
			continue
		}
		ours[p] = true
	}
	for _, r := range c.AddRoutes {
		if err := netlink.RouteAdd(toRoute(index, r)); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("adding the route to %s: %w", r.To, err))
		}
	}
	for _, r := range c.RemoveRoutes {
		if err := netlink.RouteDel(toRoute(index, r)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing the route to %s: %w", r.To, err))
		}
	}
	for _, p := range c.RemoveAddresses {
		if err := netlink.AddrDel(l, &netlink.Addr{IPNet: toNet(p)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("removing address %s: %w", p, err))
			continue
		}
		delete(ours, p)
	}
	return errors.Join(errs...)
}

// setting is one of the kernel's, below /proc/sys.
type setting struct{ Path, Value string }

// general are the settings for links that come: quiet until they are configured.
func general() []setting {
	return []setting{
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/default/autoconf", "0"},
		{"net/ipv4/conf/all/rp_filter", "2"},
		{"net/ipv4/conf/default/rp_filter", "2"},
	}
}

// settings are those of one link.
func settings(name string, six, routers bool) []setting {
	four, v6 := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	list := []setting{
		{four + "accept_redirects", "0"}, {four + "send_redirects", "0"}, {four + "accept_source_route", "0"},
		{four + "arp_ignore", "1"}, {four + "arp_announce", "2"},
		{four + "rp_filter", "2"},           // loose: answers may take another link, sources must be routable
		{four + "promote_secondaries", "1"}, // or the old address of a lease takes the new one along
		{v6 + "accept_redirects", "0"}, {v6 + "accept_source_route", "-1"}, {v6 + "use_tempaddr", "0"},
		{v6 + "keep_addr_on_down", "1"},
	}
	if !six {
		return append(list, setting{v6 + "accept_ra", "0"}, setting{v6 + "autoconf", "0"}, setting{v6 + "disable_ipv6", "1"})
	}
	ra, auto := "0", "0"
	if routers {
		ra, auto = "2", "1" // 2: also while this machine forwards
	}
	return append(list, setting{v6 + "accept_ra", ra}, setting{v6 + "autoconf", auto}, setting{v6 + "disable_ipv6", "0"})
}

// write makes settings that differ; changed says whether one did. One that the kernel does
// not have needs nothing.
func write(list []setting) (changed map[string]bool, err error) {
	var errs []error
	changed = make(map[string]bool)
	for _, s := range list {
		if strings.Count(s.Path, "/") != 4 { // a name is one element
			errs = append(errs, fmt.Errorf("setting %s: no such setting", s.Path))
			continue
		}
		path := filepath.Join("/proc/sys", s.Path)
		old, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(old)) == s.Value {
			continue
		}
		if err := os.WriteFile(path, []byte(s.Value), 0); err != nil {
			errs = append(errs, fmt.Errorf("setting %s to %s: %w", s.Path, s.Value, err))
			continue
		}
		changed[s.Path] = true
	}
	return changed, errors.Join(errs...)
}
