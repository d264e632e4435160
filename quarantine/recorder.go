package quarantine

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// enqueue has the device's record written soon. The caller holds mu.
func (g *Gate) enqueue(id ID) {
	st := g.index[id]
	if st == nil {
		return
	}
	g.todo.put(st, st.urgency())
	signal(g.unrecorded)
}

// dequeue returns devices whose records are to be written next: those of one transaction.
func (g *Gate) dequeue() []ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	some := g.todo.take(MaxBatch)
	ids := make([]ID, len(some))
	for i, st := range some {
		ids[i] = st.id
	}
	return ids
}

// records writes what was decided without the store, as soon as the store can. Devices
// that fail go to the end of the line.
func (g *Gate) records(ctx context.Context) {
	var wait backoff
	for {
		g.secure()
		g.strikeOut()
		ids := g.dequeue()
		if len(ids) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-g.unrecorded:
			}
			continue
		}
		failed, full := g.recordAll(ctx, ids)
		if ctx.Err() != nil {
			return
		}
		if len(failed) == 0 {
			wait.reset()
			continue
		}
		g.again(failed)
		if !full {
			wait.sleep(ctx, nil)
			continue
		}
		wait.sleep(ctx, g.unrecorded) // the store is up: another device's record need not wait
	}
}

// again has the records of devices written later, which is nothing new to be written at once.
func (g *Gate) again(ids []ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	more := false // was put in meanwhile
	select {
	case <-g.unrecorded:
		more = true
	default:
	}
	for _, id := range ids {
		g.enqueue(id)
	}
	select {
	case <-g.unrecorded:
	default:
	}
	if more {
		signal(g.unrecorded)
	}
}

// recordAll writes the records of some devices, together where it can, and returns those
// that it could not write; full says that there was only no room for what they open.
func (g *Gate) recordAll(ctx context.Context, ids []ID) (failed []ID, full bool) {
	rest, err := g.recordTogether(ctx, ids)
	if err != nil {
		g.Log.Warn("recording where devices stand", "devices", len(ids), "error", err)
		return ids, false
	}
	full = true
	for i, id := range rest {
		err := g.record(ctx, id)
		if err == nil {
			continue
		}
		g.Log.Warn("recording where a device stands", "device", id, "error", err)
		noRoom := errors.Is(err, ErrNoRoom)
		if !noRoom && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnknownDevice) {
			return append(append(failed, rest[i+1:]...), id), false // the store may be down: the others need not try now
		}
		failed, full = append(failed, id), full && noRoom
	}
	return failed, full
}

// strikeOut takes off the journal what is recorded. The file is not touched under mu.
func (g *Gate) strikeOut() {
	g.mu.Lock()
	struck := g.struck
	g.struck = nil
	g.mu.Unlock()
	for _, c := range struck {
		if err := g.Journal.Done(c); err != nil {
			g.Log.Warn("a recorded tightening stays in the journal", "device", c.Device, "error", err)
		}
	}
}

func (g *Gate) record(ctx context.Context, id ID) error {
	release, err := g.hold(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	for try := 1; ; try++ {
		err := g.writeOut(ctx, id)
		if !errors.Is(err, ErrConflict) || try == attempts {
			return err
		}
	}
}

// maxWrites bounds how many facts of one device are written in a row.
const maxWrites = 1000

// writeOut writes all that is pending of a device, oldest first, each with its own audit
// entry, and then the placement if settings or time have changed it. The caller has the
// device on hold.
func (g *Gate) writeOut(ctx context.Context, id ID) error {
	for range maxWrites {
		g.mu.Lock()
		c, next, ok := g.nextWrite(id)
		g.mu.Unlock()
		if !ok {
			return nil
		}
		if err := g.write(ctx, c, next); err != nil {
			return err
		}
		g.mu.Lock()
		g.settle(id, c)
		if st := g.index[id]; st != nil {
			g.decide(st, g.now().Wall) // enforced right below
		}
		g.mu.Unlock()
		if err := g.enforce(ctx, id); err != nil {
			g.unapplied(id, err)
		}
	}
	return fmt.Errorf("device %s does not come to rest: its placement changes with every write", id)
}

// nextWrite returns the next change to record and the record with it. What the record has
// taken in already is struck off. The caller holds mu.
func (g *Gate) nextWrite(id ID) (c Change, next Record, ok bool) {
	st := g.index[id]
	if st == nil {
		return Change{}, Record{}, false
	}
	for len(st.pending) > 0 && st.rec.tookIn(st.pending[0]) {
		g.settle(id, st.pending[0])
	}
	now := g.now().Wall
	p := Place(g.facts(st.known(), now))
	switch {
	case len(st.pending) > 0:
		c = st.pending[0]
		next = st.base().replay(st.pending[:1])
	case !p.same(st.rec.standing()) || !failsAs(st.rec.Failing, p.Failing) || !marksAs(st.rec.Marks, p.Marks):
		c = Change{Kind: Review, Device: id, By: Actor{Kind: "gateway", Name: g.Gateway}, At: now}
		if standing := st.rec.standing(); !p.same(standing) && p.within(standing) {
			c.Kind = Lapse
		}
		next = st.base()
	default:
		return Change{}, Record{}, false
	}
	return c, next.Settle(p, now), true
}

// settle takes a pending change, and nothing else, as recorded. The caller holds mu.
func (g *Gate) settle(id ID, c Change) {
	st := g.index[id]
	if st == nil {
		return
	}
	at := slices.IndexFunc(st.pending, func(p Change) bool { return p.Tighten == c.Tighten })
	if at < 0 {
		return // nothing that was pending, or superseded meanwhile: its successor strikes it off
	}
	st.pending = slices.Delete(slices.Clone(st.pending), at, at+1)
	st.generation = 0
	g.strike(c)
}

// write records one change and takes the new record into the index. On ErrConflict it
// returns once the index has the newer record, if that comes in time.
func (g *Gate) write(ctx context.Context, c Change, next Record) error {
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	revision, err := g.Store.Record(ctx, c, next)
	switch {
	case errors.Is(err, ErrConflict):
		g.newer(ctx, c.Device, next.Revision)
		return err
	case err != nil:
		return fmt.Errorf("recording: %w", err)
	}
	next.Revision = revision
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.index[c.Device] == nil {
		return ErrUnknownDevice // dropped meanwhile
	}
	if g.put(next) {
		g.decide(g.index[next.ID], g.now().Wall)
	}
	return nil
}

// newer waits until the index has a record of the device newer than revision, or none.
func (g *Gate) newer(ctx context.Context, id ID, revision int64) {
	for {
		g.mu.Lock()
		st := g.index[id]
		if st == nil || st.rec.Revision > revision {
			g.mu.Unlock()
			return
		}
		c := g.changed(id)
		g.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}
