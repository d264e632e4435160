package quarantine_test

import (
	"encoding/binary"
	"errors"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lazaret/firewall"
	"lazaret/quarantine"
)

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		v4, v6 string
		seat   quarantine.Seat
		a4, a6 string // empty: none
		fails  bool
	}{
		{"10.1.0.0/16", "fd00:1::/64", 1, "10.1.0.2", "fd00:1::2", false},
		{"10.1.0.0/16", "fd00:1::/64", 254, "10.1.0.255", "fd00:1::ff", false},
		{"10.1.0.0/16", "fd00:1::/64", 255, "10.1.1.0", "fd00:1::100", false},
		{"10.1.0.0/16", "", 65533, "10.1.255.254", "", false},
		{"10.1.0.0/16", "", 65534, "", "", true}, // the broadcast address
		{"192.0.2.0/29", "fd00:1::/64", 5, "192.0.2.6", "fd00:1::6", false},
		{"192.0.2.0/29", "fd00:1::/64", 6, "", "", true},
		{"192.0.2.248/29", "", 5, "192.0.2.254", "", false},
		{"", "fd00:1::/64", 4294967294, "", "fd00:1::ffff:ffff", false},
		{"", "fd00:1::/64", 4294967295, "", "", true},
		{"", "fd00:1::fff0/124", 1, "", "fd00:1::fff2", false},
		{"10.1.0.0/30", "", 1, "10.1.0.2", "", false},
		{"10.1.0.0/31", "", 1, "", "", true},
		{"10.1.0.0/16", "", 0, "", "", true},
		{"", "", 1, "", "", true},
	} {
		p := quarantine.Pool{Name: "p"}
		if c.v4 != "" {
			p.IPv4 = netip.MustParsePrefix(c.v4)
		}
		if c.v6 != "" {
			p.IPv6 = netip.MustParsePrefix(c.v6)
		}
		a4, a6, err := p.Address(c.seat)
		if text(a4) != c.a4 || text(a6) != c.a6 || errors.Is(err, quarantine.ErrSeat) != c.fails {
			t.Errorf("seat %d of %s %s: %s, %s, %v; want %s, %s", c.seat, c.v4, c.v6, a4, a6, err, c.a4, c.a6)
		}
	}
	p := settings().Pools["quarantine"]
	if got := p.GatewayAddresses(); len(got) != 2 || got[0].String() != "10.1.0.1/16" || got[1].String() != "fd00:1::1/64" {
		t.Errorf("the gateway's addresses: %v", got)
	}
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// An address is the prefix plus seat plus one, worked out in big integers.
func TestAddressArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var raw [16]byte
		copy(raw[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address"))
		prefix := netip.PrefixFrom(netip.AddrFrom16(raw), rapid.IntRange(8, 124).Draw(t, "length")).Masked()
		p := quarantine.Pool{Name: "p", IPv6: prefix}
		seat := quarantine.Seat(rapid.Uint32Range(1, uint32(p.LastSeat())).Draw(t, "seat"))
		_, got, err := p.Address(seat)
		if err != nil {
			t.Fatal(err)
		}
		base := prefix.Addr().As16()
		want := new(big.Int).SetBytes(base[:])
		want.Add(want, big.NewInt(int64(seat)+1))
		if have := got.As16(); new(big.Int).SetBytes(have[:]).Cmp(want) != 0 || !prefix.Contains(got) {
			t.Fatalf("seat %d of %s is %s", seat, prefix, got)
		}
	})
}

