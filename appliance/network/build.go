package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"lazaret/appliance"
)

// defaultMonitor is how often a bond looks at its members' carriers, in milliseconds.
const defaultMonitor = 100

// bondAs is a bond as the kernel should have it.
func bondAs(name string, b appliance.Bond) *netlink.Bond {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	out := netlink.NewLinkBond(attrs)
	out.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
	if b.Parameters.Mode != "" {
		out.Mode = netlink.StringToBondMode(b.Parameters.Mode)
	}
	out.Miimon = defaultMonitor
	if b.Parameters.Monitor != 0 {
		out.Miimon = b.Parameters.Monitor
	}
	if b.Parameters.LACPRate != "" {
		out.LacpRate = netlink.StringToBondLacpRate(b.Parameters.LACPRate)
	}
	return out
}

// build makes bonds and VLANs that are missing or differ, and takes away those of ours that are
// not wanted. cards are by entry.
func (m *Manager) build(n appliance.Network, cards map[string]netlink.Link) error {
	var errs []error
	fail := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("making %s: %w", name, err))
			m.faults[name] = err.Error()
		}
	}
	errs = append(errs, m.clear(n, cards))
	for _, name := range slices.Sorted(maps.Keys(n.Bonds)) {
		fail(name, m.buildBond(name, n.Bonds[name], cards))
	}
	for _, name := range slices.Sorted(maps.Keys(n.VLANs)) {
		fail(name, m.buildVLAN(name, n.VLANs[name], cards))
	}
	return errors.Join(errs...)
}

// clear removes links of ours that are not wanted, or not as they are.
func (m *Manager) clear(n appliance.Network, cards map[string]netlink.Link) error {
	links, err := allLinks()
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	var errs []error
	slices.Reverse(links) // VLANs come after what they are on
	for _, l := range links {
		if l.Attrs().Alias != alias {
			continue
		}
		keep := false
		switch have := l.(type) {
		case *netlink.Bond:
			b, ok := n.Bonds[have.Name]
			as := bondAs(have.Name, b)
			keep = ok && have.Mode == as.Mode && have.Miimon == as.Miimon && have.LacpRate == max(as.LacpRate, netlink.BOND_LACP_RATE_SLOW)
		case *netlink.Vlan:
			v, ok := n.VLANs[have.Name]
			on := cards[v.On]
			if _, bond := n.Bonds[v.On]; bond {
				on, _ = netlink.LinkByName(v.On) // nil: it is missing, and so is this
			}
			keep = ok && have.VlanId == v.ID && on != nil && on.Attrs().Index == have.ParentIndex
		}
		if keep {
			continue
		}
		m.config.Log.Info("removing a link", "link", l.Attrs().Name)
		if err := netlink.LinkDel(l); err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// idleBond is a bond that the kernel's module makes when it is loaded, down and without
// members (max_bonds in Documentation/networking/bonding.rst).
const idleBond = "bond0"

// find returns a link of ours, nil where there is none, and an error where it is somebody else's.
func find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil, nil
	}
	if err == nil && l.Type() == "bond" && l.Attrs().Alias == "" && l.Attrs().Flags&net.FlagUp == 0 {
		return nil, netlink.LinkDel(l) // see idleBond
	}
	if err == nil && l.Attrs().Alias != alias {
		return nil, errors.New("there is another link of that name")
	}
	return l, err
}

// create adds a link and marks it as ours.
func (m *Manager) create(l netlink.Link, module string) (netlink.Link, error) {
	if m.config.Load != nil {
		if err := m.config.Load(module); err != nil {
			return nil, err
		}
		if module == "bonding" {
			if _, err := find(idleBond); err != nil {
				m.config.Log.Warn("removing the bond that the module made", "error", err)
			}
		}
	}
	if err := netlink.LinkAdd(l); err != nil {
		return nil, err
	}
	got, err := netlink.LinkByName(l.Attrs().Name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetAlias(got, alias); err != nil {
		return nil, errors.Join(err, netlink.LinkDel(got))
	}
	m.config.Log.Info("made a link", "link", l.Attrs().Name, "kind", l.Type())
	return got, nil
}

func (m *Manager) buildBond(name string, b appliance.Bond, cards map[string]netlink.Link) error {
	l, err := find(name)
	if err == nil && l == nil {
		l, err = m.create(bondAs(name, b), "bonding")
	}
	if err != nil {
		return err
	}
	var errs []error
	members := make(map[int]bool)
	for _, entry := range b.Interfaces {
		c := cards[entry]
		if c == nil {
			continue // it may come
		}
		members[c.Attrs().Index] = true
		if c.Attrs().MasterIndex == l.Attrs().Index {
			continue
		}
		err := netlink.LinkSetDown(c) // or it is refused
		if err == nil {
			err = netlink.LinkSetMaster(c, l)
		}
		errs = append(errs, err)
	}
	links, err := allLinks()
	errs = append(errs, err)
	for _, c := range links {
		if c.Attrs().MasterIndex == l.Attrs().Index && !members[c.Attrs().Index] {
			errs = append(errs, netlink.LinkSetNoMaster(c))
		}
	}
	return errors.Join(append(errs, prefer(l, cards[b.Parameters.Primary]))...)
}

// prefer makes a card the primary one of a bond; nil: none is.
func prefer(bond, primary netlink.Link) error {
	want := 0 // as the kernel has it, and what takes one away
	if primary != nil {
		want = primary.Attrs().Index
	}
	have, ok := bond.(*netlink.Bond)
	if !ok || max(have.Primary, 0) == want {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = have.Name, have.Index
	set := netlink.NewLinkBond(attrs)
	set.Primary = want
	return netlink.LinkModify(set)
}

func (m *Manager) buildVLAN(name string, v appliance.VLAN, cards map[string]netlink.Link) error {
	on := cards[v.On]
	if on == nil {
		on, _ = find(v.On) // nil: a bond that is missing
	}
	if on == nil {
		return nil // its card may come
	}
	l, err := find(name)
	if err != nil || l != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, on.Attrs().Index
	_, err = m.create(&netlink.Vlan{LinkAttrs: attrs, VlanId: v.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}, "8021q")
	return err
}
