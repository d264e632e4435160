package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// server is a DHCP server at the other end, which does as it is told.
type server struct {
	mu      sync.Mutex
	address string // "": it refuses what is asked for and offers nothing
	silent  bool
	life    time.Duration
	asked   []dhcpv4.MessageType
	host    string
	more    []dhcpv4.Modifier
}

func (s *server) tell(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *server) handle(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.host = append(s.asked, m.MessageType()), m.HostName()
	if s.silent {
		return
	}
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
		if s.address == "" {
			kind = dhcpv4.MessageTypeNak
		}
	} else if s.address == "" {
		return
	}
	answer, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(uint32(s.life.Seconds())),
		dhcpv4.WithYourIP(net.ParseIP(s.address)),
	}, s.more...)...)
	if err != nil {
		panic(err)
	}
	_, _ = conn.WriteTo(answer.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
}

func (o other) serve(t *testing.T, s *server) {
	t.Helper()
	o.do(t, func() {
		srv, err := server4.NewServer("peer0", &net.UDPAddr{IP: net.IPv4zero, Port: 67}, s.handle)
		check(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve() }() // ends with the socket
		t.Cleanup(func() { srv.Close(); <-done })
	})
}

var dhcp = appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{"eth0": {Link: appliance.Link{DHCP4: true}}}}

// TestDHCP: an address comes, is renewed, changes when the server says so without the old one
// going first, survives a server that falls silent until the lease ends, and comes back.
func TestDHCP(t *testing.T) {
	if !inside(t) {
		return
	}
	o := newOther(t)
	o.cable(t, "eth0", "peer0", "192.0.2.1/24")
	s := &server{address: "192.0.2.10", life: 2 * time.Second, more: []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(192, 0, 2, 1))), dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(192, 0, 2, 53))),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(net.IPv4(192, 0, 2, 123))), dhcpv4.WithOption(dhcpv4.OptDomainName("example.com")),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78}),
		dhcpv4.WithGeneric(dhcpv4.OptionRenewTimeValue, []byte{0, 0, 0, 1}),
	}}
	o.serve(t, s)
	m, resolv := manage(t)
	repeats = []time.Duration{200 * time.Millisecond, 400 * time.Millisecond}
	check(t, m.Set(t.Context(), dhcp))
	await(t, m, "a lease", func() bool { l := link(m, "eth0"); return has(l, "192.0.2.10/24") && len(l.Gateways) == 1 })
	contains(t, witness(t, "route", "show"), "default via 192.0.2.1 dev eth0 proto dhcp metric 1")
	await(t, m, "the MTU", func() bool { return strings.Contains(witness(t, "link", "show", "eth0"), "mtu 1400") })
	text, err := os.ReadFile(resolv)
	check(t, err)
	contains(t, string(text), "nameserver 192.0.2.53\n", "search example.com\n")
	if got := m.TimeServers(); !slices.Equal(got, []string{"192.0.2.123"}) {
		t.Errorf("time servers %v", got)
	}
	if s.tell(func() {}); s.host != "gw1" {
		t.Errorf("the host's name was %q", s.host)
	}
	w := newWatch(t)
	await(t, m, "two renewals", func() bool {
		n := 0
		s.tell(func() {
			for _, k := range s.asked {
				if k == dhcpv4.MessageTypeRequest {
					n++
				}
			}
		})
		return n >= 3
	})
	if gone := w.removed(); gone != "" {
		t.Errorf("renewing took away %s", gone)
	}
	s.tell(func() { s.address = "192.0.2.20" })
	await(t, m, "the other address", func() bool {
		l := link(m, "eth0")
		return has(l, "192.0.2.20/24") && !has(l, "192.0.2.10/24") && len(l.Gateways) == 1
	})
	s.tell(func() { s.silent = true })
	await(t, m, "the lease ends", func() bool { l := link(m, "eth0"); return len(l.Gateways) == 0 && !has(l, "192.0.2.20/24") })
	s.tell(func() { s.silent = false })
	await(t, m, "a lease again", func() bool { return has(link(m, "eth0"), "192.0.2.20/24") })
	s.tell(func() { s.address = "" })
	await(t, m, "it is refused", func() bool { return !has(link(m, "eth0"), "192.0.2.20/24") })
}

// TestDHCPLies: an offer that makes no sense is passed over, and the screen says why.
func TestDHCPLies(t *testing.T) {
	if !inside(t) {
		return
	}
	o := newOther(t)
	o.cable(t, "eth0", "peer0", "192.0.2.1/24")
	s := &server{address: "192.0.2.255", life: time.Hour}
	o.serve(t, s)
	m, _ := manage(t)
	repeats = []time.Duration{100 * time.Millisecond}
	check(t, m.Set(t.Context(), dhcp))
	await(t, m, "the reason", func() bool {
		return strings.Contains(link(m, "eth0").Problem, "192.0.2.255/24, which is no host's address")
	})
	s.tell(func() { s.silent = true })
	await(t, m, "silence", func() bool { return link(m, "eth0").Problem == "no answer from DHCP" })
	s.tell(func() { s.silent, s.address = false, "192.0.2.30" })
	await(t, m, "a sound offer", func() bool { return has(link(m, "eth0"), "192.0.2.30/24") })
}