func TestCheckPools(t *testing.T) {
	reach := func(to string, protocol firewall.Protocol, from, up uint16) func(map[string]quarantine.Pool) {
		return edit("quarantine", func(p *quarantine.Pool) {
			p.Reach = []firewall.Reach{{To: netip.MustParsePrefix(to), Protocol: protocol, From: from, Up: up}}
		})
	}
	for _, c := range []struct {
		name   string
		change func(map[string]quarantine.Pool)
		want   string // in the error; empty: fine
	}{
		{"as they are", func(map[string]quarantine.Pool) {}, ""},
		{"no quarantine pool", edit("quarantine", func(p *quarantine.Pool) { p.Quarantine = false }), "exactly one quarantine pool, have 0"},
		{"two quarantine pools", edit("full", func(p *quarantine.Pool) { p.Quarantine = true }), `exactly one quarantine pool, have 2 ["full" "quarantine"]`},
		{"filed wrongly", edit("full", func(p *quarantine.Pool) { p.Name = "fool" }), `pool "fool" is filed under "full"`},
		{"no prefix", edit("full", func(p *quarantine.Pool) { p.IPv4, p.IPv6 = netip.Prefix{}, netip.Prefix{} }), "needs an IPv4 prefix"},
		{"overlap", edit("full", func(p *quarantine.Pool) { p.IPv4 = netip.MustParsePrefix("10.0.0.0/8") }), "10.0.0.0/8 and 10.3.0.0/16 overlap"},
		{"too small", edit("full", func(p *quarantine.Pool) { p.IPv4 = netip.MustParsePrefix("10.2.0.0/25") }), "room for seats up to 125, and 126 is needed"},
		{"just large enough", edit("full", func(p *quarantine.Pool) { p.IPv4 = netip.MustParsePrefix("10.2.0.0/24") }), ""},
		{"host bits", edit("full", func(p *quarantine.Pool) { p.IPv4 = netip.MustParsePrefix("10.2.0.1/16") }), "write 10.2.0.0/16"},
		{"mapped", edit("full", func(p *quarantine.Pool) { p.IPv6 = netip.MustParsePrefix("::ffff:10.9.0.0/112") }), "IPv4 address in IPv6 clothes"},
		{"IPv6 as IPv4", edit("full", func(p *quarantine.Pool) { p.IPv4, p.IPv6 = p.IPv6, netip.Prefix{} }), "is not an IPv4 prefix"},
		{"loopback", edit("full", func(p *quarantine.Pool) { p.IPv4 = netip.MustParsePrefix("127.1.0.0/16") }), "is not for hosts"},
		{"everything", edit("full", func(p *quarantine.Pool) { p.IPv6 = netip.MustParsePrefix("::/0") }), "is not for hosts"},
		{"reserved", edit("full", func(p *quarantine.Pool) { p.IPv6 = netip.MustParsePrefix("0:1::/64") }), "is not for hosts: it shares addresses with ::/16"},
		{"translated", edit("full", func(p *quarantine.Pool) { p.IPv6 = netip.MustParsePrefix("64:ff9b:1::/64") }), ""},
		{"same mark", func(m map[string]quarantine.Pool) {
			edit("full", func(p *quarantine.Pool) { p.Mark = 4 })(m)
			edit("other", func(p *quarantine.Pool) { p.Mark = 4 })(m)
		}, `pools "full" and "other" share mark 4`},
		{"marked quarantine", edit("quarantine", func(p *quarantine.Pool) { p.Mark = 4 }), "has no mark"},
		{"any protocol", reach("192.0.2.1/32", "", 0, 0), "must name the protocol"},
		{"any port", reach("192.0.2.1/32", "tcp", 0, 0), "must name the ports"},
		{"every port", reach("192.0.2.1/32", "udp", 1, 65535), "must name the ports"},
		{"ports the wrong way round", reach("192.0.2.1/32", "tcp", 443, 80), "ports 443 to 80"},
		{"port of icmp", reach("192.0.2.1/32", "icmp", 1, 1), "has no ports"},
		{"icmp", reach("192.0.2.1/32", "icmp", 0, 0), ""},
		{"strange protocol", reach("192.0.2.1/32", "sctp", 1, 1), `"sctp" is not`},
		{"everywhere", reach("0.0.0.0/0", "tcp", 443, 443), "reaches management servers"},
		{"other devices", reach("10.2.3.4/32", "tcp", 443, 443), `holds devices of pool "full"`},
		{"reach with host bits", reach("192.0.2.1/24", "tcp", 443, 443), "write 192.0.2.0/24"},
		{"no name", edit("full", func(p *quarantine.Pool) { p.Name = "" }), "the name must be"},
		{"name for a shell", func(m map[string]quarantine.Pool) {
			m["a;b"] = quarantine.Pool{Name: "a;b", IPv4: netip.MustParsePrefix("10.9.0.0/16")}
		}, "the name must be"},
		{"full pool reaches everything", edit("full", func(p *quarantine.Pool) {
			p.Reach = []firewall.Reach{{To: netip.MustParsePrefix("0.0.0.0/0")}}
		}), ""},
	} {
		pools := settings().Pools
		c.change(pools)
		err := quarantine.CheckPools(pools, 126)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// What can be saved can be enforced: the firewall takes every set of pools that CheckPools
// takes.
func TestCheckedPoolsAreEnforceable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := func(label string, bytes int) netip.Prefix {
			if rapid.IntRange(0, 3).Draw(t, label+" is left out") == 0 {
				return netip.Prefix{}
			}
			begins := map[int][]uint16{ // two bytes; about one in two not for hosts
				4:  {10<<8 + 1, 10<<8 + 2, 172<<8 + 16, 192<<8 + 168, 0, 127 << 8, 169<<8 + 254, 224 << 8},
				16: {0xfd00, 0xfd01, 0x2001, 0x0064, 1, 0, 0, 0xfe80, 0xff02},
			}[bytes]
			b := binary.BigEndian.AppendUint16(nil, rapid.SampledFrom(begins).Draw(t, label))
			b = append(b, make([]byte, bytes-2)...)
			b[3] = rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, label+" byte 3")
			addr, _ := netip.AddrFromSlice(b)
			p := netip.PrefixFrom(addr, rapid.IntRange(12, 7*bytes).Draw(t, label+" length"))
			if rapid.IntRange(0, 19).Draw(t, label+" has host bits") > 0 {
				p = p.Masked()
			}
			return p
		}
		reach := func(label string) []firewall.Reach {
			var all []firewall.Reach
			for range rapid.SampledFrom([]int{0, 0, 1}).Draw(t, label) {
				all = append(all, firewall.Reach{To: prefix(label+" to", rapid.SampledFrom([]int{4, 16}).Draw(t, label+" family")),
					Protocol: rapid.SampledFrom([]firewall.Protocol{"tcp", "udp", "icmp", "", "sctp"}).Draw(t, label+" protocol"),
					From:     rapid.Uint16Range(0, 3).Draw(t, label+" from"), Up: rapid.Uint16Range(0, 3).Draw(t, label+" up")})
			}
			return all
		}
		q := quarantine.Pool{Name: "q", Quarantine: true, IPv4: prefix("q4", 4), IPv6: prefix("q6", 16), Reach: reach("q")}
		f := quarantine.Pool{Name: "f", Mark: 1, IPv4: prefix("f4", 4), IPv6: prefix("f6", 16), Reach: reach("f")}
		if quarantine.CheckPools(map[string]quarantine.Pool{"q": q, "f": f}, 1) != nil {
			return
		}
		r := firewall.Ruleset{Table: "lazaret", Tunnel: "lz0", ListenPort: 51820, Freshness: time.Minute, QuarantineLife: time.Hour,
			Pools: []firewall.Pool{q.Kernel(), f.Kernel()}}
		for _, p := range []quarantine.Pool{q, f} {
			for _, gateway := range p.GatewayAddresses() {
				r.Gateway = append(r.Gateway, gateway.Addr())
			}
		}
		if err := r.Check(); err != nil {
			t.Fatalf("%+v and %+v: %v", q, f, err)
		}
	})
}

func edit(name string, f func(*quarantine.Pool)) func(map[string]quarantine.Pool) {
	return func(m map[string]quarantine.Pool) {
		p := m[name]
		f(&p)
		m[name] = p
	}
}

func TestKernelPool(t *testing.T) {
	p := settings().Pools["quarantine"]
	p.Mark = 7
	if k := p.Kernel(); k.Mark != 0 || k.Name != "quarantine" || k.IPv4 != p.IPv4 || k.IPv6 != p.IPv6 || len(k.Reach) != 1 {
		t.Errorf("the quarantine pool in the kernel: %+v", k)
	}
}
