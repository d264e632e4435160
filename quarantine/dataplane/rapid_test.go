package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// drawEntry makes any entry of one of four devices, some of them stale.
func drawEntry(t *rapid.T, revision int64) quarantine.Entry {
	n := rapid.IntRange(1, 4).Draw(t, "device")
	e := in66(n, revision-rapid.Int64Range(0, 3).Draw(t, "late by"))
	e.Tighten = rapid.Uint64Range(0, 4).Draw(t, "tighten")
	switch rapid.IntRange(0, 4).Draw(t, "state") {
	case 0:
		return quarantine.Entry{Device: e.Device, Revision: e.Revision, Tighten: e.Tighten}
	case 1: // a fixed address
		e.Routed, e.Mark = []netip.Addr{address(66, n)}, 7
	case 2:
		e.Routed, e.Mark = []netip.Addr{address(77, n)}, 7
	}
	if len(e.Routed) > 0 {
		e.Until = epoch + firewall.Deadline(rapid.Int64Range(-5, 300).Draw(t, "seconds"))*second
		e.Until = max(e.Until, 1)
	}
	if rapid.IntRange(0, 3).Draw(t, "key") == 0 {
		e.Key = peerKey(n + 100)
	}
	if rapid.IntRange(0, 3).Draw(t, "next") == 0 {
		e.Next = peerKey(n + 200)
	}
	return e
}

// rights are everything that is let pass: who may use which address how, and how long.
type right struct {
	key  tunnel.Key
	addr netip.Addr
	mark firewall.Mark
}

func rights(h held) map[right]firewall.Deadline {
	out := map[right]firewall.Deadline{}
	for _, k := range []tunnel.Key{h.Key, h.Next} {
		if h.Key.IsZero() || k.IsZero() {
			continue
		}
		for _, a := range h.Quarantined {
			out[right{k, a, 0}] = 1 << 62
		}
		for _, a := range h.Routed {
			out[right{k, a, h.Mark}] = h.Until
		}
	}
	return out
}

// Whatever comes and whatever fails, after every order that the data plane takes,
// table and tunnel hold what the mirror says, and no device gained a right by an entry
// that had not taken in its last tightening.
func TestAnyOrders(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		f := planned(outer)
		for revision := int64(11); revision < 31; revision++ {
			f.table.fail = map[string][]error{}
			f.link.fail = rapid.IntRange(0, 6).Draw(t, "peers fail") / 6
			switch rapid.IntRange(0, 8).Draw(t, "table fails") {
			case 0:
				f.table.fail["apply"] = []error{firewall.ErrDoubt}
			case 1:
				f.table.fail["apply"] = []error{errKernel}
			case 2:
				f.table.fail["apply"], f.table.fail["fill"] = []error{firewall.ErrDoubt}, []error{errKernel}
			}
			orderAtRandom(t, f, revision)
			if !f.planned { // shut: nothing passes, and a plan mends it
				if len(f.table.quarantined)+len(f.table.routed) != 0 || f.table.fresh != 0 {
					t.Fatal("shut, and yet something passes")
				}
				f.table.fail = map[string][]error{}
				p := somePlan(revision)
				for _, h := range f.mirror.held {
					p.Entries = append(p.Entries, h.Entry)
				}
				if err := f.replace(p); err != nil {
					t.Fatal(err)
				}
			}
			f.agree(t)
		}
	})
}

func orderAtRandom(t *rapid.T, f *fixture, revision int64) {
	switch rapid.IntRange(0, 7).Draw(t, "order") {
	case 0:
		f.times.Boot += 20 * second
		f.times.Monotonic += int64(20 * second)
		f.times.Wall = f.times.Wall.Add(20 * time.Second)
		f.watchClocks()
		if err := f.refill(); err != nil && f.planned {
			t.Fatal(err)
		}
	case 1:
		for k := range f.mirror.rotating {
			f.link.shaken[k] = time.Now()
		}
		f.nextLook = time.Time{}
		f.watchHandshakes()
	default:
		e := drawEntry(t, revision)
		old, before := f.mirror.held[e.Device], rights(f.mirror.held[e.Device])
		_ = f.move(e)
		if e.Tighten >= old.Tighten && e.Revision >= old.Revision {
			return
		}
		for r, until := range rights(f.mirror.held[e.Device]) {
			if before[r] < until {
				t.Fatalf("a stale entry gave %+v until %d, was %d", r, until, before[r])
			}
		}
	}
}

// Single moves and one plan lead to the same mirror, table and tunnel.
func TestMovesEqualPlan(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		single, whole := planned(outer), planned(outer)
		last := map[quarantine.ID]quarantine.Entry{}
		for revision := int64(11); revision < 21; revision++ {
			e := drawEntry(t, revision)
			e.Revision, e.Tighten = revision, uint64(revision)
			if err := single.move(e); err != nil {
				t.Fatal(err)
			}
			last[e.Device] = e
		}
		p := somePlan(21)
		for _, e := range last {
			p.Entries = append(p.Entries, e)
		}
		if err := whole.replace(p); err != nil {
			t.Fatal(err)
		}
		single.agree(t)
		whole.agree(t)
		for dev := range last {
			a, b := rights(single.mirror.held[dev]), rights(whole.mirror.held[dev])
			if len(a) != len(b) {
				t.Fatalf("%s: %v by moves, %v by plan", dev, a, b)
			}
			for r, until := range a {
				if b[r] != until {
					t.Fatalf("%s: %v by moves, %v by plan", dev, a, b)
				}
			}
		}
	})
}
