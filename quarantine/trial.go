package quarantine

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Trial is what would become of one device under other policy sets.
type Trial struct {
	Record Record
	Now    Placement // without reasons
	Then   Placement // with those that speak against routing, or else the one that decides
}

// Try judges all devices by other policy sets, another conduct and the present time, without
// effect, and returns those that would stand elsewhere, or of which other rules would fail, by
// name. Several chunks of devices are judged at once, one by each processor, and that is all it
// holds besides; decisions wait for it as for any listing. Revoked devices are left out.
func (g *Gate) Try(sets map[string]PolicySet, conduct Conduct) []Trial {
	states := g.everyone()
	j := g.judge()
	other := j
	other.settings.sets, other.settings.conduct = maps.Clone(sets), conduct
	all := inChunks(states, func(some []*state) (moved []Trial) {
		for _, l := range g.glance(some) {
			if t, moves := j.try(other, l); moves {
				moved = append(moved, t)
			}
		}
		return moved
	})
	slices.SortFunc(all, func(a, b Trial) int { return byName(&a.Record, &b.Record) })
	return all
}

// inChunks has f look at all states, a chunk in each call, by as many workers as there are
// processors, and returns what it returned, in no order.
func inChunks[T any](states []*state, f func(some []*state) []T) []T {
	chunks := slices.Collect(slices.Chunk(states, chunk))
	var next atomic.Int64
	var mu sync.Mutex // guards all
	var all []T
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(chunks)) {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(len(chunks)); n = next.Add(1) {
				some := f(chunks[n-1])
				mu.Lock()
				all = append(all, some...)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return all
}

// try judges one device twice.
func (j judge) try(other judge, l glimpse) (t Trial, moves bool) {
	if l.rec.Revocation.Set() {
		return Trial{}, false
	}
	t.Record = l.known()
	t.Now = placeQuietly(j.settings.facts(t.Record, j.policy, j.now))
	facts := other.settings.facts(t.Record, j.policy, j.now)
	t.Then = placeQuietly(facts)
	if t.Now.Stage == t.Then.Stage && t.Now.Pool == t.Then.Pool && t.Now.Demand == t.Then.Demand && slices.Equal(t.Now.Failing, t.Then.Failing) {
		return Trial{}, false
	}
	t.Then = Place(facts)
	first := t.Then.Reasons[:min(1, len(t.Then.Reasons))]
	against := slices.DeleteFunc(slices.Clone(t.Then.Reasons), func(r Reason) bool { return r.Holds })
	if len(against) == 0 || t.Then.Stage == Routed {
		against = slices.Concat(first, against)
	}
	t.Then.Reasons = slices.Clip(against)
	t.Record.Reasons = nil
	return t, true
}
