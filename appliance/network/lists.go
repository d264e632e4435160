package network

import (
	"github.com/vishvananda/netlink"

	"lazaret/internal/dump"
)

// The kernel's lists, whole also while they change.

func allLinks() ([]netlink.Link, error) { return dump.Whole(netlink.LinkList) }

func allAddrs(l netlink.Link, family int) ([]netlink.Addr, error) {
	return dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
}

func allRoutes(l netlink.Link, family int) ([]netlink.Route, error) {
	return dump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(l, family) })
}
