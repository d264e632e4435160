package resolver

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// The bounds of what an answer may ask for.
const (
	MinTTL = time.Minute     // an address is kept as long as this, whatever its TTL: 0 too
	MaxTTL = 24 * time.Hour  // and asked for again after this
	noTTL  = 5 * time.Minute // a name without addresses is asked for again after this
	// maxPins bounds the addresses kept of one name and family; MaxPinned of them are opened.
	maxPins = 64
)

// The waits after a question that nobody answered.
const (
	firstRetry = 5 * time.Second
	lastRetry  = time.Minute
)

// Pin is one address of a name. It is reachable while it is good, and then
//   - if it stands in the latest answer, while nobody answers: until Stale is over;
//   - if it does not: until Grace is over, so that a rotation cuts nobody off.
type Pin struct {
	Addr    netip.Addr
	Since   time.Time // of the answer that first bore it
	Good    time.Time // end of the TTL of the last answer that bore it
	Current bool      // stands in the latest answer

	held uint64 // when it was chosen to be opened, in the order of choices; 0: it is not
}

// times are how long pins outlive their TTL.
type times struct{ grace, stale time.Duration }

func (t times) until(p Pin) time.Time {
	if p.Current {
		return p.Good.Add(max(t.stale, t.grace))
	}
	return p.Good.Add(t.grace)
}

// answer is what a server said of one name and family. No addresses: there are none.
type answer struct {
	addrs []netip.Addr
	ttl   time.Duration
}

// clampTTL brings a TTL within bounds.
func clampTTL(ttl time.Duration) time.Duration { return min(max(ttl, MinTTL), MaxTTL) }

// family is what is known of a name's IPv4 or IPv6 addresses.
type family struct {
	pins     []Pin     // in the order of wanted
	due      time.Time // when to ask again
	answered time.Time // last answer; zero: never
	failures int       // since then
	problem  string    // what the last question met, empty for an answer
}

// take notes an answer.
func (f *family) take(a answer, now time.Time, t times) {
	ttl := clampTTL(a.ttl)
	f.answered, f.failures, f.problem = now, 0, ""
	f.due = now.Add(ttl)
	if len(a.addrs) == 0 {
		f.due = now.Add(min(ttl, noTTL)) // what is not there yet is looked for soon
	}
	for i := range f.pins {
		f.pins[i].Current = false
	}
	fresh := slices.Clone(a.addrs)
	slices.SortFunc(fresh, netip.Addr.Compare) // of too many, always the same ones
	fresh = slices.Compact(fresh)
	for _, addr := range fresh[:min(len(fresh), maxPins)] {
		i := slices.IndexFunc(f.pins, func(p Pin) bool { return p.Addr == addr })
		if i < 0 {
			f.pins = append(f.pins, Pin{Addr: addr, Since: now})
			i = len(f.pins) - 1
		}
		f.pins[i].Current = true
		f.pins[i].Good = now.Add(ttl)
	}
	f.expire(now, t)
}

// fail notes that nobody answered.
func (f *family) fail(problem string, now time.Time, t times) {
	f.failures++
	f.problem = problem
	wait := lastRetry
	if f.failures < 5 {
		wait = min(firstRetry<<(f.failures-1), lastRetry)
	}
	f.due = now.Add(wait)
	f.expire(now, t)
}

// expire drops what is not reachable any more, and what is too much.
func (f *family) expire(now time.Time, t times) {
	f.pins = slices.DeleteFunc(f.pins, func(p Pin) bool { return !t.until(p).After(now) })
	slices.SortFunc(f.pins, wanted)
	held := slices.IndexFunc(f.pins, func(p Pin) bool { return p.held == 0 }) // never cut: the pools bound them
	f.pins = f.pins[:min(len(f.pins), max(maxPins, held))]
}

// wanted sorts pins, the most wanted first: those that are open, in the order in which they
// were opened, since somebody may be connected to them; then those of the latest answer;
// then those seen last; then the lowest.
func wanted(a, b Pin) int {
	if (a.held > 0) != (b.held > 0) {
		return before(a.held > 0)
	}
	if a.held != b.held {
		return cmp.Compare(a.held, b.held)
	}
	if a.Current != b.Current {
		return before(a.Current)
	}
	return cmp.Or(b.Good.Compare(a.Good), a.Addr.Compare(b.Addr))
}

func before(first bool) int {
	if first {
		return -1
	}
	return 1
}

// addrs are the addresses of the pins, sorted.
func (f *family) addrs() []netip.Addr {
	var all []netip.Addr
	for _, p := range f.pins {
		all = append(all, p.Addr)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// wake is when something is to be done next: a question, or an end.
func (f *family) wake(t times) time.Time {
	next := f.due
	for _, p := range f.pins {
		if end := t.until(p); end.Before(next) {
			next = end
		}
	}
	return next
}
