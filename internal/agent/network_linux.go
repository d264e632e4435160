package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Priorities of the routing rules, looked at in this order: what goes to the endpoint
// itself keeps to the ordinary routes, both ways (reverse path checks included); then
// every ordinary route but a default one; then the tunnel's table, for all but the
// tunnel's own packets.
const (
	priorityEndpoint = 31000 + iota
	priorityMain
	priorityTunnel
)

const mainTable = 254

// rules are the routing rules for one endpoint, both families where they apply.
func rules(endpoint netip.Addr) []*netlink.Rule {
	var out []*netlink.Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		suppress := netlink.NewRule()
		suppress.Family, suppress.Priority, suppress.Table, suppress.SuppressPrefixlen = family, priorityMain, mainTable, 0
		through := netlink.NewRule()
		through.Family, through.Priority, through.Table = family, priorityTunnel, table
		through.Mark, through.Invert = mark, true
		out = append(out, suppress, through)
		if endpoint.IsValid() && endpoint.Is4() == (family == netlink.FAMILY_V4) {
			direct := netlink.NewRule()
			direct.Family, direct.Priority, direct.Table = family, priorityEndpoint, mainTable
			direct.Dst = &net.IPNet{IP: endpoint.AsSlice(), Mask: net.CIDRMask(endpoint.BitLen(), endpoint.BitLen())}
			out = append(out, direct)
		}
	}
	return out
}

// setRules replaces this agent's routing rules.
func setRules(endpoint netip.Addr) error {
	if err := dropRules(); err != nil {
		return err
	}
	for _, r := range rules(endpoint) {
		if err := netlink.RuleAdd(r); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("adding routing rule %d: %w", r.Priority, err)
		}
	}
	return nil
}

// dropRules removes the rules that an agent made, this one or one that was killed.
func dropRules() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RuleList(family)
		if err != nil {
			return fmt.Errorf("listing routing rules: %w", err)
		}
		for _, r := range list {
			if r.Priority < priorityEndpoint || r.Priority > priorityTunnel {
				continue
			}
			r.Family = family
			if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("removing routing rule %d: %w", r.Priority, err)
			}
		}
	}
	return nil
}
