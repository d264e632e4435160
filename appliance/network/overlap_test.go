package network

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"lazaret/appliance"
)

// TestTakes: what is as long as another link's network or longer, or lies in it, is taken
// from it; shorter ones are not.
func TestTakes(t *testing.T) {
	lim := limits{own: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, set: []netip.Prefix{netip.MustParsePrefix("192.168.5.0/24")}}
	for p, want := range map[string]string{
		"192.168.5.10/32": "what is configured for another link", "192.168.5.0/24": "what is configured for another link", "192.168.5.128/25": "what is configured for another link",
		"192.168.5.10/16": "what is configured for another link", "192.168.6.10/16": "", "192.168.6.10/24": "", "0.0.0.0/0": "",
		"10.9.3.4/32": "the tunnel's networks", "10.8.0.1/8": "", "10.9.0.1/8": "the tunnel's networks",
	} {
		if got := lim.takes(netip.MustParsePrefix(p)); got != want {
			t.Errorf("%s takes %q; want %q", p, got, want)
		}
	}
}

// TestHeldLeasesAreRechecked: a lease that is held goes once its address lies in what the
// tunnel has or another link is configured with, and a route of it alone where only that does.
func TestHeldLeasesAreRechecked(t *testing.T) {
	var own []netip.Prefix
	m, err := New(Config{Log: slog.New(slog.DiscardHandler), Own: func() []netip.Prefix { return own }})
	if err != nil {
		t.Fatal(err)
	}
	card := func(index int, name string) netlink.Link {
		a := netlink.NewLinkAttrs()
		a.Index, a.Name = index, name
		return &netlink.Device{LinkAttrs: a}
	}
	links := []netlink.Link{card(2, "eth0"), card(3, "eth1")}
	key := clientKey{index: 2}
	picked := map[int]chosen{2: {Entry: "eth0"}, 3: {Entry: "eth1"}}
	hold := func() {
		m.clients[key] = &running{stop: func() {}, lease: &lease{
			Address: netip.MustParsePrefix("192.168.5.10/24"), Routes: []route{{To: netip.MustParsePrefix("0.0.0.0/0")}, {To: netip.MustParsePrefix("10.9.1.0/24")}},
		}}
		m.recheck(links, picked)
	}
	if hold(); m.clients[key] == nil || len(m.clients[key].lease.Routes) != 2 {
		t.Fatal("a lease was given up that overlaps nothing")
	}
	own = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	if hold(); m.clients[key] == nil || !slices.Equal(m.clients[key].lease.Routes, []route{{To: netip.MustParsePrefix("0.0.0.0/0")}}) {
		t.Errorf("with a pool around a route: %+v", m.clients[key])
	}
	own = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}
	if hold(); m.clients[key] != nil {
		t.Error("a lease in a pool is held")
	}
	own = nil
	picked[2] = chosen{Entry: "eth0", Link: appliance.Link{Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.5.1/24")}}}
	if hold(); m.clients[key] == nil {
		t.Error("a lease beside the link's own address was given up")
	}
	picked[3] = chosen{Entry: "eth1", Link: appliance.Link{Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.5.1/24")}}}
	if hold(); m.clients[key] != nil {
		t.Error("a lease in another link's network is held")
	}
}

// TestAdvertisedPrefixInThePool: an address and its route that the kernel took of a router go
// where they lie in a pool; those beside it, the link's own and the configured ones stay.
func TestAdvertisedPrefixInThePool(t *testing.T) {
	if !inside(t) {
		return
	}
	newOther(t).cable(t, "wan", "far")
	l, err := netlink.LinkByName("wan")
	check(t, err)
	check(t, netlink.LinkSetUp(l))
	for _, a := range []string{"fd00:9::5/64", "fd00:8::5/64", "fd00:9::7/128"} {
		addr, err := netlink.ParseAddr(a)
		check(t, err)
		check(t, netlink.AddrAdd(l, addr))
	}
	m, err := New(Config{Log: slog.New(slog.DiscardHandler), Own: func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("fd00:9::/48")} }})
	check(t, err)
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toNet(netip.MustParsePrefix("fd00:9:0:1::/64")), Protocol: protoRouters}))
	check(t, m.refuseAdvertised(l, map[netip.Prefix]bool{netip.MustParsePrefix("fd00:9::7/128"): true}))
	addrs, routes := witness(t, "-6", "addr", "show", "dev", "wan"), witness(t, "-6", "route", "show", "dev", "wan")
	for _, want := range []string{"fd00:8::5/64", "fd00:9::7/128"} {
		if !strings.Contains(addrs, want) {
			t.Errorf("%s is gone:\n%s", want, addrs)
		}
	}
	if strings.Contains(addrs, "fd00:9::5/64") || strings.Contains(routes, "fd00:9::/64") || strings.Contains(routes, "fd00:9:0:1::/64") || !strings.Contains(routes, "fd00:8::/64") {
		t.Errorf("addresses and routes:\n%s%s", addrs, routes)
	}
}
