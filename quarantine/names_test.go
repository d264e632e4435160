package quarantine_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

func addrsOf(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// TestPins is what a name may open: the public Internet, less what is the gateway's, the
// devices' or the organization's own. Addresses are from the IANA registries of
// special-purpose addresses, at both ends of each range and beyond.
func TestPins(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.66.0.0/16"), netip.MustParsePrefix("fd66::/48"), netip.MustParsePrefix("44.1.0.0/16")}
	n := quarantine.Names{
		Gateway: addrsOf("9.9.9.1", "2620:fe::1"),
		Own:     []netip.Prefix{netip.MustParsePrefix("17.2.0.0/16"), netip.MustParsePrefix("2a00:17::/32")},
	}
	strict := quarantine.Pool{Name: "strict"}
	open := quarantine.Pool{Name: "open"} // allows everything that can be allowed
	for _, s := range []string{"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"} {
		open.Allow = append(open.Allow, netip.MustParsePrefix(s))
	}
	const public, private, never = "public", "private", "never"
	for want, list := range map[string][]string{
		public: {
			"1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
			"169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
			"198.20.0.0", "223.255.255.255", "2000::1", "2001:200::1", "2600::1", "3ffe::1", "3fff:1000::", "64:ff9b::9.9.9.9",
			"2a01::1:5efe:9.9.9.9", "2a01::200:5efe:9.9.9.9",
		},
		private: {
			"10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.255",
			"192.0.2.1", "192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.7", "203.0.113.255",
			"240.0.0.0", "255.255.255.254", "17.2.3.4", "2a00:17::1",
			"fc00::1", "fdff:ffff::1", "2001:db8::1", "3fff::1", "2001:1::5", "2001:1ff::1", "2002:909:909::1", "100::1", "4000::1", "5f00::1",
			"64:ff9b:1::1.1.1.1", "64:ff9b::10.0.0.1", "64:ff9b::192.168.1.1", "64:ff9b::100.64.0.1", "64:ff9b::17.2.3.4",
			"2a01::5efe:10.1.2.3", "2a01::200:5efe:172.16.0.1", "2002:a01:203::1", "2001:0:909:909::f5fe:fdfc",
		},
		never: {
			"0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254", "224.0.0.1", "239.255.255.255",
			"255.255.255.255", "::", "::1", "::10.0.0.1", "::ffff:9.9.9.9", "::ffff:10.0.0.1", "fe80::1", "febf::1", "fec0::1", "ff02::1",
			"10.66.0.1", "10.66.255.255", "fd66::1", "44.1.2.3", "9.9.9.1", "2620:fe::1",
			"64:ff9b::127.0.0.1", "64:ff9b::10.66.0.5", "64:ff9b::9.9.9.1", "64:ff9b::169.254.169.254", "64:ff9b:1::10.66.0.5",
			"2002:7f00:1::1", "2002:a42:5::1", "2002:909:901::1", "2001:0:7f00:1::1", "2001:0:909:909::80ff:fffe", // the last: Teredo client 127.0.0.1
			"2a01::5efe:10.66.0.5", "2a01::200:5efe:127.0.0.1",
		},
	} {
		for _, a := range addrsOf(list...) {
			byStrict, byOpen := strict.Refuses(a, n, inside), open.Refuses(a, n, inside)
			got := map[[2]bool]string{{true, true}: public, {false, true}: private, {false, false}: never}[[2]bool{byStrict == nil, byOpen == nil}]
			if got != want {
				t.Errorf("%s is %q, want %s: %v; %v", a, got, want, byStrict, byOpen)
			}
			if want != public && (byStrict == nil || !strings.Contains(byStrict.Error(), a.String())) {
				t.Errorf("%s is refused without its name: %v", a, byStrict)
			}
		}
	}
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("2a01::1%eth0")} {
		if open.Refuses(a, n, inside) == nil {
			t.Errorf("%q is opened", a)
		}
	}
	narrow := quarantine.Pool{Name: "narrow", Allow: []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24")}}
	for a, want := range map[string]bool{"10.1.2.3": true, "64:ff9b::10.1.2.3": true, "10.1.3.1": false, "10.1.1.255": false, "2002:a01:203::": false} {
		if err := narrow.Refuses(netip.MustParseAddr(a), n, inside); (err == nil) != want {
			t.Errorf("with 10.1.2.0/24 allowed, %s: %v", a, err)
		}
	}
}

func TestPinnedIsBoundedAndDeterministic(t *testing.T) {
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{9, 9, 0, byte(i)}), netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))
	}
	many = append(many, many[0])
	p := quarantine.Pool{Name: "p"}
	pinned, refused := p.Pinned("a.example", quarantine.Names{Addresses: map[string][]netip.Addr{"a.example": many}}, nil)
	if len(pinned) != quarantine.MaxPinned || len(refused) != 200-quarantine.MaxPinned {
		t.Fatalf("%d pinned and %d refused", len(pinned), len(refused))
	}
	for i, a := range pinned { // the first of the good ones, whatever bad ones stand between
		if a != netip.AddrFrom4([4]byte{9, 9, 0, byte(i)}) {
			t.Errorf("%d: %s", i, a)
		}
	}
}

