package firewall

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// ledger is what the kernel would hold, kept apart from the memory under test and as plainly
// as can be: every lease by address, and who was remembered under which number.
type ledger struct {
	now    Deadline
	routed map[netip.Addr]lease
	fresh  Deadline
	number Mark
	until  Deadline
	marks  map[netip.Addr]Mark  // of one flow of each address
	given  map[netip.Addr]lease // what the flow was remembered by
	used   map[Mark]bool
	next   Mark
}

func (l *ledger) placed(a netip.Addr) bool {
	x, ok := l.routed[a]
	return ok && l.now < x.until && l.now < l.fresh
}

// check asks the only question that matters: who passes unseen, would pass if looked at, in the same pool.
func (l *ledger) check(t *rapid.T, when string) {
	for a, m := range l.marks {
		if m == l.number && m != 0 && l.now < l.until && (!l.placed(a) || l.given[a].mark != l.routed[a].mark) {
			t.Fatalf("%s: %s is remembered and has no such place", when, a)
		}
	}
}

// packets has every address send one packet that is established.
func (l *ledger) packets() {
	for a := range l.routed {
		if l.placed(a) && l.number != 0 && l.now < l.until {
			l.marks[a], l.given[a] = l.number, l.routed[a]
		}
	}
}

// TestMemory takes random steps, and asks after each of them, and as time passes.
func TestMemory(t *testing.T) {
	r := leakRuleset()
	const need, most = moment, time.Minute
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{now: 1e12, routed: map[netip.Addr]lease{}, marks: map[netip.Addr]Mark{}, given: map[netip.Addr]lease{}, used: map[Mark]bool{}}
		m := newMemory(nil, 0)
		number := func() Mark { l.next++; return l.next }
		at := func(name string) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 98, 0, byte(rapid.IntRange(2, 6).Draw(t, name))})
		}
		commit := func() {
			if !m.due() {
				return
			}
			was := l.number
			g, left := m.renew(number, l.now, need, most)
			if g != 0 && l.used[g] && (g != was || l.now >= l.until) {
				t.Fatalf("number %d was used before, and was over", g)
			}
			if g != 0 && (left < shortest || l.now+Deadline(left) > m.end()) {
				t.Fatalf("%s is remembered until after %d", left, m.end())
			}
			l.number, l.until, l.used[g] = g, l.now+Deadline(left), true
		}
		expire := func() {
			for _, a := range m.expire(l.now+Deadline(need), rapid.IntRange(1, 3).Draw(t, "at most")) {
				delete(l.routed, a) // what is returned is deleted in the same transaction
			}
		}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := rapid.SampledFrom([]string{"add", "delete", "refresh", "wait", "wait", "lose", "fill", "quarantine"}).Draw(t, "step")
			switch step {
			case "add":
				x := Routed{at("address"), rapid.SampledFrom([]Mark{1, 1, 1, 7}).Draw(t, "mark"), l.now + Deadline(rapid.IntRange(0, 12).Draw(t, "lease"))*1e9}
				expire()
				in := map[netip.Addr]lease{}
				if x.Until > l.now+1e9 {
					in[x.Addr] = lease{x.Mark, x.Until}
				}
				m.change(r, Change{AddRouted: []Routed{x}}, in)
				delete(l.routed, x.Addr)
				if written, ok := in[x.Addr]; ok {
					l.routed[x.Addr] = written
				}
				commit()
			case "delete":
				a := at("address")
				expire()
				m.change(r, Change{DelRouted: []netip.Addr{a}}, nil)
				delete(l.routed, a)
				commit()
			case "quarantine":
				expire()
				was := l.number
				m.change(r, Change{DelQuarantined: addrs("10.99.0.2")}, nil)
				commit()
				if was != 0 && l.number == was {
					t.Fatal("an address left quarantine, and the generation goes on")
				}
			case "refresh":
				expire()
				l.fresh = l.now + Deadline(rapid.IntRange(0, 20).Draw(t, "fresh"))*1e9
				m.refresh(l.fresh)
				commit()
			case "wait":
				for range rapid.IntRange(1, 8).Draw(t, "seconds") {
					l.packets()
					l.now += 7e8
					l.check(t, fmt.Sprint("waiting, step ", i))
				}
			case "lose":
				m.lose()
				m.change(r, Change{}, nil)
				commit()
				if l.number != 0 {
					t.Fatal("something is remembered by a table in doubt")
				}
			case "fill":
				l.routed = map[netip.Addr]lease{}
				in := map[netip.Addr]lease{}
				for range rapid.IntRange(0, 5).Draw(t, "leases") {
					a, x := at("address"), lease{1, l.now + Deadline(rapid.IntRange(2, 12).Draw(t, "lease"))*1e9}
					l.routed[a], in[a] = x, x
				}
				l.fresh = l.now + Deadline(rapid.IntRange(0, 20).Draw(t, "fresh"))*1e9
				m = newMemory(in, l.fresh)
				commit()
			}
			earliest(t, m)
			l.check(t, step)
			l.packets()
			l.check(t, "after packets")
		}
	})
}

// earliest looks at all leases, one by one.
func earliest(t *rapid.T, m *memory) {
	var want Deadline
	for _, x := range m.leases {
		if want == 0 || x.until < want {
			want = x.until
		}
	}
	if got := m.first(); got != want {
		t.Fatalf("the first lease ends at %d, want %d", got, want)
	}
}

// TestMemoryStaysSmall prolongs the leases of a few for a long time.
func TestMemoryStaysSmall(t *testing.T) {
	m := newMemory(nil, 1)
	for i := range 100_000 {
		m.put(netip.AddrFrom4([4]byte{10, 98, 0, byte(i % 10)}), lease{1, Deadline(i + 1)}, true)
	}
	if len(m.leases) != 10 || len(m.ends) > 1100 {
		t.Errorf("%d leases, %d ends", len(m.leases), len(m.ends))
	}
	if m.first() != 100_000-9 {
		t.Errorf("the first one ends at %d", m.first())
	}
}

// TestNumbers: each is another, a later process continues behind the last one, and a number
// that is a pool's mark is none.
func TestNumbers(t *testing.T) {
	r, used := leakRuleset(), map[Mark]bool{}
	now := Now()
	n := newNumbers()
	if n.next(now, r) != 0 {
		t.Error("a number of the tick in which the process began, which another one may have used")
	}
	for process := range 50 {
		for i := range 100 {
			now += Deadline(i) * tick / 10 // bursts and pauses
			g := n.next(now, r)
			if g != 0 && used[g] {
				t.Fatalf("process %d: %d comes twice", process, g)
			}
			used[g] = true
		}
		n = numbers{salt: n.salt, last: uint32(now / tick)} // the next process
	}
	if len(used) < 2000 {
		t.Errorf("%d numbers only", len(used))
	}
	n = numbers{salt: 41 ^ 7, last: 40} // tick 41 comes to the mark 7
	if g := n.next(41*tick, r); g != 0 {
		t.Errorf("generation %d is a pool's mark", g)
	}
	if g := n.next(42*tick, r); g == 0 {
		t.Error("no number after that")
	}
	n = numbers{last: 1<<32 - 2}
	if g := n.next((1<<32-1)*tick, r); g == 0 {
		t.Error("the last number was not given")
	}
	if g := n.next((1<<32+100)*tick, r); g != 0 {
		t.Errorf("%d after all were used up", g)
	}
}