// TestRouters: addresses, routes and name servers come from router advertisements where that
// is configured, also while the machine forwards, and from nowhere else; DHCPv6 adds its own.
func TestRouters(t *testing.T) {
	if !inside(t) {
		return
	}
	o := newOther(t)
	o.cable(t, "eth0", "peer0")
	o.cable(t, "eth1", "peer1")
	for _, name := range []string{"eth0", "eth1"} {
		_, err := write([]setting{{"net/ipv6/conf/" + name + "/accept_dad", "0"}})
		check(t, err)
	}
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	o.serve6(t)
	m, resolv := manage(t)
	check(t, m.Set(t.Context(), parsed(t, "ethernets: {eth0: {accept-ra: true, dhcp6: true}, eth1: {addresses: ['2001:db8:1::1/64']}}")))
	mac := link(m, "eth0").MAC
	hw, err := net.ParseMAC(mac)
	check(t, err)
	slaac := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 7, 0, 0, hw[0] ^ 2, hw[1], hw[2], 0xff, 0xfe, hw[3], hw[4], hw[5]})
	advertise := o.router(t)
	told := false // eth1 too
	await(t, m, "an address and a router", func() bool {
		advertise("peer0", 600)
		told = advertise("peer1", 600) || told
		l := link(m, "eth0")
		return told && has(l, slaac.String()+"/64") && len(l.Gateways) == 1 && l.Gateways[0].IsLinkLocalUnicast()
	})
	if l := link(m, "eth1"); len(l.Gateways) != 0 || !has(l, "2001:db8:1::1/64") || len(l.Addresses) != 2 {
		t.Errorf("a link that listens to no router: %+v", l)
	}
	await(t, m, "its name server", func() bool {
		text, err := os.ReadFile(resolv)
		check(t, err)
		return strings.Contains(string(text), "nameserver 2001:db8:7::53\n") && strings.Contains(string(text), "nameserver 2001:db8:7::54\n")
	})
	await(t, m, "an address of DHCPv6", func() bool { return has(link(m, "eth0"), "2001:db8:7::100/128") })
	if got := m.TimeServers(); !slices.Equal(got, []string{"2001:db8:7::123"}) {
		t.Errorf("time servers %v", got)
	}
	if !has(link(m, "eth0"), slaac.String()+"/64") {
		t.Error("DHCPv6 took the router's address away")
	}
	check(t, m.Set(t.Context(), parsed(t, "ethernets: {eth0: {addresses: [192.0.2.10/24]}}")))
	if l := link(m, "eth0"); len(l.Addresses) != 1 || len(l.Gateways) != 0 {
		t.Errorf("without IPv6: %+v", l)
	}
}

// router returns what sends an advertisement: a prefix, and a name server for life seconds. It
// cannot yet where the link has no address of its own: sent says so, and the caller tries again.
func (o other) router(t *testing.T) func(device string, life uint32) (sent bool) {
	t.Helper()
	var p *ipv6.PacketConn
	o.do(t, func() {
		c, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
		check(t, err)
		t.Cleanup(func() { c.Close() })
		p = c.IPv6PacketConn()
		check(t, p.SetMulticastHopLimit(255))
	})
	return func(device string, life uint32) (sent bool) {
		body := []byte{64, 0, 7, 8} // hop limit, flags, router lifetime
		body = append(body, 0, 0, 0, 0, 0, 0, 0, 0)
		body = append(body, 3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0) // prefix: on link, autonomous
		body = append(body, netip.MustParseAddr("2001:db8:7::").AsSlice()...)
		body = append(body, 25, 3, 0, 0)
		body = binary.BigEndian.AppendUint32(body, life)
		body = append(body, netip.MustParseAddr("2001:db8:7::53").AsSlice()...)
		b, err := (&icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: body}}).Marshal(nil)
		check(t, err)
		o.do(t, func() {
			i, err := net.InterfaceByName(device)
			check(t, err)
			_, err = p.WriteTo(b, &ipv6.ControlMessage{IfIndex: i.Index, HopLimit: 255}, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: device})
			if sent = !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENETUNREACH); sent {
				check(t, err)
			}
		})
		return sent
	}
}

// serve6 answers DHCPv6 with one address.
func (o other) serve6(t *testing.T) {
	t.Helper()
	id := &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	o.do(t, func() {
		s, err := server6.NewServer("peer0", nil, func(conn net.PacketConn, peer net.Addr, d dhcpv6.DHCPv6) {
			m, ok := d.(*dhcpv6.Message)
			if !ok {
				return
			}
			make := dhcpv6.NewReplyFromMessage
			if m.MessageType == dhcpv6.MessageTypeSolicit {
				make = dhcpv6.NewAdvertiseFromSolicit
			}
			answer, err := make(m, dhcpv6.WithServerID(id), dhcpv6.WithDNS(net.ParseIP("2001:db8:7::54")))
			if err != nil {
				return
			}
			answer.AddOption(&dhcpv6.OptIANA{IaId: m.Options.OneIANA().IaId, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
				&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("2001:db8:7::100"), PreferredLifetime: time.Hour, ValidLifetime: 2 * time.Hour},
			}}})
			ntp := dhcpv6.NTPSuboptionSrvAddr(net.ParseIP("2001:db8:7::123"))
			answer.AddOption(&dhcpv6.OptNTPServer{Suboptions: dhcpv6.Options{&ntp}})
			_, _ = conn.WriteTo(answer.ToBytes(), peer)
		})
		check(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve() }() // ends with the socket
		t.Cleanup(func() { s.Close(); <-done })
	})
}
