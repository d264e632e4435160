package network

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"lazaret/appliance"
)

func parsed(t *testing.T, text string) appliance.Network {
	t.Helper()
	n, err := appliance.ParseNetwork([]byte("version: 2\n" + text))
	check(t, err)
	return n
}

func contains(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestSet: the kernel has what was set, by the word of ip; a second time changes nothing,
// what stays is never away, and other links are left alone.
func TestSet(t *testing.T) {
	if !inside(t) {
		return
	}
	o := newOther(t)
	o.cable(t, "eth0", "peer0")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lz0"
	check(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	tunnel, err := netlink.LinkByName("lz0")
	check(t, err)
	check(t, netlink.AddrAdd(tunnel, &netlink.Addr{IPNet: toNet(netip.MustParsePrefix("10.98.0.1/16"))}))
	check(t, netlink.LinkSetUp(tunnel))
	m, resolv := manage(t)
	n := parsed(t, `ethernets:
  eth0:
    addresses: [192.0.2.10/24, 192.0.2.11/24, "2001:db8::10/64"]
    routes: [{to: default, via: 192.0.2.1}, {to: 198.51.100.0/24, via: 192.0.2.2, metric: 50}, {to: default, via: "fe80::1"}]
    nameservers: {addresses: [192.0.2.53], search: [example.com]}
    mtu: 1400
`)
	check(t, m.Set(t.Context(), n))
	contains(t, witness(t, "address", "show", "dev", "eth0"), "mtu 1400", "inet 192.0.2.10/24", "inet 192.0.2.11/24", "inet6 2001:db8::10/64")
	contains(t, witness(t, "route", "show"), "default via 192.0.2.1 dev eth0 proto static", "198.51.100.0/24 via 192.0.2.2 dev eth0 proto static metric 50")
	contains(t, witness(t, "-6", "route", "show"), "default via fe80::1 dev eth0 proto static metric 1024")
	text, err := os.ReadFile(resolv)
	check(t, err)
	contains(t, string(text), "nameserver 192.0.2.53\n", "search example.com\n")
	for path, want := range map[string]string{"ipv4/conf/eth0/accept_redirects": "0", "ipv4/conf/eth0/rp_filter": "2", "ipv6/conf/eth0/accept_ra": "0", "ipv4/conf/eth0/arp_ignore": "1"} {
		got, err := os.ReadFile("/proc/sys/net/" + path)
		check(t, err)
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %s", path, got)
		}
	}
	quiet(t, m, func() { check(t, m.Set(t.Context(), n)) })
	// The first address goes, the second stays and never was away.
	n.Ethernets["eth0"] = appliance.Ethernet{Link: appliance.Link{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.11/24")}, Routes: []appliance.Route{{To: "default", Via: netip.MustParseAddr("192.0.2.1")}}}}
	watch := newWatch(t)
	check(t, m.Set(t.Context(), n))
	if gone := watch.removed(); strings.Contains(gone, "192.0.2.11") {
		t.Errorf("removed meanwhile: %s", gone)
	}
	contains(t, witness(t, "address", "show", "dev", "eth0"), "inet 192.0.2.11/24")
	contains(t, witness(t, "route", "show"), "default via 192.0.2.1 dev eth0")
	if text := witness(t, "address", "show"); strings.Contains(text, "192.0.2.10/24") || strings.Contains(text, "2001:db8") || !strings.Contains(text, "10.98.0.1/16") {
		t.Errorf("after the change:\n%s", text)
	}
	// What somebody takes away comes back; a card that nobody names is left without.
	eth0, err := netlink.LinkByName("eth0")
	check(t, err)
	check(t, netlink.AddrDel(eth0, &netlink.Addr{IPNet: toNet(netip.MustParsePrefix("192.0.2.11/24"))}))
	await(t, m, "the address is back", func() bool { return has(link(m, "eth0"), "192.0.2.11/24") })
	check(t, m.Set(t.Context(), appliance.Network{Version: 2}))
	if l := link(m, "eth0"); len(l.Addresses) != 0 || l.Problem != "not configured" {
		t.Errorf("left: %+v", l)
	}
}

// quiet fails if f makes the kernel tell of changed addresses or links.
func quiet(t *testing.T, _ *Manager, f func()) {
	t.Helper()
	w := newWatch(t)
	f()
	if got := w.removed(); got != "" {
		t.Errorf("removed: %s", got)
	}
}

// watch notes removed addresses.
type watch struct {
	ch   chan netlink.AddrUpdate
	done chan struct{}
	t    *testing.T
}

func newWatch(t *testing.T) *watch {
	t.Helper()
	w := &watch{make(chan netlink.AddrUpdate, 256), make(chan struct{}), t}
	check(t, netlink.AddrSubscribe(w.ch, w.done))
	return w
}

// removed are the addresses that went, up to a mark of its own on the loopback.
func (w *watch) removed() string {
	lo, err := netlink.LinkByName("lo")
	check(w.t, err)
	mark := &netlink.Addr{IPNet: toNet(netip.MustParsePrefix("127.7.7.7/32"))}
	check(w.t, netlink.AddrAdd(lo, mark))
	check(w.t, netlink.AddrDel(lo, mark))
	var out []string
	for u := range w.ch {
		if u.NewAddr {
			continue
		}
		if u.LinkAddress.IP.Equal(mark.IP) {
			break
		}
		out = append(out, u.LinkAddress.String())
	}
	close(w.done)
	go drain(w.ch)
	return strings.Join(out, " ")
}

// TestLinksComeAndGo: a card that comes later is configured then, by its hardware address.
func TestLinksComeAndGo(t *testing.T) {
	if !inside(t) {
		return
	}
	m, _ := manage(t)
	n := parsed(t, `ethernets:
  wan:
    match: {macaddress: "52:54:00:00:00:07"}
    addresses: [192.0.2.10/24]
    routes: [{to: default, via: 192.0.2.1}]
`)
	check(t, m.Set(t.Context(), n))
	if l := link(m, "wan"); l.Problem != "there is no such card" {
		t.Errorf("%+v", m.Links())
	}
	o := newOther(t)
	for range 2 {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "eth5", []byte{0x52, 0x54, 0, 0, 0, 7}
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer5", PeerNamespace: netlink.NsFd(int(o.at))}))
		await(t, m, "the card is configured", func() bool { return has(link(m, "eth5"), "192.0.2.10/24") })
		if l := link(m, "eth5"); l.Problem != "nothing is connected" {
			t.Errorf("%+v", l)
		}
		o.do(t, func() {
			peer, err := netlink.LinkByName("peer5")
			check(t, err)
			check(t, netlink.LinkSetUp(peer))
		})
		await(t, m, "the link is up with its router", func() bool { l := link(m, "eth5"); return l.Up && len(l.Gateways) == 1 })
		eth5, err := netlink.LinkByName("eth5")
		check(t, err)
		check(t, netlink.LinkDel(eth5))
		await(t, m, "the card is gone", func() bool { return link(m, "eth5").Name == "" })
	}
}

// TestTry: a network that nobody confirms takes itself back; one that is confirmed stays.
func TestTry(t *testing.T) {
	if !inside(t) {
		return
	}
	newOther(t).cable(t, "eth0", "peer0")
	m, _ := manage(t)
	before, tried := parsed(t, "ethernets: {eth0: {addresses: [192.0.2.10/24]}}"), parsed(t, "ethernets: {eth0: {addresses: [192.0.2.20/24]}}")
	check(t, m.Set(t.Context(), before))
	await(t, m, "the manager runs", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.run != nil })
	check(t, m.Try(t.Context(), tried, 300*time.Millisecond))
	if l := link(m, "eth0"); !has(l, "192.0.2.20/24") || has(l, "192.0.2.10/24") {
		t.Errorf("while trying: %+v", l)
	}
	await(t, m, "it is taken back", func() bool { l := link(m, "eth0"); return has(l, "192.0.2.10/24") && !has(l, "192.0.2.20/24") })
	if _, err := m.Confirm(); err == nil {
		t.Error("confirmed what is over")
	}
	check(t, m.Try(t.Context(), tried, time.Hour))
	if got, err := m.Confirm(); err != nil || got.Ethernets["eth0"].Addresses[0].String() != "192.0.2.20/24" {
		t.Errorf("%+v %v", got, err)
	}
	if _, ok := m.Trying(); ok {
		t.Error("still trying")
	}
	check(t, m.Try(t.Context(), before, time.Hour))
	check(t, m.Revert(t.Context()))
	if l := link(m, "eth0"); !has(l, "192.0.2.20/24") {
		t.Errorf("after taking back: %+v", l)
	}
}
