package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// protoRouters is what routes bear that the kernel has of routers (RTPROT_RA).
const protoRouters = 9

// Recheck has Run hold leases and what routers said to Config.Own, after that changed. Run
// does so once a minute by itself.
func (m *Manager) Recheck() { m.wake() }

// own are the tunnel's networks.
func (m *Manager) own() []netip.Prefix {
	if m.config.Own == nil {
		return nil
	}
	return m.config.Own()
}

// limits are what a lease of a link must not touch. The caller does not hold m.mu.
func (m *Manager) limits(index int) limits {
	own := m.own()
	m.mu.Lock()
	defer m.mu.Unlock()
	return limits{own: own, set: m.others(index)}
}

// others are networks and routes that are configured for other links than this.
func (m *Manager) others(index int) []netip.Prefix {
	var out []netip.Prefix
	for i, list := range m.static {
		if i != index {
			out = append(out, list...)
		}
	}
	return out
}

// statics are the networks and routes that are configured for a link, but default routes,
// which every other is longer than.
func statics(l appliance.Link) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range l.Addresses {
		out = append(out, a.Masked())
	}
	for _, r := range l.Routes {
		if to, ok := r.Target(); ok && to.Bits() > 0 {
			out = append(out, to.Masked())
		}
	}
	return out
}

// recheck notes what is configured, and gives up what is held of leases and overlaps it, or
// the tunnel's networks, by now. The caller holds m.mu.
func (m *Manager) recheck(links []netlink.Link, picked map[int]chosen) {
	m.static = make(map[int][]netip.Prefix)
	for _, l := range links {
		if c, ok := m.configured(l, picked); ok && c.Bond == "" {
			m.static[l.Attrs().Index] = statics(c.Link)
		}
	}
	own := m.own()
	for key, r := range m.clients {
		if r.lease == nil {
			continue
		}
		lim := limits{own: own, set: m.others(key.index)}
		if of := lim.takes(r.lease.Address); of != "" {
			m.config.Log.Warn("giving up an address of DHCP", "address", r.lease.Address, "because it lies in", of)
			m.dismiss(key)
			m.announce()
			continue
		}
		kept := *r.lease
		kept.Routes = slices.DeleteFunc(slices.Clone(kept.Routes), func(o route) bool { return lim.takes(o.To) != "" })
		if len(kept.Routes) != len(r.lease.Routes) {
			m.config.Log.Warn("giving up routes of DHCP that overlap others", "address", kept.Address)
			r.lease = &kept
			m.announce()
		}
	}
}

// refuseAdvertised takes away addresses and routes that the kernel has of routers and that
// lie in the tunnel's networks: the kernel itself believes any prefix. The caller holds m.mu.
func (m *Manager) refuseAdvertised(l netlink.Link, ours map[netip.Prefix]bool) error {
	lim := limits{own: m.own()}
	if len(lim.own) == 0 {
		return nil
	}
	name := l.Attrs().Name
	var errs []error
	addrs, err := allAddrs(l, netlink.FAMILY_V6)
	errs = append(errs, err)
	for _, a := range addrs {
		p := fromNet(a.IPNet)
		if p.Addr().IsLinkLocalUnicast() || ours[p] || lim.takes(p) == "" {
			continue
		}
		m.config.Log.Warn("removing an address that a router advertised", "link", name, "address", p)
		if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("removing address %s: %w", p, err))
		}
	}
	routes, err := allRoutes(l, netlink.FAMILY_V6)
	errs = append(errs, err)
	near := make(map[netip.Prefix]bool) // networks of addresses of ours
	for p := range ours {
		near[p.Masked()] = true
	}
	for _, r := range routes {
		to := fromNet(r.Dst)
		if near[to] {
			continue
		}
		if r.Table != unix.RT_TABLE_MAIN || r.Protocol != unix.RTPROT_KERNEL && r.Protocol != protoRouters || !to.IsValid() || to.Addr().IsLinkLocalUnicast() || !lim.hits(to) {
			continue
		}
		m.config.Log.Warn("removing a route that a router advertised", "link", name, "to", to)
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing the route to %s: %w", to, err))
		}
	}
	return errors.Join(errs...)
}
