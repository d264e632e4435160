package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
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

// timed builds a timed element; val is empty for a set.
func timed(key, val []byte, d, now Deadline, slack, most time.Duration) (nftables.SetElement, error) {
	t, err := timeout(d, now, slack, most)
	if err != nil {
		return nftables.SetElement{}, err
	}
	return nftables.SetElement{Key: key, Val: val, Timeout: t}, nil
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

// marks are the marks of r's full pools.
func (r Ruleset) marks() map[Mark]bool {
	m := map[Mark]bool{}
	for _, p := range r.full() {
		m[p.Mark] = true
	}
	return m
}

// batch is elements sorted by the set they go to.
type batch map[string][]nftables.SetElement

// routed sorts in what may be written of list. What may not is left out, that is not
// routed: silently when its time is over, with a fault when it names no address or
// mark of r, or contradicts another one. in is what was written.
func (b batch) routed(r Ruleset, list []Routed, now Deadline, slack time.Duration) (in map[netip.Addr]lease, faults []error) {
	marks := r.marks()
	in = make(map[netip.Addr]lease, len(list))
	for _, x := range list {
		l := lease{x.Mark, x.Until}
		if was, twice := in[x.Addr]; twice && was != l {
			l.mark = 0 // neither of them is right, and mark zero is refused below
		}
		in[x.Addr] = l
	}
	for a, l := range in {
		x := Routed{a, l.mark, l.until}
		err := r.known(x.Addr)
		if err == nil && !marks[x.Mark] {
			err = fmt.Errorf("mark %d is no pool's, or the address is given twice", x.Mark)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("routing %s: %w", x.Addr, err))
			delete(in, a)
			continue
		}
		name, val := r.routedIn(x), []byte(nil)
		if name == fixedMap(familyOf(x.Addr)) {
			val = binary.BigEndian.AppendUint32(nil, uint32(x.Mark))
		}
		e, err := timed(x.Addr.AsSlice(), val, x.Until, now, slack, longest)
		if err != nil {
			delete(in, a)
			continue
		}
		in[a] = lease{l.mark, min(l.until, now+Deadline(longest))}
		b[name] = append(b[name], e)
	}
	return in, faults
}

// quarantined sorts in the addresses of list that belong to r's quarantine pool. No other
// is ever looked up among the quarantined.
func (b batch) quarantined(r Ruleset, list []netip.Addr) (faults []error) {
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
		b[name] = append(b[name], nftables.SetElement{Key: a.AsSlice()})
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
			b[n] = append(b[n], nftables.SetElement{Key: a.AsSlice()})
		}
	}
}

// freshness sorts in what holds for the whole gateway: in each of the two sets an element for
// each family, which end together.
func (b batch) freshness(r Ruleset, fresh, alive, now Deadline, slack time.Duration) {
	for _, f := range families {
		if e, err := timed([]byte{f}, nil, fresh, now, slack, r.Freshness); err == nil {
			b["fresh"] = append(b["fresh"], e)
		}
		if e, err := timed([]byte{f}, nil, alive, now, slack, r.QuarantineLife); err == nil {
			b["alive"] = append(b["alive"], e)
		}
	}
}
