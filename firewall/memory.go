package firewall

import (
	"container/heap"
	"hash/fnv"
	"math"
	"net/netip"
	"os"
	"time"
)

// memory decides what flows may be remembered by (see remembered): the number of the present
// generation, and until when. It holds to this:
//
//   - Whatever takes a placement from an address, or gives it another one, ends the
//     generation in the same transaction.
//   - A generation lasts no longer than the first lease that ends, and than both kinds of
//     freshness. So what ends by itself ends the same with nobody there to see to it.
//   - The number of a generation is never used again while the machine runs.
//
// Without a number every packet is looked up, as if there were no memory.
type memory struct {
	leases map[netip.Addr]lease
	ends   ends     // one for each lease, and some that are no lease's any more
	fresh  Deadline // of the two kinds of freshness, the one that ends first; zero: one is missing

	number Mark     // of the generation; zero: nothing is remembered
	until  Deadline // when the kernel forgets it
	broken bool     // something was taken away since
	moved  bool     // the end of freshness was
	lost   bool     // what the kernel holds is not known: until Fill, nothing is remembered
}

// lease is what is known of a routed address.
type lease struct {
	mark  Mark
	until Deadline
}

// end is when a lease was to end when it was written.
type end struct {
	at   Deadline
	addr netip.Addr
}

// ends is a heap, the first to end first.
type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newMemory(leases map[netip.Addr]lease, fresh Deadline) *memory {
	m := &memory{leases: leases, fresh: fresh}
	if m.leases == nil {
		m.leases = make(map[netip.Addr]lease)
	}
	m.sort()
	return m
}

// sort makes the heap anew from the leases.
func (m *memory) sort() {
	m.ends = make(ends, 0, len(m.leases)+len(m.leases)/8)
	for a, l := range m.leases {
		m.ends = append(m.ends, end{l.until, a})
	}
	heap.Init(&m.ends)
}

// put notes that a was routed. Only a prolonged lease, and that of an address that had none,
// leave the generation as it is; plain says that a was nowhere before, if it was not routed.
func (m *memory) put(a netip.Addr, l lease, plain bool) {
	old, known := m.leases[a]
	if known && (old.mark != l.mark || l.until < old.until) || !known && !plain {
		m.broken = true
	}
	if known && old == l {
		return
	}
	m.leases[a] = l
	heap.Push(&m.ends, end{l.until, a})
	if len(m.ends) > 2*len(m.leases)+1000 {
		m.sort()
	}
}

// change notes a change, of which in is what of the routed was written.
func (m *memory) change(r Ruleset, c Change, in map[netip.Addr]lease) {
	m.broken = m.broken || len(c.DelQuarantined) > 0
	for _, a := range c.DelRouted {
		m.drop(inKernel(a))
	}
	for _, x := range c.AddRouted {
		if l, written := in[x.Addr]; written {
			m.put(x.Addr, l, r.routedIn(x) == routedSet(familyOf(x.Addr)))
		} else {
			m.drop(inKernel(x.Addr))
		}
	}
}

// freshness is until when both kinds last, as the kernel will have them; zero if one is not given.
func (r Ruleset) freshness(fresh, alive, now Deadline) Deadline {
	return max(0, min(fresh, alive, now+Deadline(min(r.Freshness, r.QuarantineLife))))
}

// drop notes that a is not routed any more.
func (m *memory) drop(a netip.Addr) {
	if _, known := m.leases[a]; known {
		m.broken = true
		delete(m.leases, a)
	}
}

// refresh notes until when both kinds of freshness last.
func (m *memory) refresh(fresh Deadline) {
	if fresh < m.fresh {
		m.broken = true
	}
	m.fresh, m.moved = fresh, true
}

// lose forgets everything until Fill.
func (m *memory) lose() { *m = memory{lost: true, leases: make(map[netip.Addr]lease)} }

// first is the end of the lease that ends first; zero if there is none.
func (m *memory) first() Deadline {
	for len(m.ends) > 0 {
		e := m.ends[0]
		if l, known := m.leases[e.addr]; known && l.until == e.at {
			return e.at
		}
		heap.Pop(&m.ends)
	}
	return 0
}

