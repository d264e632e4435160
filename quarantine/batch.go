package quarantine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Many devices change at once when a management server comes back after an outage, or when
// the leases that it gave end together. Then everything goes in parts of at most MaxBatch
// devices: one hold of mu, one transaction of the store, one sync of the journal. Between
// two parts, and between two devices wherever the data plane is spoken to, others come in.

// Result is what became of one report of many, as Report would say.
type Result struct {
	Placement Placement
	Err       error
}

// Reports takes many reports in their order, and says what became of each. It is Report for
// every one of them, but for the time it takes, and for what others notice of it: several
// calls at once go one part at a time.
func (g *Gate) Reports(ctx context.Context, by Actor, reports []Report) []Result {
	results := make([]Result, len(reports))
	for at := 0; at < len(reports); at += MaxBatch {
		end := min(at+MaxBatch, len(reports))
		select {
		case g.bulk <- struct{}{}:
			g.takeReports(ctx, by, reports[at:end], results[at:end])
			<-g.bulk
		case <-ctx.Done():
			for i := range results[at:] {
				results[at+i].Err = fmt.Errorf("taking reports: %w", ctx.Err())
			}
			return results
		}
	}
	for i := range results {
		if err := results[i].Err; err != nil {
			results[i].Err = fmt.Errorf("taking %q for device %s: %w", Reported, reports[i].Device, err)
		}
	}
	return results
}

// item is one of many changes, and where to say what became of it.
type item struct {
	Change
	*Result
}

// takeReports takes one part of many reports.
func (g *Gate) takeReports(ctx context.Context, by Actor, reports []Report, results []Result) {
	var tightening, loosening, repeating []item
	now := g.now().Wall
	g.mu.Lock()
	for i := range reports {
		it := item{stamped(by, Change{Kind: Reported, Device: reports[i].Device, Report: &reports[i]}, now), &results[i]}
		w, p, err := g.weigh(by, &it.Change, now)
		switch it.Placement, it.Err = p, err; w {
		case toTighten:
			tightening = append(tightening, it)
		case toLoosen:
			loosening = append(loosening, it)
		case toConfirm:
			repeating = append(repeating, it)
		}
	}
	g.mu.Unlock()
	g.tightenAll(ctx, tightening)
	g.loosenAll(ctx, loosening)
	for _, it := range repeating {
		it.Placement, it.Err = g.confirm(ctx, it.Device)
	}
}

// tightenAll journals and applies changes that are pending already.
func (g *Gate) tightenAll(ctx context.Context, all []item) {
	var journal sync.WaitGroup
	for _, it := range all { // at the same time, so that they share the disk's syncs
		journal.Go(func() { g.secureOne(it.Change) })
	}
	journal.Wait()
	for _, it := range all {
		it.Placement, it.Err = g.tightened(it.Change, g.enforce(ctx, it.Device))
	}
}

// loosenAll records changes, in one transaction where it can, and applies them then.
func (g *Gate) loosenAll(ctx context.Context, all []item) {
	for _, it := range g.loosenTogether(ctx, all) {
		it.Placement, it.Err = g.loosen(ctx, it.Change)
	}
}

// loosenTogether records changes in one transaction, and returns those that must be taken
// one by one: of a device whose record somebody else writes, or with tightenings to record
// before, or all of them when the store does not take them together.
func (g *Gate) loosenTogether(ctx context.Context, all []item) (rest []item) {
	var b batch
	var taken []item
	now := g.now().Wall
	g.mu.Lock()
	for _, it := range all {
		st := g.index[it.Device]
		switch {
		case st == nil:
			it.Err = ErrUnknownDevice
			continue
		case len(st.pending) > 0 || !b.hold(g, it.Device):
			rest = append(rest, it)
			continue
		}
		next, err := st.base().With(it.Change)
		if err != nil {
			it.Placement, it.Err = g.inForce(st, now), err
			continue
		}
		b.writes = append(b.writes, Write{it.Change, next.Settle(Place(g.facts(next.replay(st.later), now)), now)})
		taken = append(taken, it)
	}
	g.mu.Unlock()
	done, err := g.recordBatch(ctx, b.writes)
	if !done && err == nil {
		b.release()
		return slices.Concat(taken, rest)
	}
	defer b.release()
	for _, it := range taken {
		it.Placement, it.Err = g.loosened(ctx, it.Device, err)
	}
	return rest
}

// recordTogether writes the records of some devices in one transaction, and returns those
// that must be written one by one.
func (g *Gate) recordTogether(ctx context.Context, ids []ID) (rest []ID, err error) {
	var b batch
	g.mu.Lock()
	for _, id := range ids {
		st := g.index[id]
		if st == nil {
			continue
		}
		if st.urgency() == clicked || !b.hold(g, id) {
			rest = append(rest, id)
			continue
		}
		if c, next, ok := g.nextWrite(id); ok {
			b.writes = append(b.writes, Write{c, next})
		}
	}
	g.mu.Unlock()
	defer b.release()
	done, err := g.recordBatch(ctx, b.writes)
	if err != nil {
		return nil, err
	}
	for _, w := range b.writes {
		if !done {
			rest = append(rest, w.Next.ID)
			continue
		}
		if err := g.enforce(ctx, w.Next.ID); err != nil {
			g.unapplied(w.Next.ID, err)
		}
	}
	return rest, nil
}

// batch is what is written in one transaction, by whoever has the devices on hold.
type batch struct {
	writes   []Write
	releases []func()
}

// hold takes a device in, unless somebody else writes its record. The caller holds mu.
func (b *batch) hold(g *Gate, id ID) bool {
	release, ok := g.tryHold(id)
	if ok {
		b.releases = append(b.releases, release)
	}
	return ok
}

func (b *batch) release() {
	for _, release := range b.releases {
		release()
	}
}

// recordBatch writes records together and takes them into the index; false without an error
// when they are to be written one by one.
func (g *Gate) recordBatch(ctx context.Context, writes []Write) (done bool, err error) {
	store, ok := g.Store.(Batcher)
	if !ok || len(writes) < 2 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	revision, err := store.RecordAll(ctx, writes)
	switch {
	case errors.Is(err, ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("recording: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range writes {
		st := g.index[w.Next.ID]
		if st == nil {
			continue // dropped meanwhile
		}
		w.Next.Revision = revision
		if !g.put(w.Next) {
			continue
		}
		g.settle(w.Next.ID, w.Change)
		g.decide(st, g.now().Wall) // enforced by the caller
	}
	return true, nil
}
