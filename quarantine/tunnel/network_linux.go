package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/dump"
)

// routeProtocol marks the routes that this package set, and only those it removes.
const routeProtocol = 76

// rtnetlink is the interface of a name in the process's network namespace.
type rtnetlink struct{ name string }

func (n rtnetlink) setAddresses(own []netip.Prefix) error {
	link, err := netlink.LinkByName(n.name)
	if err != nil {
		return fmt.Errorf("finding the interface: %w", err)
	}
	have, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range have {
		p := prefix(a.IPNet)
		if slices.Contains(own, p) || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		// Removing an address may take others of its prefix along, which is no error.
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %s: %w", p, err)
		}
	}
	for _, p := range own {
		address := &netlink.Addr{IPNet: ipNet(p), Scope: unix.RT_SCOPE_UNIVERSE}
		if p.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD // nobody else can be on this wire
		}
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("adding address %s: %w", p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing the interface up: %w", err)
	}
	return nil
}

func (n rtnetlink) setRoutes(routes []Route) error {
	link, err := netlink.LinkByName(n.name)
	if err != nil {
		return fmt.Errorf("finding the interface: %w", err)
	}
	index := link.Attrs().Index
	filter := &netlink.Route{LinkIndex: index, Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC}
	have, err := dump.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range have {
		if wantedRoute(r, routes) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("removing route %s: %w", r.Dst, err)
		}
	}
	for _, r := range routes {
		if err := netlink.RouteReplace(kernelRoute(r, index)); err != nil {
			return fmt.Errorf("adding route %s: %w", r.To, err)
		}
	}
	return nil
}

// wantedRoute reports whether the kernel's route r is one of routes. A table of zero
// means main to the kernel as well.
func wantedRoute(r netlink.Route, routes []Route) bool {
	return slices.ContainsFunc(routes, func(w Route) bool {
		table := w.Table
		if table == 0 {
			table = unix.RT_TABLE_MAIN
		}
		if r.Dst == nil || prefix(r.Dst) != w.To.Masked() || r.Table != table {
			return false
		}
		source, _ := netip.AddrFromSlice(r.Src)
		return source.Unmap() == w.Source
	})
}

func kernelRoute(r Route, index int) *netlink.Route {
	out := &netlink.Route{LinkIndex: index, Dst: ipNet(r.To.Masked()), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol, Table: r.Table}
	if r.Source.IsValid() {
		out.Src = r.Source.AsSlice()
	}
	return out
}

func (n rtnetlink) remove() error {
	link, err := netlink.LinkByName(n.name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding interface %s: %w", n.name, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("removing interface %s: %w", n.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefix turns the kernel's form into ours; the zero Prefix for what is none.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}