func TestCheckNames(t *testing.T) {
	web := func(name string) quarantine.NamedReach {
		return quarantine.NamedReach{Name: name, Protocol: "tcp", From: 443, Up: 443}
	}
	many := make([]quarantine.NamedReach, quarantine.MaxNames+1)
	for i := range many {
		many[i] = web(fmt.Sprintf("h%d.example.com", i))
	}
	for _, c := range []struct {
		what   string
		change func(*quarantine.Pool)
		want   string // empty: fine
	}{
		{"a name", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("mdm.example.com")} }, ""},
		{"a short one", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("_x.y")} }, ""},
		{"as many as can be", func(p *quarantine.Pool) { p.Named = many[1:] }, ""},
		{"too many", func(p *quarantine.Pool) { p.Named = many }, "32 at most"},
		{"upper case", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("MDM.example.com")} }, "lower case"},
		{"no dot", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("mdm")} }, "with a dot"},
		{"final dot", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("mdm.example.com.")} }, "no host name"},
		{"wildcard", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("*.example.com")} }, "no host name"},
		{"an address", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("192.0.2.300")} }, "neither a host name nor an address"},
		{"a space", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web("a b.example")} }, "no host name"},
		{"a long label", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{web(strings.Repeat("a", 64) + ".example")} }, "63"},
		{"every port", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{{Name: "a.example", Protocol: "tcp"}} }, "must name the ports"},
		{"every protocol", func(p *quarantine.Pool) { p.Named = []quarantine.NamedReach{{Name: "a.example"}} }, "must name the protocol"},
		{"allowing everything", func(p *quarantine.Pool) { p.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }, "open everything"},
		{"allowing host bits", func(p *quarantine.Pool) { p.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "write 10.0.0.0/8"},
		{"forwarding", func(p *quarantine.Pool) { p.Forward = true }, "and no others"},
	} {
		p := settings().Pools["quarantine"]
		c.change(&p)
		err := p.Check(1)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

// named gives the bench's quarantine pool a name, and the pool "other" nothing but one.
func named(b *bench) {
	b.store.Save(withNames())
	synctest.Wait()
}

func withNames() storetest.Settings {
	s := settings()
	for _, pool := range []string{"quarantine", "other"} {
		p := s.Pools[pool]
		p.Named = []quarantine.NamedReach{{Name: "mdm.example.com", Protocol: "tcp", From: 443, Up: 443}}
		s.Pools[pool] = p
	}
	return s
}

// opened is what the enforced plan lets a pool reach.
func opened(b *bench, pool string) (all []string) {
	for _, p := range b.gate.Enforced() {
		if p.Name == pool {
			for _, r := range p.Reach {
				all = append(all, fmt.Sprintf("%s %s/%d", r.To, r.Protocol, r.From))
			}
		}
	}
	return all
}

func resolving(addrs ...string) quarantine.Names {
	return quarantine.Names{Addresses: map[string][]netip.Addr{"mdm.example.com": addrsOf(addrs...)}}
}

// TestNamesBecomeReach follows addresses from a resolver into plans: never one that may not
// be pinned, a plan for every change and for nothing else, and a full pool without addresses
// reaches nothing rather than everything.
func TestNamesBecomeReach(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		settled := make(chan struct{})
		_, changed := b.gate.Pools()
		go func() { <-changed; close(settled) }()
		named(b)
		<-settled
		const fixed, nowhere = "192.0.2.1/32 tcp/443", "100::1/128 icmp/0"
		want := func(when string, quarantined, other []string) {
			t.Helper()
			synctest.Wait()
			if got := opened(b, "quarantine"); !slices.Equal(got, quarantined) {
				t.Errorf("%s: quarantine reaches %v, want %v", when, got, quarantined)
			}
			if got := opened(b, "other"); !slices.Equal(got, other) {
				t.Errorf("%s: the full pool reaches %v, want %v", when, got, other)
			}
		}
		want("unresolved", []string{fixed}, []string{nowhere})
		b.gate.SetNames(resolving("9.9.9.9", "10.0.0.5", "2a01::9", "127.0.0.1", "10.1.0.7"))
		want("resolved", []string{fixed, "9.9.9.9/32 tcp/443", "2a01::9/128 tcp/443"}, []string{"9.9.9.9/32 tcp/443", "2a01::9/128 tcp/443"})
		if !b.gate.Opens("quarantine", netip.MustParseAddr("9.9.9.9")) || b.gate.Opens("quarantine", netip.MustParseAddr("10.0.0.5")) || b.gate.Opens("full", netip.MustParseAddr("9.9.9.9")) {
			t.Error("Opens says something else than the plan")
		}
		_, plans, _ := b.enforcer.Counts()
		b.gate.SetNames(resolving("2a01::9", "9.9.9.9", "10.0.0.6"))
		synctest.Wait()
		if _, after, _ := b.enforcer.Counts(); after != plans {
			t.Error("a plan was sent although nothing else is opened")
		}
		b.gate.SetNames(resolving("10.0.0.5", "192.168.0.1"))
		want("rebound", []string{fixed}, []string{nowhere})

		s := withNames() // a pool of devices comes to lie where the name leads
		b.gate.SetNames(resolving("44.3.0.9"))
		want("resolved again", []string{fixed, "44.3.0.9/32 tcp/443"}, []string{"44.3.0.9/32 tcp/443"})
		p := s.Pools["full"]
		p.IPv4 = netip.MustParsePrefix("44.3.0.0/16")
		s.Pools["full"] = p
		b.store.Save(s)
		want("devices there", []string{fixed}, []string{nowhere})
		if b.gate.Status().Problem != "" {
			t.Error(b.gate.Status().Problem)
		}
	})
}

