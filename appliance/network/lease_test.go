package network

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t testing.TB, address, mask string, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.ParseIP(address)),
		dhcpv4.WithNetmask(net.IPMask(net.ParseIP(mask).To4())), dhcpv4.WithLeaseTime(3600),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP("192.0.2.1"))),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	m, err = dhcpv4.FromBytes(m.ToBytes()) // as it comes over the wire
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLease(t *testing.T) {
	l, err := fromACK(ack(t, "192.0.2.10", "255.255.255.0",
		dhcpv4.WithOption(dhcpv4.OptRouter(net.ParseIP("192.0.2.1"))),
		dhcpv4.WithOption(dhcpv4.OptDNS(net.ParseIP("192.0.2.53"))),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(net.ParseIP("192.0.2.123"))),
		dhcpv4.WithOption(dhcpv4.OptDomainName("example.com")),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78})), limits{six: true})
	if err != nil {
		t.Fatal(err)
	}
	if l.Address.String() != "192.0.2.10/24" || l.MTU != 1400 || len(l.DNS) != 1 || l.Time[0] != "192.0.2.123" || l.Search[0] != "example.com" || l.T1 != 30*time.Minute || l.Life != time.Hour {
		t.Errorf("%+v", l)
	}
	if want := []route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1"), Leased: true}}; !reflect.DeepEqual(l.Routes, want) {
		t.Errorf("routes %+v", l.Routes)
	}
}

// TestLies: what a DHCP server says wrongly ends nothing but itself.
func TestLies(t *testing.T) {
	dns := make([]net.IP, 255)
	for i := range dns {
		dns[i] = net.IPv4(198, 51, 100, byte(i))
	}
	l, err := fromACK(ack(t, "192.0.2.10", "255.255.255.0",
		dhcpv4.WithOption(dhcpv4.OptRouter(net.ParseIP("203.0.113.1"))),
		dhcpv4.WithOption(dhcpv4.OptDNS(dns...)),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(net.IPv4bcast, net.IPv4zero, net.IPv4(127, 0, 0, 1))),
		dhcpv4.WithOption(dhcpv4.OptDomainName("bad name; options rotate\nnameserver 203.0.113.9")),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x02, 0x40})), limits{six: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Routes) != 0 || len(l.DNS) != maxServers || len(l.Time) != 0 || len(l.Search) != 0 || l.MTU != 0 {
		t.Errorf("believed: %+v", l)
	}
	if said := strings.Join(l.Left, "; "); !strings.Contains(said, "not on the link") || !strings.Contains(said, "MTU of 576") {
		t.Errorf("left out: %s", said)
	}
	tunnel := limits{own: []netip.Prefix{netip.MustParsePrefix("10.98.0.0/16")}}
	routes := dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: cidr("10.98.7.0/24"), Router: net.ParseIP("192.0.2.1")}, // takes a device's traffic (as CVE-2024-3661)
		&dhcpv4.Route{Dest: cidr("10.0.0.0/8"), Router: net.ParseIP("192.0.2.1")},
		&dhcpv4.Route{Dest: cidr("0.0.0.0/0"), Router: net.ParseIP("192.0.2.1")},
		&dhcpv4.Route{Dest: cidr("0.0.0.0/1"), Router: net.IPv4zero},
		&dhcpv4.Route{Dest: cidr("224.0.0.0/4"), Router: net.ParseIP("192.0.2.1")},
	))
	l, err = fromACK(ack(t, "192.0.2.10", "255.255.255.0", routes, dhcpv4.WithOption(dhcpv4.OptRouter(net.ParseIP("192.0.2.7")))), tunnel)
	if err != nil {
		t.Fatal(err)
	}
	var to []string
	for _, r := range l.Routes {
		to = append(to, r.To.String()+" "+r.Via.String())
	}
	if want := []string{"10.0.0.0/8 192.0.2.1", "0.0.0.0/0 192.0.2.1"}; !reflect.DeepEqual(to, want) { // and no router (RFC 3442)
		t.Errorf("routes %v, want %v", to, want)
	}
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"the network's address":   ack(t, "192.0.2.0", "255.255.255.0"),
		"broadcast":               ack(t, "192.0.2.255", "255.255.255.0"),
		"loopback":                ack(t, "127.0.0.1", "255.0.0.0"),
		"multicast":               ack(t, "224.0.0.1", "255.255.255.0"),
		"everything":              ack(t, "192.0.2.10", "0.0.0.0"),
		"a mask with holes":       ack(t, "192.0.2.10", "255.0.255.0"),
		"an address in the pools": ack(t, "10.98.0.7", "255.255.255.0"),
		"no lease time":           ack(t, "192.0.2.10", "255.255.255.0", dhcpv4.WithoutOption(dhcpv4.OptionIPAddressLeaseTime)),
		"a short lease time":      ack(t, "192.0.2.10", "255.255.255.0", dhcpv4.WithGeneric(dhcpv4.OptionIPAddressLeaseTime, []byte{1})),
		"no server":               ack(t, "192.0.2.10", "255.255.255.0", dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)),
	} {
		if l, err := fromACK(m, tunnel); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func cidr(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = n.IP.To4()
	return n
}

func FuzzACK(f *testing.F) {
	f.Add(ack(f, "192.0.2.10", "255.255.255.0", dhcpv4.WithOption(dhcpv4.OptRouter(net.ParseIP("192.0.2.1")))).ToBytes())
	f.Add(ack(f, "192.0.2.10", "255.255.255.0", dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: cidr("10.0.0.0/8"), Router: net.ParseIP("192.0.2.1")}))).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse4(b)
		if err != nil {
			return
		}
		l, err := fromACK(m, limits{})
		if err == nil && (!host(l.Address.Addr()) || l.Life <= 0 || l.T1 <= 0 || len(l.Routes) > maxRoutes || len(l.DNS) > maxServers) {
			t.Errorf("%+v", l)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte{7, 1, 2, 3, 0, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse6(b)
		if err != nil {
			return
		}
		if l, err := fromReply(m, limits{}); err == nil && (!host(l.Address.Addr()) || l.Life <= 0) {
			t.Errorf("%+v", l)
		}
	})
}

func FuzzUserOption(f *testing.F) {
	f.Add(append([]byte{10, 0, 24, 0, 2, 0, 0, 0, 134, 0, 0, 0, 0, 0, 0, 0, 25, 3, 0, 0, 0, 0, 1, 0}, netip.MustParseAddr("2001:db8::53").AsSlice()...))
	f.Add(append([]byte{10, 0, 24, 0, 2, 0, 0, 0, 134, 0, 0, 0, 0, 0, 0, 0, 31, 3, 0, 0, 0, 0, 1, 0}, "\x07example\x03com\x00\x00\x00\x00"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, ok := parseUserOption(b); ok && len(o.servers) > maxAdvertised {
			t.Errorf("%+v", o)
		}
	})
}

func TestUserOption(t *testing.T) {
	o, ok := parseUserOption(append([]byte{10, 0, 24, 0, 2, 0, 0, 0, 134, 0, 0, 0, 0, 0, 0, 0, 31, 3, 0, 0, 0, 0, 1, 0}, "\x07example\x03com\x00\x00\x00\x00"...))
	if !ok || o.index != 2 || !reflect.DeepEqual(o.domains, []string{"example.com"}) || o.life != 256*time.Second {
		t.Errorf("%+v %v", o, ok)
	}
}
