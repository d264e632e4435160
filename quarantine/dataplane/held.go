package dataplane

import (
	"net/netip"
	"slices"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// held is what is enforced of one device. A device without Key has nothing, and stays
// in the mirror for its counters.
type held struct {
	quarantine.Entry
	moved bool // Next shook hands: the addresses are with it
}

// active is the key that has the addresses.
func (h held) active() tunnel.Key {
	if h.moved {
		return h.Next
	}
	return h.Key
}

// peers is what the tunnel holds for the device: the active key with every address,
// the other with none.
func (h held) peers() []tunnel.Peer {
	if h.Key.IsZero() {
		return nil
	}
	out := []tunnel.Peer{{Key: h.Key}}
	if !h.Next.IsZero() {
		out = append(out, tunnel.Peer{Key: h.Next})
	}
	for i := range out {
		if out[i].Key == h.active() {
			out[i].AllowedIPs = h.prefixes()
		}
	}
	return out
}

func (h held) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range h.addresses() {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// addresses are all of the device's addresses, each once.
func (h held) addresses() []netip.Addr {
	out := slices.Concat(h.Quarantined, h.Routed)
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func (h held) hasKey(k tunnel.Key) bool { return k == h.Key || k == h.Next }

// shortest is the least time that a routed element is worth making: the kernel's
// elements count in seconds.
const shortest = firewall.Deadline(1e9)

// lapse returns h without what its deadline has ended.
func (h held) lapse(now firewall.Deadline) held {
	if len(h.Routed) > 0 && h.Until-now < shortest {
		h.Routed, h.Mark, h.Until = nil, 0, 0
	}
	return h
}

// take returns e as it would be held after old: what has ended is gone, the counter of
// tightenings never falls, and addresses that moved to the next key stay there while the same two
// keys stand.
func take(old held, e quarantine.Entry, now firewall.Deadline) held {
	h := held{Entry: e}.lapse(now)
	if h.Key.IsZero() {
		h = held{Entry: quarantine.Entry{Device: e.Device, Revision: e.Revision, Tighten: e.Tighten}}
	}
	if len(h.Routed) == 0 {
		h.Mark, h.Until = 0, 0
	}
	h.moved = old.moved && h.Key == old.Key && h.Next == old.Next
	h.Tighten = max(h.Tighten, old.Tighten)
	return h
}

// loosens reports whether next lets anything pass that old did not: another key,
// another address, another mark or a later end.
func loosens(old, next held) bool {
	if next.Key.IsZero() {
		return false
	}
	if !old.hasKey(next.Key) || !old.hasKey(next.Next) && !next.Next.IsZero() {
		return true
	}
	if !subset(next.Quarantined, old.Quarantined) || !subset(next.Routed, old.Routed) {
		return true
	}
	return len(next.Routed) > 0 && (next.Mark != old.Mark || next.Until > old.Until)
}

// meet returns what both old and next let pass, with next's counters.
func meet(old, next held) held {
	none := held{Entry: quarantine.Entry{Device: next.Device, Revision: next.Revision, Tighten: next.Tighten}}
	if next.Key.IsZero() || !old.hasKey(next.Key) {
		return none
	}
	out := next
	if !old.hasKey(next.Next) {
		out.Next = tunnel.Key{}
	}
	out.moved = old.moved && out.Key == old.Key && out.Next == old.Next
	out.Quarantined = both(old.Quarantined, next.Quarantined)
	out.Routed = both(old.Routed, next.Routed)
	out.Until = min(old.Until, next.Until)
	if len(out.Routed) == 0 || old.Mark != next.Mark {
		out.Routed, out.Mark, out.Until = nil, 0, 0
	}
	return out
}

// admit decides what is enforced when entry e arrives. A loosening that has not taken
// in the last tightening, or that is older than what is applied, gets only what both
// let pass, and ErrOutdated. Revisions are compared only where they come from the same
// control plane: a store that was restored counts from an older one. ErrOutdated comes
// as a quarantine.Kept, which says what old's counters are.
func admit(old held, e quarantine.Entry, now firewall.Deadline, sameControl bool) (held, error) {
	next := take(old, e, now)
	stale := e.Tighten < old.Tighten || sameControl && e.Revision < old.Revision
	if sameControl {
		next.Revision = max(e.Revision, old.Revision)
	}
	if stale && loosens(old, next) {
		return meet(old, next), &quarantine.Kept{Revision: old.Revision, Tighten: old.Tighten}
	}
	return next, nil
}

func subset(a, b []netip.Addr) bool {
	return !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

func both(a, b []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(a), func(x netip.Addr) bool { return !slices.Contains(b, x) })
}