// TestNamesWhileThePlanIsOnItsWay: what changes while a plan is being sent is in the next.
func TestNamesWhileThePlanIsOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		named(b)
		var once bool
		b.enforcer.SetHook(func(context.Context, string, quarantine.ID) error {
			if !once {
				once = true
				b.gate.SetNames(resolving("9.9.9.10"))
			}
			return nil
		})
		b.gate.SetNames(resolving("9.9.9.9"))
		synctest.Wait()
		if got := opened(b, "other"); !slices.Equal(got, []string{"9.9.9.10/32 tcp/443"}) {
			t.Errorf("reaches %v", got)
		}
	})
}

// TestAt finds devices by their addresses, and nobody where nobody is.
func TestAt(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		at := func(a string) string {
			r, err := b.gate.At(netip.MustParseAddr(a))
			id, p, err2 := b.gate.Standing(netip.MustParseAddr(a))
			if (err == nil) != (err2 == nil) || r.ID != id || r.Stage != p.Stage || r.Pool != p.Pool {
				t.Errorf("%s: At says %s %s, Standing %s %s", a, r.ID, r.Stage, id, p.Stage)
			}
			if err == nil && len(r.Reasons) == 0 {
				t.Errorf("%s: no reasons", a)
			}
			return strings.TrimSpace(string(r.ID) + " " + string(r.Stage))
		}
		want := func(when string, all map[string]string) {
			t.Helper()
			synctest.Wait()
			for a, who := range all {
				if got := at(a); got != who {
					t.Errorf("%s: %s is %q, want %q", when, a, got, who)
				}
			}
		}
		b.enroll(enrolled(5, "staff", time.Now()))
		b.enroll(enrolled(6, "approved", time.Now()))
		b.enroll(enrolled(7, "fixed", time.Now()))
		want("quarantined", map[string]string{
			"10.1.0.6": "d5 quarantined", "fd00:1::6": "d5 quarantined", "10.2.0.6": "", "10.1.0.7": "", "10.1.0.8": "d7 quarantined",
			"10.1.0.1": "", "10.1.0.0": "", "10.1.0.9": "", "10.1.255.255": "", "192.0.2.1": "", "fd00:1:0:0:1::6": "", "::ffff:10.1.0.6": "",
		})
		b.compliant("d5")
		b.compliant("d7")
		want("routed", map[string]string{"10.1.0.6": "d5 routed", "10.2.0.6": "d5 routed", "10.3.0.6": "", "10.1.0.8": "d7 routed", "10.2.0.8": ""})
		time.Sleep(time.Hour + time.Second)
		want("lapsed", map[string]string{"10.1.0.6": "d5 quarantined", "10.2.0.6": ""})
		if _, err := b.gate.Change(context.Background(), admin, quarantine.Change{Kind: quarantine.Block, Device: "d5", By: admin, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		want("blocked", map[string]string{"10.1.0.6": ""})
		if _, err := b.gate.Change(context.Background(), admin, quarantine.Change{Kind: quarantine.Revoke, Device: "d5", By: admin, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		next := enrolled(8, "staff", time.Now())
		next.Seat = 5
		b.enroll(next) // the seat is another's now
		want("revoked", map[string]string{"10.1.0.6": "d8 quarantined"})
		b.store.Delete("d8")
		want("gone", map[string]string{"10.1.0.6": ""})
	})
}
