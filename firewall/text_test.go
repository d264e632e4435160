package firewall

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/internal/testneed"
)

var update = flag.Bool("update", false, "rewrite the golden files from Ruleset.Text")

func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addrs(s ...string) (l []netip.Addr) {
	for _, a := range s {
		l = append(l, addr(a))
	}
	return l
}

// baseRuleset is what the data plane adopts at boot: no pools yet.
func baseRuleset() Ruleset {
	return Ruleset{
		Table: "lazaret", Tunnel: "lz0", ListenPort: 51820,
		Freshness: time.Minute, QuarantineLife: 24 * time.Hour,
		Outside: []Service{{Protocol: "tcp", Port: 443}},
	}
}

// fullRuleset uses every shape a ruleset has, in both families.
func fullRuleset() Ruleset {
	r := baseRuleset()
	r.Freshness = 90 * time.Second
	r.Gateway = addrs("10.99.0.1", "10.98.0.1", "fd99::1", "fd98::1")
	r.Pools = []Pool{
		{Name: "quarantine", IPv4: pfx("10.99.0.0/16"), IPv6: pfx("fd99::/64"), Reach: []Reach{
			{To: pfx("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 443},
			{To: pfx("2001:db8::10/128"), Protocol: "tcp", From: 443, Up: 443},
			{To: pfx("192.0.2.12/31"), Protocol: "udp", From: 5000, Up: 5010},
			{To: pfx("2001:db8::20/124"), Protocol: "udp", From: 5000, Up: 5010},
			{To: pfx("192.0.2.11/32"), Protocol: "icmp"},
			{To: pfx("2001:db8::11/128"), Protocol: "icmp"},
		}},
		{Name: "staff", Mark: 1, IPv4: pfx("10.98.0.0/20"), IPv6: pfx("fd98::/64"), Masquerade: true},
		{Name: "guests", Mark: 7, IPv4: pfx("10.97.0.0/24"), IPv6: pfx("fd97::/64"), Reach: []Reach{
			{To: pfx("198.51.100.0/24")},
			{To: pfx("2001:db8:1::/48")},
			{To: pfx("0.0.0.0/0"), Protocol: "tcp", From: 443},
			{To: pfx("::/0"), Protocol: "udp", From: 1024, Up: 65535},
			{To: pfx("10.0.0.0/8"), Protocol: "tcp"},
		}},
	}
	r.Outside = []Service{{Protocol: "tcp", Port: 443}, {Protocol: "tcp", Port: 22, From: []netip.Prefix{pfx("203.0.113.0/24"), pfx("2001:db8:2::/48")}},
		{Protocol: "icmp", From: []netip.Prefix{pfx("203.0.113.0/24")}}}
	r.Inside = []Service{{Protocol: "tcp", Port: 8443}, {Protocol: "udp", Port: 53}, {Protocol: "tcp", Port: 9443, From: []netip.Prefix{pfx("10.98.0.0/20")}}}
	r.Out = []Service{{Protocol: "udp", Port: 123}, {Protocol: "tcp", Port: 443, From: []netip.Prefix{pfx("203.0.113.7/32")}}, {Protocol: "icmp"}}
	return r
}

func fullElements() Elements {
	hour := After(time.Hour)
	return Elements{
		Quarantined: addrs("10.99.0.9", "10.99.0.2", "10.99.0.3", "fd99::3", "fd99::2"),
		Routed: []Routed{{addr("10.98.0.3"), 1, hour}, {addr("10.98.0.2"), 1, hour}, {addr("10.97.0.4"), 7, hour},
			{addr("10.99.0.9"), 1, hour}, {addr("fd98::2"), 1, hour}, {addr("fd97::4"), 7, hour}},
		Fresh: hour, Alive: hour,
	}
}

// hostRuleset is a host's own rules as a strict configuration asks for them: an
// administrators' network in both families, and a proxy as the only way out for HTTP.
func hostRuleset() Ruleset {
	r := baseRuleset()
	admin := []netip.Prefix{pfx("192.0.2.0/25"), pfx("2001:db8::/121")}
	r.Outside = []Service{{Protocol: "tcp", Port: 443}, {Protocol: "tcp", Port: 8443, From: admin}, {Protocol: "tcp", Port: 22, From: admin}, {Protocol: "icmp", From: admin}}
	r.Inside = []Service{{Protocol: "tcp", Port: 8444}}
	r.Out = []Service{{Protocol: "udp", Port: 53, From: []netip.Prefix{pfx("192.0.2.53/32"), pfx("2001:db8::53/128")}},
		{Protocol: "udp", Port: 123}, {Protocol: "tcp", Port: 3128, From: []netip.Prefix{pfx("192.0.2.200/32")}}}
	return r
}

// oneFamily is a ruleset of a single family.
func oneFamily(prefixes ...netip.Prefix) Ruleset {
	r := baseRuleset()
	q, full := Pool{Name: "quarantine"}, Pool{Name: "all", Mark: 1}
	for i, p := range prefixes {
		x := []*Pool{&q, &full}[i]
		if p.Addr().Is4() {
			x.IPv4 = p
		} else {
			x.IPv6 = p
		}
	}
	r.Pools = []Pool{q, full}
	return r
}

type golden struct {
	name     string
	ruleset  Ruleset
	elements Elements
}

func goldens() []golden {
	four, six := oneFamily(pfx("10.99.0.0/24"), pfx("10.98.0.0/24")), oneFamily(pfx("fd99::/64"), pfx("fd98::/64"))
	return []golden{
		{"base", baseRuleset(), Elements{}},
		{"full", fullRuleset(), fullElements()},
		{"host", hostRuleset(), Elements{}},
		{"pools", manyPools(), Elements{Routed: []Routed{{addr("10.90.3.2"), 23, After(time.Hour)}, {addr("10.90.3.3"), 24, After(time.Hour)}}}},
		{"ipv4", four, Elements{Quarantined: addrs("10.99.0.2"), Alive: After(time.Hour)}},
		{"ipv6", six, Elements{Quarantined: addrs("fd99::2"), Alive: After(time.Hour)}},
	}
}

func (g golden) want(t *testing.T) string {
	t.Helper()
	path := filepath.Join("testdata", g.name+".nft")
	if *update {
		if err := os.WriteFile(path, []byte(g.ruleset.Text(g.elements)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTextIsGolden(t *testing.T) {
	for _, g := range goldens() {
		t.Run(g.name, func(t *testing.T) {
			if err := g.ruleset.Check(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(g.want(t), g.ruleset.Text(g.elements)); diff != "" {
				t.Error(diff)
			}
			slices.Reverse(g.elements.Quarantined)
			slices.Reverse(g.elements.Routed)
			if diff := cmp.Diff(g.want(t), g.ruleset.Text(g.elements)); diff != "" {
				t.Error("order of elements matters:", diff)
			}
		})
	}
}

var (
	progname = regexp.MustCompile(`(?m)^(table inet \w+ \{) # progname .*$`)
	counters = regexp.MustCompile(`counter packets \d+ bytes \d+`)
	expiry   = regexp.MustCompile(`( timeout \w+)? expires \w+`)
	memories = regexp.MustCompile(`((?:set verified|map generation) \{\n[^}]*)\t\telements = \{[^}]*\}\n`)
)

// normal is what nft prints, without what changes by itself.
func normal(listing string) string {
	listing = progname.ReplaceAllString(listing, "$1")
	listing = counters.ReplaceAllString(listing, "counter packets 0 bytes 0")
	listing = memories.ReplaceAllString(listing, "$1")
	return expiry.ReplaceAllString(listing, "")
}

// TestKernelIsGolden writes each ruleset in every way there is, and asks nft what the
// kernel holds then.
func TestKernelIsGolden(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	all := goldens()
	for _, g := range all {
		table := open(t)
		list := func(how string) {
			t.Helper()
			if diff := cmp.Diff(g.want(t), normal(nft(t, "list", "table", "inet", "lazaret"))); diff != "" {
				t.Fatalf("%s, %s: %s", g.name, how, diff)
			}
			if err := table.Verify(); err != nil {
				t.Errorf("%s, %s: %v", g.name, how, err)
			}
		}
		must(t, table.Adopt(baseRuleset()))
		must(t, table.Fill(g.ruleset, g.elements))
		list("filled over the base")
		must(t, table.Fill(g.ruleset, g.elements))
		list("filled twice")
		for _, other := range all {
			must(t, table.Fill(other.ruleset, other.elements))
			must(t, table.Fill(g.ruleset, g.elements))
			list("filled over " + other.name)
		}
		must(t, table.Adopt(g.ruleset))
		must(t, table.Fill(g.ruleset, g.elements))
		list("adopted and filled")
		must(t, table.Close())
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