// expire drops the leases that end until t, at most most of them, and returns whose they
// were. Their elements are to be deleted in the same transaction: the kernel's own clock
// may give them a moment more, in which the next generation must not remember them.
func (m *memory) expire(t Deadline, most int) []netip.Addr {
	var gone []netip.Addr
	for first := m.first(); first != 0 && first <= t && len(gone) < most; first = m.first() {
		gone = append(gone, m.ends[0].addr)
		m.drop(m.ends[0].addr)
	}
	return gone
}

// due says whether the kernel must be told: that a generation is over, or ends sooner, or
// that there may be one again.
func (m *memory) due() bool {
	return m.lost || m.broken || m.moved || m.number == 0 || m.end() < m.until
}

// end is when the generation must be over; zero: at once.
func (m *memory) end() Deadline {
	if first := m.first(); first != 0 {
		return min(first, m.fresh)
	}
	return m.fresh
}

// renew decides on what the kernel is to hold from this transaction on: the same generation,
// another one, or none, which is a zero number.
func (m *memory) renew(next func() Mark, now Deadline, need, most time.Duration) (Mark, time.Duration) {
	left, err := timeout(m.end(), now, need, most)
	if err != nil || m.lost {
		m.forget()
		return 0, 0
	}
	if m.broken || m.until <= now+Deadline(need) {
		m.number = 0
	}
	if m.number == 0 {
		m.number = next()
	}
	if m.number == 0 {
		m.forget()
		return 0, 0
	}
	m.until, m.broken, m.moved = min(m.end(), now+Deadline(most)), false, false
	return m.number, left
}

// forget notes that the kernel holds no generation.
func (m *memory) forget() { m.number, m.until, m.broken, m.moved = 0, 0, false, false }

// renew asks m what the kernel is to remember by from now on.
func (t *Table) renew(m *memory, r Ruleset, now Deadline, need time.Duration) (Mark, time.Duration) {
	return m.renew(func() Mark { return t.numbers.next(now, r) }, now, need, min(r.Freshness, r.QuarantineLife))
}

// unremember queues that the kernel forgets the generation, whatever it is.
func (t *Table) unremember(r Ruleset) {
	for _, s := range r.sets() {
		if s.name == "verified" || s.name == "generation" {
			t.next.build.FlushSet(s.kernel(kernelTable(r.Table)))
		}
	}
}

// numbers gives numbers to generations. They are ticks of CLOCK_BOOTTIME, each given once,
// put together with something that is another at each boot and on each machine: connection
// tracking does not outlive a boot, so no mark of a flow's that is not of this generation can
// ever equal it, whichever process gave it and however often they were restarted. It is
// no number that another program's marks or another machine's flows would have by chance.
type numbers struct {
	salt uint32
	last uint32 // tick; those up to it are used up
}

// tick is the time between two generations at least. In 2^32 of them, more than three years, no
// number comes twice; after that nothing is remembered until the next boot.
const tick = Deadline(25 * time.Millisecond)

// newNumbers begins behind the present tick, which another process may have used.
func newNumbers() numbers {
	n := numbers{last: math.MaxUint32} // none at all
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return n
	}
	h := fnv.New32a()
	h.Write(id)
	n.salt = h.Sum32()
	if now := Now() / tick; now < math.MaxUint32 {
		n.last = uint32(now)
	}
	return n
}

// next is a number never used before, or zero: none before the next tick.
func (n *numbers) next(now Deadline, r Ruleset) Mark {
	at := now / tick
	if at <= Deadline(n.last) || at > math.MaxUint32 {
		return 0
	}
	n.last = uint32(at)
	g := Mark(n.last ^ n.salt)
	if anyMarked(r.full(), g) {
		return 0 // a packet's mark must not be both
	}
	return g
}

// remember sorts in what renew decides.
func (b batch) remember(number Mark, left time.Duration) {
	if number == 0 {
		return
	}
	mark := keyed(native(number)...)
	mark.timeout = left
	b["verified"] = []element{mark}
	for _, f := range families {
		e := keyed(f)
		e.mark, e.timeout = number, left
		b["generation"] = append(b["generation"], e)
	}
}
