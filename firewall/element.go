package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// shortest is the least a timed element may have left; one with less is not written.
	shortest = time.Second
	// longest caps a timeout. A lease beyond it must be applied again before it ends.
	longest = 366 * 24 * time.Hour
)

// errOver says that a deadline is past or too near to be written: not an error of the
// caller's, but the element stays out.
var errOver = errors.New("the deadline is over")

// timeout is the only way to the timeout of an element: what is left until d, less
// slack for the time it takes to reach the kernel, in whole milliseconds, rounded
// down, at most most. The kernel counts from the moment it takes the element, so an
// element may end a little early and never late. Zero, past and near deadlines are
// refused: the library turns a timeout of less than a millisecond into none at all,
// which would make the element permanent.
func timeout(d, now Deadline, slack, most time.Duration) (time.Duration, error) {
	if d <= 0 {
		return 0, fmt.Errorf("%w: none was given", errOver)
	}
	if now < 0 || now > d {
		return 0, errOver
	}
	left := min(time.Duration(d-now)-max(slack, 0), most, longest).Truncate(time.Millisecond)
	if left < shortest {
		return 0, errOver
	}
	return left, nil
}

// element is one of a set whose elements come and go. It holds no pointers, which the garbage
// collector would have to follow: there may be very many.
type element struct {
	key     [16]byte
	timeout time.Duration // zero: the set's own, or none
	mark    Mark          // the value in a map
	length  uint8         // of the key, in bytes
}

// addressed is an element with an address for its key.
func addressed(a netip.Addr) (e element) {
	if a.Is4() {
		four := a.As4()
		e.length = uint8(copy(e.key[:], four[:]))
		return e
	}
	e.key, e.length = a.As16(), 16
	return e
}

// keyed is an element with any other key, of up to 16 bytes.
func keyed(key ...byte) (e element) {
	e.length = uint8(copy(e.key[:], key))
	return e
}

// timed gives e its timeout.
func timed(e element, d, now Deadline, slack, most time.Duration) (element, error) {
	t, err := timeout(d, now, slack, most)
	if err != nil {
		return element{}, err
	}
	e.timeout = t
	return e, nil
}

// known says whether a is an address of one of r's pools, as the kernel sees it.
func (r Ruleset) known(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
		return fmt.Errorf("%s is no plain address", a)
	}
	for _, g := range r.Gateway {
		if g == a {
			return fmt.Errorf("%s is the gateway's own", a)
		}
	}
	for _, p := range r.Pools {
		if p.IPv4.Contains(a) || p.IPv6.Contains(a) {
			return nil
		}
	}
	return fmt.Errorf("%s is in no pool", a)
}

// anyMarked says whether m is the mark of one of these full pools.
func anyMarked(full []Pool, m Mark) bool {
	return slices.ContainsFunc(full, func(p Pool) bool { return p.Mark == m })
}

// batch is elements sorted by the set they go to.
type batch map[string][]element

// room makes room for n more elements of a set: growing a slice of very many of them by steps
// costs as much as everything else that is done with them here.
func (b batch) room(set string, n int) {
	if n > 0 {
		b[set] = slices.Grow(b[set], n)
	}
}

// routed sorts in what may be written of list. What may not is left out, that is not
// routed: silently when its time is over, with a fault when it names no address or
// mark of r, or contradicts another one. in is what was written.
func (b batch) routed(r Ruleset, list []Routed, now Deadline, slack time.Duration) (in map[netip.Addr]lease, faults []error) {
	full := r.full()
	list, in = unique(list)
	four := 0
	for i := range list {
		if list[i].Addr.Is4() {
			four++
		}
	}
	b.room(routedSet(unix.NFPROTO_IPV4), four)
	b.room(routedSet(unix.NFPROTO_IPV6), len(list)-four)
	for _, x := range list {
		err := r.known(x.Addr)
		if err == nil && !anyMarked(full, x.Mark) {
			err = fmt.Errorf("mark %d is no pool's, or the address is given twice", x.Mark)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("routing %s: %w", x.Addr, err))
			delete(in, x.Addr)
			continue
		}
		name, e := routedIn(full, x), addressed(x.Addr)
		if name == fixedMap(familyOf(x.Addr)) {
			e.mark = x.Mark
		}
		e, err = timed(e, x.Until, now, slack, longest)
		if err != nil {
			delete(in, x.Addr)
			continue
		}
		if most := min(x.Until, now+Deadline(longest)); most != x.Until {
			in[x.Addr] = lease{x.Mark, most}
		}
		b[name] = append(b[name], e)
	}
	return in, faults
}

// unique is list with each address once; where it is given different things, neither of them is
// right, and its mark is zero, which is no pool's.
func unique(list []Routed) ([]Routed, map[netip.Addr]lease) {
	in := make(map[netip.Addr]lease, len(list))
	for _, x := range list {
		in[x.Addr] = lease{x.Mark, x.Until}
	}
	if len(in) == len(list) {
		return list, in
	}
	clear(in)
	for _, x := range list {
		l := lease{x.Mark, x.Until}
		if was, twice := in[x.Addr]; twice && was != l {
			l.mark = 0
		}
		in[x.Addr] = l
	}
	list = make([]Routed, 0, len(in))
	for a, l := range in {
		list = append(list, Routed{a, l.mark, l.until})
	}
	return list, in
}

// quarantined sorts in the addresses of list that belong to r's quarantine pool. No other
// is ever looked up among the quarantined.
func (b batch) quarantined(r Ruleset, list []netip.Addr) (faults []error) {
	four := 0
	for _, a := range list {
		if a.Is4() {
			four++
		}
	}
	b.room(quarantinedSet(unix.NFPROTO_IPV4), four)
	b.room(quarantinedSet(unix.NFPROTO_IPV6), len(list)-four)
	for _, a := range list {
		err := r.known(a)
		if err == nil && !r.home(familyOf(a)).Contains(a) {
			err = errors.New("it is not in the quarantine pool")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("quarantining %s: %w", a, err))
			continue
		}
		name := quarantinedSet(familyOf(a))
		b[name] = append(b[name], addressed(a))
	}
	return faults
}

// inKernel is a as it would stand in a set.
func inKernel(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// keys sorts in bare keys, for deletion. What cannot stand in a set is skipped.
func (b batch) keys(names func(netip.Addr) []string, list []netip.Addr) {
	for _, a := range list {
		if a = inKernel(a); !a.IsValid() {
			continue
		}
		for _, n := range names(a) {
			b[n] = append(b[n], addressed(a))
		}
	}
}

// freshness sorts in what holds for the whole gateway: in each of the two sets an element for
// each family, which end together.
func (b batch) freshness(r Ruleset, fresh, alive, now Deadline, slack time.Duration) {
	for _, f := range families {
		if e, err := timed(keyed(f), fresh, now, slack, r.Freshness); err == nil {
			b["fresh"] = append(b["fresh"], e)
		}
		if e, err := timed(keyed(f), alive, now, slack, r.QuarantineLife); err == nil {
			b["alive"] = append(b["alive"], e)
		}
	}
}
