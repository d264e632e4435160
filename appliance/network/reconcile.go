package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"lazaret/appliance"
)

// passes bounds how often a link is compared: the kernel takes routes along with addresses.
const passes = 3

// reconcile makes the kernel match m.net and the leases; a second call changes nothing. What
// fails does not keep the rest from being done. The caller holds m.mu.
func (m *Manager) reconcile() error {
	var errs []error
	clear(m.faults)
	_, err := write(general())
	errs = append(errs, err)
	links, err := allLinks()
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	picked := choose(m.net, facts(links))
	errs = append(errs, m.build(m.net, entries(links, picked)))
	if links, err = allLinks(); err != nil { // with what was built
		return fmt.Errorf("listing links: %w", err)
	}
	m.recheck(links, picked)
	present := make(map[int]bool)
	for _, l := range links {
		present[l.Attrs().Index] = true
		c, ok := m.configured(l, picked)
		switch {
		case ok:
			err = m.configure(l, c)
		case card(l):
			err = m.quiet(l)
		default:
			continue // somebody else's
		}
		if err != nil {
			m.faults[l.Attrs().Name] = err.Error()
			errs = append(errs, fmt.Errorf("configuring %s: %w", l.Attrs().Name, err))
		}
		m.follows(l)
	}
	m.forget(present)
	errs = append(errs, m.writeResolv())
	return errors.Join(errs...)
}

func facts(links []netlink.Link) []fact {
	var out []fact
	for _, l := range links {
		out = append(out, toFact(l))
	}
	return out
}

// entries are the chosen cards by their keys in the Network; of several the first.
func entries(links []netlink.Link, picked map[int]chosen) map[string]netlink.Link {
	out := make(map[string]netlink.Link)
	for _, l := range links {
		if c, ok := picked[l.Attrs().Index]; ok && out[c.Entry] == nil {
			out[c.Entry] = l
		}
	}
	return out
}

// configured says what is configured for a link, if it is ours.
func (m *Manager) configured(l netlink.Link, picked map[int]chosen) (chosen, bool) {
	if c, ok := picked[l.Attrs().Index]; ok {
		return c, true
	}
	if l.Attrs().Alias != alias {
		return chosen{}, false
	}
	name := l.Attrs().Name
	if b, ok := m.net.Bonds[name]; ok {
		return chosen{Entry: name, Link: b.Link}, true
	}
	v, ok := m.net.VLANs[name]
	return chosen{Entry: name, Link: v.Link}, ok
}

// configure makes one link what it should be.
func (m *Manager) configure(l netlink.Link, c chosen) error {
	a := l.Attrs()
	var errs []error
	changed, err := write(settings(a.Name, c.IPv6(), c.AcceptRA))
	errs = append(errs, err, m.size(l, c.Link))
	if a.RawFlags&1 == 0 { // IFF_UP
		errs = append(errs, netlink.LinkSetUp(l))
	} else if c.AcceptRA && changed["net/ipv6/conf/"+a.Name+"/accept_ra"] && !changed["net/ipv6/conf/"+a.Name+"/disable_ipv6"] {
		errs = append(errs, solicit(l))
	}
	m.up[a.Index] = true
	if c.Bond != "" {
		c.Link = appliance.Link{}
	}
	m.attend(l, c.Link)
	ours := m.ours[a.Index]
	if ours == nil {
		ours = make(map[netip.Prefix]bool)
		m.ours[a.Index] = ours
	}
	target := want(a.Index, c.Link, m.held(a.Index))
	for range passes {
		have, err := readLayer(l, ours, c.AcceptRA)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if c.AcceptRA {
			errs = append(errs, m.refuseAdvertised(l, ours))
		}
		diff := difference(have, target)
		if diff.empty() {
			return errors.Join(errs...)
		}
		if err := apply(l, diff, ours); err != nil {
			return errors.Join(append(errs, err)...)
		}
		m.announce()
	}
	return errors.Join(append(errs, errors.New("the kernel does not keep what it was told"))...)
}

// held are the leases of one link.
func (m *Manager) held(index int) []lease {
	var out []lease
	for _, six := range []bool{false, true} {
		if r := m.clients[clientKey{index, six}]; r != nil && r.lease != nil {
			out = append(out, *r.lease)
		}
	}
	return out
}

// size sets the MTU: what is configured, else what DHCP says, else it is left alone.
func (m *Manager) size(l netlink.Link, c appliance.Link) error {
	n := c.MTU
	for _, lease := range m.held(l.Attrs().Index) {
		if n == 0 {
			n = lease.MTU
		}
	}
	if n == 0 || n == l.Attrs().MTU {
		return nil
	}
	if err := netlink.LinkSetMTU(l, n); err != nil {
		return fmt.Errorf("setting an MTU of %d: %w", n, err)
	}
	return nil
}

// solicit has the kernel ask for routers on a link that is up already, by switching IPv6 off
// and on. It does so only where that takes no address away.
func solicit(l netlink.Link) error {
	addrs, err := allAddrs(l, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return !a.IP.IsLinkLocalUnicast() }) {
		return nil // their next advertisement comes by itself
	}
	path := "net/ipv6/conf/" + l.Attrs().Name + "/disable_ipv6"
	for _, value := range []string{"1", "0"} {
		if _, err := write([]setting{{path, value}}); err != nil {
			return err
		}
	}
	return nil
}

// quiet is for cards that nobody configured: no IPv6, and nothing left of us.
func (m *Manager) quiet(l netlink.Link) error {
	a := l.Attrs()
	if a.MasterIndex != 0 {
		return nil
	}
	_, err := write(settings(a.Name, false, false))
	errs := []error{err}
	m.attend(l, appliance.Link{})
	if m.up[a.Index] {
		have, err := readLayer(l, m.ours[a.Index], false)
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, apply(l, difference(have, layer{}), m.ours[a.Index]))
		}
		errs = append(errs, netlink.LinkSetDown(l))
		delete(m.up, a.Index)
		m.announce()
	}
	return errors.Join(errs...)
}

// follows notes a link's carrier, and has its clients look when it comes back.
func (m *Manager) follows(l netlink.Link) {
	a := l.Attrs()
	now, before := carrier(l), m.cards[a.Name]
	if now == before {
		return
	}
	m.cards[a.Name] = now
	m.config.Log.Info("link changed", "link", a.Name, "carrier", now)
	m.announce()
	if !now {
		return
	}
	for _, six := range []bool{false, true} {
		if r := m.clients[clientKey{a.Index, six}]; r != nil {
			r.wake()
		}
	}
}

// forget drops what is known of links that are gone.
func (m *Manager) forget(present map[int]bool) {
	for key := range m.clients {
		if !present[key.index] {
			m.dismiss(key)
			m.announce()
		}
	}
	gone := func(index int) bool { return !present[index] }
	maps.DeleteFunc(m.ours, func(i int, _ map[netip.Prefix]bool) bool { return gone(i) })
	maps.DeleteFunc(m.up, func(i int, _ bool) bool { return gone(i) })
	maps.DeleteFunc(m.routers, func(i int, _ advertised) bool { return gone(i) })
}
