package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// configure does on this host what r lists, or undoes it in reverse order.
func configure(r configureRequest) error {
	if r.Remove {
		return unconfigure(r.NetConfig)
	}
	for path, value := range r.Sysctls {
		if err := setSysctl(path, value); err != nil {
			return err
		}
	}
	for _, l := range r.Links {
		if err := addLink(l); err != nil {
			return fmt.Errorf("setting up %s: %w", l.Name, err)
		}
	}
	for _, route := range r.Routes {
		n, err := route.netlink()
		if err == nil {
			err = netlink.RouteReplace(n)
		}
		if err != nil {
			return fmt.Errorf("adding the route to %s: %w", route.To, err)
		}
	}
	for _, rule := range r.Rules {
		if err := netlink.RuleAdd(rule.netlink()); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("adding the rule with priority %d: %w", rule.Priority, err)
		}
	}
	return nil
}

func unconfigure(c NetConfig) error {
	var errs []error
	for _, rule := range c.Rules {
		if err := netlink.RuleDel(rule.netlink()); err != nil {
			errs = append(errs, fmt.Errorf("removing the rule with priority %d: %w", rule.Priority, err))
		}
	}
	for _, route := range c.Routes {
		n, err := route.netlink()
		if err == nil {
			err = netlink.RouteDel(n)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("removing the route to %s: %w", route.To, err))
		}
	}
	for _, l := range c.Links {
		link, err := netlink.LinkByName(l.Name)
		for _, a := range l.Addrs {
			if err == nil {
				err = netlink.AddrDel(link, address(a))
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("removing addresses of %s: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}

// setSysctl writes a setting under /proc/sys, unless it has that value already:
// in containers the files may be read-only.
func setSysctl(path, value string) error {
	full := filepath.Join("/proc/sys", path)
	if !filepath.IsLocal(path) {
		return fmt.Errorf("setting %s: not a path below /proc/sys", path)
	}
	old, err := os.ReadFile(full)
	if err == nil && string(old) == value+"\n" {
		return nil
	}
	if err := os.WriteFile(full, []byte(value), 0); err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	return nil
}

func addLink(l LinkConfig) error {
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return err
	}
	if l.Down {
		return netlink.LinkSetDown(link)
	}
	if l.MTU != 0 {
		if err := netlink.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("setting the MTU: %w", err)
		}
	}
	for _, a := range l.Addrs {
		if err := netlink.AddrReplace(link, address(a)); err != nil {
			return fmt.Errorf("adding %s: %w", a, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (r Route) netlink() (*netlink.Route, error) {
	n := &netlink.Route{Dst: ipNet(r.To.Masked()), Table: r.Table}
	if r.Blackhole {
		n.Type = unix.RTN_BLACKHOLE
		return n, nil
	}
	if r.Unreachable {
		n.Type = unix.RTN_UNREACHABLE
		return n, nil
	}
	if r.Via.IsValid() {
		n.Gw = r.Via.AsSlice()
	}
	if r.From.IsValid() {
		n.Src = r.From.AsSlice()
	}
	if r.Device != "" {
		link, err := netlink.LinkByName(r.Device)
		if err != nil {
			return nil, err
		}
		n.LinkIndex = link.Attrs().Index
		if !r.Via.IsValid() {
			n.Scope = netlink.SCOPE_LINK
		}
	}
	return n, nil
}

func (r Rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Priority, n.Table, n.OifName = r.Priority, r.Table, r.Out
	n.Src, n.Dst = ipNet(r.From), ipNet(r.To)
	n.Family = netlink.FAMILY_V4
	if r.Family == 6 || r.From.Addr().Is6() || r.To.Addr().Is6() {
		n.Family = netlink.FAMILY_V6
	}
	return n
}
