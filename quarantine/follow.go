package quarantine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// follow reads the store and then whatever changes in it.
func (g *Gate) follow(ctx context.Context) {
	var wait backoff
	whole := true // the store must be read anew
	for ctx.Err() == nil {
		var err error
		if whole {
			err = g.resync(ctx)
		}
		if err == nil {
			whole = false
			err = g.watch(ctx, wait.reset)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrCompacted), errors.Is(err, errSettings):
			whole = true
		case err != nil:
			g.Log.Warn("following the store", "error", err)
			wait.sleep(ctx, nil)
		}
	}
}

// errSettings says that the store must be read anew, since settings changed.
var errSettings = errors.New("settings changed")

// watch takes events in until one cannot be; well is called when they come again.
func (g *Gate) watch(ctx context.Context, well func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	after := g.revision
	g.mu.Unlock()
	events := g.Store.Watch(ctx, after)
	for e := range events {
		if e.Err != nil {
			return fmt.Errorf("watching the store: %w", e.Err)
		}
		if e.Settings {
			return errSettings
		}
		g.take(ctx, e)
		well()
	}
	return errors.New("watching the store: the watch ended")
}

// take brings one event into the index and the data plane, and only then counts it as seen.
func (g *Gate) take(ctx context.Context, e Event) {
	g.mu.Lock()
	if e.Revision <= g.revision {
		g.mu.Unlock()
		return
	}
	now := g.now().Wall
	var moved []ID
	var gone []Entry
	for _, r := range e.Records {
		if g.put(r) {
			g.decide(g.index[r.ID], now)
			moved = append(moved, r.ID)
		}
	}
	for _, id := range e.Gone {
		if last, ok := g.drop(id); ok {
			last.Revision = e.Revision
			gone = append(gone, last)
		}
	}
	g.mu.Unlock()
	for _, last := range gone {
		g.remove(ctx, last)
	}
	for _, id := range moved {
		if err := g.enforce(ctx, id); err != nil {
			g.unapplied(id, err)
		}
	}
	g.mu.Lock()
	g.reach(e.Revision)
	g.mu.Unlock()
}

// reach notes that the index is complete up to a revision. The caller holds mu.
func (g *Gate) reach(revision int64) {
	if revision > g.revision {
		g.revision = revision
	}
	close(g.seen)
	g.seen = make(chan struct{})
}

// resync reads everything and asks for a plan.
func (g *Gate) resync(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, planTimeout*g.Timeout)
	defer cancel()
	snap, err := g.Store.Snapshot(call)
	if err != nil {
		return fmt.Errorf("reading the store: %w", err)
	}
	var highest Seat
	for _, r := range snap.Records {
		highest = max(highest, r.Seat)
	}
	s := settings{pools: maps.Clone(snap.Pools), profiles: maps.Clone(snap.Profiles), sources: maps.Clone(snap.Sources),
		sets: maps.Clone(snap.Sets), conduct: snap.Conduct}
	s.quarantine = Facts{Pools: s.pools}.quarantinePool()
	if err := CheckPools(s.pools, highest); err != nil {
		s.fault = fmt.Errorf("the pools cannot be enforced: %w", err)
	}
	g.steady.reach(snap.Time, g.Clock)
	g.takeRecords(snap)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.generation = g.settings.generation + 1
	g.settings = s
	g.announce()
	g.forgetOrphans()
	g.dirty = true
	g.reach(snap.Revision)
	select {
	case <-g.loaded:
	default:
		close(g.loaded)
	}
	signal(g.unplanned)
	return nil
}

// takeRecords brings the index to a snapshot, a chunk of devices at a time. What it means
// for the data plane is the next plan's matter.
func (g *Gate) takeRecords(snap Snapshot) {
	some := make([]Record, 0, chunk)
	put := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.dirty = true
		for _, r := range some {
			g.put(r)
		}
		some = some[:0]
	}
	for _, r := range snap.Records {
		if some = append(some, r); len(some) == chunk {
			put()
		}
	}
	put()
	for some := range slices.Chunk(g.everyone(), chunk) {
		g.mu.Lock()
		for _, st := range some {
			if _, ok := snap.Records[st.id]; !ok && st.nth >= 0 && st.rec.Revision <= snap.Revision {
				g.drop(st.id)
			}
		}
		g.mu.Unlock()
	}
}

// forgetOrphans strikes what the journal holds of devices that are no more. The caller
// holds mu.
func (g *Gate) forgetOrphans() {
	for id, pending := range g.orphaned {
		g.Log.Warn("the journal holds a tightening of a device that is no more", "device", id)
		g.strike(pending...)
	}
	g.orphaned = nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
