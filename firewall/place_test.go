package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/internal/testneed"
)

// manyPools has more full pools than are compared one by one; pool i reaches UDP port 9000+i.
func manyPools() Ruleset {
	r := leakRuleset()
	for i := range 6 {
		port := uint16(9000 + i)
		r.Pools = append(r.Pools, Pool{Name: fmt.Sprintf("pool %d", i), Mark: Mark(20 + i),
			IPv4: pfx(fmt.Sprintf("10.90.%d.0/24", i)), IPv6: pfx(fmt.Sprintf("fd90:%d::/64", i)),
			Reach: []Reach{{To: pfx("0.0.0.0/0"), Protocol: "udp", From: port}, {To: pfx("::/0"), Protocol: "udp", From: port}}})
	}
	return r
}

// TestManyPools: each of many pools reaches what is its own, by its addresses and by marks.
func TestManyPools(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, r := newGateway(t, true), manyPools()
	g.up("lz0", 1420, nil, []string{"10.90.0.0/16", "fd90::/16"})
	e, until := leakElements(), After(time.Hour)
	device := func(w world, i, n int) netip.Addr {
		if w.other.Is4() {
			return addr(fmt.Sprintf("10.90.%d.%d", i, n))
		}
		return addr(fmt.Sprintf("fd90:%d::%d", i, n))
	}
	for _, w := range worlds {
		for i := range 6 {
			e.Routed = append(e.Routed, Routed{device(w, i, 2), Mark(20 + i), until}, Routed{device(w, i, 3), Mark(20 + (i+1)%6), until})
		}
	}
	must(t, g.table.Fill(r, e))
	for _, w := range worlds {
		for i := range 6 {
			for port := range 6 {
				for n, want := range map[int]bool{2: port == i, 3: port == (i+1)%6, 4: false} {
					f := flow{device(w, i, n), w.other, 31000, uint16(9000 + port)}
					name := fmt.Sprintf("%s to port %d", f.src, f.dport)
					g.check(name, up("up", f.udp(), want), down("down", f.back().udp(), want))
				}
			}
		}
		a := device(w, 2, 2)
		f := flow{a, w.other, 31000, 9002}
		must(t, g.table.Apply(Change{AddRouted: []Routed{{a, 24, until}}}))
		g.check("placed by a mark", both(f, false)[:2]...)
		must(t, g.table.Apply(Change{AddRouted: []Routed{{a, 22, until}}}))
		g.check("placed by its prefix again", both(f, true)[:2]...)
		must(t, g.table.Apply(Change{DelRouted: []netip.Addr{a}}))
		g.check("demoted", both(f, false)[:2]...)
	}
}

// TestMasqueradeByPlacement: who is hidden follows from where a packet was placed, and not
// from where it might have been.
func TestMasqueradeByPlacement(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	port := uint16(32000)
	hidden := func(when string, w world, from, to netip.Addr, want bool) {
		t.Helper()
		port++ // translation is decided once for each flow
		out := g.send("lz0", flow{from, to, port, 5000}.udp())["out0"]
		if len(out) != 1 {
			t.Fatalf("%s, %s: %d packets came out, want 1", when, from, len(out))
		}
		if src, _, _, _ := parse(out[0]); (src == w.outside) != want || !want && src != from {
			t.Errorf("%s: %s came out as %s", when, from, src)
		}
	}
	for _, hides := range []string{"staff", "quarantine", "both"} {
		r := leakRuleset()
		r.Pools[0].Masquerade, r.Pools[1].Masquerade = hides != "staff", hides != "quarantine"
		must(t, g.table.Fill(r, leakElements()))
		for _, w := range worlds {
			hidden(hides, w, w.quarantined, w.management, hides != "staff")
			hidden(hides, w, w.routed, w.other, hides != "quarantine")
			hidden(hides, w, w.fixed, w.other, hides != "quarantine")
			must(t, g.table.Refresh(0, After(time.Hour)))
			hidden(hides+", not fresh", w, w.fixed, w.management, hides != "staff")
			must(t, g.table.Refresh(After(time.Minute), After(time.Hour)))
			must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 9, After(time.Hour)}}}))
			hidden(hides+", placed by a mark", w, w.routed, w.other, false)
			must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, After(time.Hour)}}}))
		}
	}
}

// TestLayoutBefore: a table that an earlier release left behind, with sets of the same names
// and other types, is replaced in one transaction. Until then it decides as it did, and at no
// time does anything pass that neither allows.
func TestLayoutBefore(t *testing.T) {
	nft := testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	before, err := os.ReadFile("testdata/before-2026-11-22.nft")
	must(t, err)
	g, w := newGateway(t, true), worlds[0]
	g.do(func() error {
		c := exec.Command(nft, "-f", "-")
		c.Stdin = strings.NewReader(strings.Replace(string(before), "flags owner", "", 1))
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	routed, never := flow{w.routed, w.other, 33000, 9}, flow{w.quarantined, w.other, 33001, 9}
	forged := flow{w.routed, w.outside, 33002, 443}
	g.check("before", up("routed", routed.udp(), true), up("quarantined", never.udp(), false))
	adopted := make(chan error, 1)
	go func() { adopted <- g.table.Adopt(fullRuleset()) }()
	for probes, over := 0, false; !over || probes < 50; probes++ {
		select {
		case err := <-adopted:
			must(t, err)
			over = true
		default:
		}
		g.check("meanwhile", up("quarantined", never.udp(), false), step{"forged", "out0", forged.tcp(syn), "out0", false, ofFlow(forged.back())})
	}
	g.check("adopted", up("routed", routed.udp(), false))
	var f Found
	g.do(func() (err error) { f, err = Inspect(); return err })
	list, err := f.Differences(fullRuleset())
	must(t, err)
	if diff := cmp.Diff([]string(nil), list); diff != "" {
		t.Error(diff)
	}
	must(t, g.table.Verify())
	must(t, g.table.Fill(fullRuleset(), fullElements()))
	g.check("filled", up("routed", routed.udp(), true), up("quarantined", never.udp(), false))
}
