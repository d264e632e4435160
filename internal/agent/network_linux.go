package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"

	"lazaret/internal/dump"
)

// Priorities of the routing rules, looked at in this order. What goes to the endpoint
// itself keeps to the ordinary routes, both ways, reverse path checks included; then the
// management servers, for all but the tunnel's own packets; then every ordinary route but
// a default one; then the pool's routes, again not for the tunnel's own packets.
const (
	priorityEndpoint = 31000 + iota
	priorityManagement
	priorityMain
	priorityPool
)

const (
	mainTable = 254
	// protocol marks rules as this agent's, so that no others are removed.
	protocol = 76
)

// rules are the routing rules for one endpoint, both families where they apply.
func rules(endpoint netip.Addr) []*netlink.Rule {
	var out []*netlink.Rule
	rule := func(family, priority, table int) *netlink.Rule {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Protocol = family, priority, table, protocol
		out = append(out, r)
		return r
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if endpoint.IsValid() && endpoint.Is4() == (family == netlink.FAMILY_V4) {
			rule(family, priorityEndpoint, mainTable).Dst = &net.IPNet{IP: endpoint.AsSlice(), Mask: net.CIDRMask(endpoint.BitLen(), endpoint.BitLen())}
		}
		management := rule(family, priorityManagement, managementTable)
		management.Mark, management.Invert = mark, true
		rule(family, priorityMain, mainTable).SuppressPrefixlen = 0
		pool := rule(family, priorityPool, poolTable)
		pool.Mark, pool.Invert = mark, true
	}
	return out
}

// setRules replaces this agent's routing rules.
func setRules(endpoint netip.Addr) error {
	if _, err := dropRules(); err != nil {
		return err
	}
	for _, r := range rules(endpoint) {
		if err := netlink.RuleAdd(r); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("adding routing rule %d: %w", r.Priority, err)
		}
	}
	return nil
}

// dropRules removes the rules that an agent made, this one or one that was killed, and
// counts them.
func dropRules() (dropped int, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := dump.Whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil {
			return dropped, fmt.Errorf("listing routing rules: %w", err)
		}
		for _, r := range list {
			if r.Protocol != protocol || r.Priority < priorityEndpoint || r.Priority > priorityPool {
				continue
			}
			r.Family = family
			if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, syscall.ENOENT) {
				return dropped, fmt.Errorf("removing routing rule %d: %w", r.Priority, err)
			}
			dropped++
		}
	}
	return dropped, nil
}

// removeLink removes an interface that a run left which was killed; none is no error.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for interface %s: %w", name, err)
	}
	if kind := link.Type(); kind != "wireguard" && kind != "tuntap" {
		return fmt.Errorf("interface %s is of kind %s, not a tunnel", name, kind)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("removing interface %s: %w", name, err)
	}
	return nil
}
