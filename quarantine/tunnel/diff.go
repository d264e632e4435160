package tunnel

import (
	"cmp"
	"net/netip"
	"slices"
)

// PeerChange is one step on one peer: it becomes Peer, or goes.
type PeerChange struct {
	Peer   Peer
	Remove bool // only Peer.Key counts
}

// Diff returns the steps from have to want: removals first, then peers that lose
// addresses, then the others, each group ordered by key. A peer that is as wanted is
// not touched, so that its session lives on. An endpoint that a peer's packets have
// taught the link counts only where want names one.
func Diff(have, want []Peer) []PeerChange {
	old := make(map[Key]Peer, len(have))
	for _, p := range have {
		old[p.Key] = p
	}
	var remove, shrink, grow []PeerChange
	wanted := make(map[Key]bool, len(want))
	for _, p := range want {
		wanted[p.Key] = true
		was, known := old[p.Key]
		switch {
		case known && same(was, p):
		case known && loses(was, p):
			shrink = append(shrink, PeerChange{Peer: p})
		default:
			grow = append(grow, PeerChange{Peer: p})
		}
	}
	for _, p := range have {
		if !wanted[p.Key] {
			remove = append(remove, PeerChange{Peer: Peer{Key: p.Key}, Remove: true})
		}
	}
	for _, g := range [][]PeerChange{remove, shrink, grow} {
		slices.SortFunc(g, func(a, b PeerChange) int { return slices.Compare(a.Peer.Key[:], b.Peer.Key[:]) })
	}
	return slices.Concat(remove, shrink, grow)
}

func same(have, want Peer) bool {
	if want.Endpoint.IsValid() && want.Endpoint != have.Endpoint {
		return false
	}
	return have.KeepAlive == want.KeepAlive && slices.Equal(sorted(have.AllowedIPs), sorted(want.AllowedIPs))
}

func loses(have, want Peer) bool {
	for _, a := range have.AllowedIPs {
		if !slices.Contains(want.AllowedIPs, a) {
			return true
		}
	}
	return false
}

func sorted(in []netip.Prefix) []netip.Prefix {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}
