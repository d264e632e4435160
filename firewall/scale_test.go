package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// crowd is a ruleset with room for n devices and the elements of so many: agents, each
// with a quarantine and a pool address in both families.
func crowd(n int) (Ruleset, Elements) {
	r := leakRuleset()
	r.Gateway = nil
	r.Pools = r.Pools[:3]
	r.Pools[0].IPv4, r.Pools[1].IPv4, r.Pools[2].IPv4 = pfx("10.64.0.0/11"), pfx("10.96.0.0/11"), pfx("10.32.0.0/11")
	e := Elements{Fresh: After(time.Minute), Alive: After(time.Hour)}
	until := After(time.Hour)
	for i := range n {
		q, f := device(r.Pools[0], i), device(r.Pools[1], i)
		e.Quarantined = append(e.Quarantined, q[0], q[1])
		e.Routed = append(e.Routed, Routed{f[0], 1, until}, Routed{f[1], 1, until})
	}
	return r, e
}

// device is the two addresses of device i in pool p.
func device(p Pool, i int) [2]netip.Addr {
	four, six := p.IPv4.Addr().As4(), p.IPv6.Addr().As16()
	binary.BigEndian.PutUint32(four[:], binary.BigEndian.Uint32(four[:])+uint32(i)+2)
	binary.BigEndian.PutUint32(six[12:], uint32(i)+2)
	return [2]netip.Addr{netip.AddrFrom4(four), netip.AddrFrom16(six)}
}

// TestManyDevices fills 100,000 devices, more than an unprivileged socket takes at
// once, and again, and counts them with nft.
func TestManyDevices(t *testing.T) {
	testneed.Program(t, "nft")
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	if !inNamespace(t) {
		return
	}
	const n = 100_000
	table := open(t)
	r, e := crowd(n)
	count := func(set string) int {
		if strings.HasPrefix(set, "routed") {
			return strings.Count(nft(t, "list", "map", "inet", "lazaret", set), "expires")
		}
		listing := nft(t, "list", "set", "inet", "lazaret", set)
		_, elements, _ := strings.Cut(listing, "elements")
		return strings.Count(elements, ",") + 1
	}
	for how, elements := range map[string]Elements{
		"both families": e,
		"one family": {Fresh: e.Fresh, Alive: e.Alive,
			Routed:      slices.DeleteFunc(slices.Clone(e.Routed), func(x Routed) bool { return x.Addr.Is6() }),
			Quarantined: slices.DeleteFunc(slices.Clone(e.Quarantined), netip.Addr.Is6)},
	} {
		for range 2 {
			start := time.Now()
			must(t, table.Fill(r, elements))
			t.Logf("%s: %d elements in %s", how, len(elements.Routed)+len(elements.Quarantined), time.Since(start))
		}
		for _, set := range []string{"routed4", "quarantined4"} {
			if got := count(set); got != n {
				t.Errorf("%s: %s has %d elements, want %d", how, set, got, n)
			}
		}
		start := time.Now()
		for i := range 100 {
			must(t, table.Apply(step1(r, i)))
			must(t, table.Apply(step2(r, i)))
		}
		t.Logf("%s: a move takes %s", how, time.Since(start)/200)
		if got := count("routed4"); got != n {
			t.Errorf("%s: after moves, routed4 has %d elements, want %d", how, got, n)
		}
	}
}

// step1 and step2 demote and promote device i.
func step1(r Ruleset, i int) Change {
	a := device(r.Pools[1], i)
	return Change{DelRouted: a[:]}
}

func step2(r Ruleset, i int) Change {
	a, until := device(r.Pools[1], i), After(time.Hour)
	return Change{AddRouted: []Routed{{a[0], 1, until}, {a[1], 1, until}}}
}

// BenchmarkApply moves one device of many, in both families.
func BenchmarkApply(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := open(b)
			r, e := crowd(n)
			must(b, table.Fill(r, e))
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				c := step1(r, i/2%n)
				if i%2 == 1 {
					c = step2(r, i/2%n)
				}
				start := time.Now()
				must(b, table.Apply(c))
				took = append(took, time.Since(start))
			}
			must(b, table.Close())
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
		})
	}
}

// BenchmarkFill writes everything there is.
func BenchmarkFill(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := open(b)
			r, e := crowd(n)
			for b.Loop() {
				must(b, table.Fill(r, e))
			}
			must(b, table.Close())
		})
	}
}
