package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

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

// TestManyDevices fills 100,000 devices: of one family, and of both, which is more than
// an unprivileged socket takes at once.
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
	r, both := crowd(n)
	one := Elements{Fresh: both.Fresh, Alive: both.Alive,
		Routed:      slices.DeleteFunc(slices.Clone(both.Routed), func(x Routed) bool { return x.Addr.Is6() }),
		Quarantined: slices.DeleteFunc(slices.Clone(both.Quarantined), netip.Addr.Is6)}
	for name, e := range map[string]Elements{"both families": both, "one family": one} {
		start := time.Now()
		must(t, table.Fill(r, e))
		t.Logf("%s: %d elements in %s", name, len(e.Routed)+len(e.Quarantined), time.Since(start))
		for _, i := range []int{0, 1, chunk - 1, chunk, chunk + 1, 6*chunk - 1, 6 * chunk, n / 2, n - 1, n} {
			for f, set := range []string{"routed4", "routed6"} {
				if want := i < n && (f == 0 || name == "both families"); table.has(set, device(r.Pools[1], i)[f]) != want {
					t.Errorf("%s: device %d in %s: %v, want %v", name, i, set, !want, want)
				}
			}
		}
		start = time.Now()
		for i := range 100 {
			must(t, table.Apply(step1(r, i)))
			must(t, table.Apply(step2(r, i)))
		}
		t.Logf("%s: a move takes %s", name, time.Since(start)/200)
	}
	must(t, table.Fill(r, one))
	listing := nft(t, "list", "table", "inet", "lazaret")
	timed := n + 4 // fresh and alive, in both families
	if table.memory.number != 0 {
		timed += 3
	}
	if got := strings.Count(listing, "expires"); got != timed {
		t.Errorf("%d timed elements, want %d", got, timed)
	}
	_, quarantined, _ := strings.Cut(listing, "set quarantined4 {")
	quarantined, _, _ = strings.Cut(quarantined, "}")
	if got := strings.Count(quarantined, ",") + 1; got != n {
		t.Errorf("%d quarantined elements, want %d", got, n)
	}
}

// has asks the kernel for a single element.
func (t *Table) has(set string, a netip.Addr) bool {
	found, err := t.conn.FindSetElements(&nftables.Set{Table: kernelTable("lazaret"), Name: set}, []nftables.SetElement{{Key: a.AsSlice()}})
	return err == nil && len(found) == 1
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

// BenchmarkBoot fills a table that has just been adopted, as a start does, and tells what
// processor time of either kind that takes: on a busy machine the clock tells little.
func BenchmarkBoot(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, e := crowd(n)
			var user, system time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				table := open(b)
				debug.FreeOSMemory()
				b.StartTimer()
				u, s := processorTime(b)
				must(b, table.Adopt(r))
				must(b, table.Fill(r, e))
				u2, s2 := processorTime(b)
				user, system = user+u2-u, system+s2-s
				b.StopTimer()
				must(b, table.Remove())
				must(b, table.Close())
				b.StartTimer()
			}
			b.ReportMetric(user.Seconds()*1000/float64(b.N), "user-ms/op")
			b.ReportMetric(system.Seconds()*1000/float64(b.N), "system-ms/op")
		})
	}
}

// processorTime is what this process has used so far.
func processorTime(t testing.TB) (user, system time.Duration) {
	t.Helper()
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
}
