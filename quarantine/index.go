package quarantine

import (
	"container/heap"
	"context"
	"fmt"
	"time"
)

// state is what the gate holds of one device; mu of the gate guards it.
type state struct {
	id      ID
	rec     *Record              // as stored, but without Reasons, which Place can tell again; never written to
	pending []Change             // tightenings the record has not taken in; never changed in place
	failing map[string]time.Time // rules that fail, and are not on record as such, since when; never changed in place
	marks   map[string]Mark      // that are not on record
	later   []Change             // repeats of bad reports that are in rec or pending; see canWait
	tighten uint64               // highest counter given out
	kept    uint64               // counter that the data plane enforces although it was lost here: the next tightening outbids it, and can be lifted
	turn    *turn                // an apply that has not begun
	problem error                // why the data plane does not hold it, nil if it does
	moves   uint64               // how often what is in force may have become another; see touch
	applied uint64               // the last of moves that the data plane surely holds

	// What was decided last, without reasons, good for one generation of the settings and
	// until wake.
	decided    Placement
	at         time.Time
	generation uint64

	wake time.Time // when time alone may change the decision
	slot int       // its place in the heap, plus one; zero: not in it
	nth  int       // its place in the gate's all; negative once it is dropped
	todo urgency   // the line of the gate's todo that it stands in; zero: none

	spot  spot // in the draft of a plan
	lacks bool // stands in the gate's lacking
}

// facts gathers what is known for deciding on a record. The caller holds mu.
func (g *Gate) facts(known Record, now time.Time) Facts {
	return g.settings.facts(known, g.Policy, now)
}

func (s *settings) facts(known Record, policy Policy, now time.Time) Facts {
	return Facts{Now: now, Record: known, Profile: s.profiles[known.Profile],
		Pools: s.pools, Sources: s.sources, Policy: policy, Sets: s.sets, Conduct: s.conduct}
}

// look returns what all known facts say now, without reasons, and leaves no trace. The
// caller holds mu.
func (g *Gate) look(st *state, now time.Time) Placement {
	if g.current(st, now) {
		return st.decided
	}
	return placeQuietly(g.facts(st.known(), now))
}

// decide returns what all known facts say now, without reasons, and sees to the device's
// next wake. It reports whether that differs from what was decided last: whoever calls it
// enforces it then, for no wake will. The caller holds mu.
func (g *Gate) decide(st *state, now time.Time) (p Placement, changed bool) {
	if g.current(st, now) {
		return st.decided, false
	}
	ripe := g.ripen(st, now)
	p = g.look(st, now)
	changed = !p.same(st.decided) || st.generation != g.settings.generation
	st.decided, st.at, st.generation = p, now, g.settings.generation
	if changed {
		g.touch(st)
	}
	st.noteFailing(p.Failing, now)
	st.noteMarks(p.Marks)
	if p.Demand != "" {
		g.obey(st, now)
	}
	g.schedule(st, soonest(now, p.Again, ripe))
	if len(st.pending) > 0 || !p.same(st.rec.standing()) || !failsAs(st.rec.Failing, p.Failing) || !marksAs(st.rec.Marks, p.Marks) {
		g.enqueue(st.rec.ID)
	}
	return p, changed
}

// current reports whether what was decided last still holds. The caller holds mu.
func (g *Gate) current(st *state, now time.Time) bool {
	return st.generation == g.settings.generation && !now.Before(st.at) && (st.wake.IsZero() || now.Before(st.wake))
}

// settled reports whether the device stands where its record says. The caller holds mu.
func (g *Gate) settled(st *state, now time.Time) bool {
	return g.current(st, now) && len(st.pending)+len(st.later)+len(st.failing)+len(st.marks) == 0 && st.decided.same(st.rec.standing())
}

// inForce is what is to be enforced: what is decided, but no freer than what is recorded.
// It comes with reasons. The caller holds mu.
func (g *Gate) inForce(st *state, now time.Time) Placement {
	p := Place(g.facts(st.known(), now))
	return p.Meet(st.rec.standing(), g.settings.quarantine)
}

// entry is what the data plane must hold of a device. The caller holds mu.
func (g *Gate) entry(st *state, now Instant) (Entry, error) {
	p, _ := g.decide(st, now.Wall)
	f := g.facts(st.known(), now.Wall)
	return EntryFor(f, p.Meet(st.rec.standing(), g.settings.quarantine), now)
}

// put takes a record in, unless the index has a newer one; what is decided on it waits until
// somebody asks. The caller holds mu.
func (g *Gate) put(r Record) bool {
	r.Reasons = nil
	st := g.index[r.ID]
	switch {
	case st == nil:
		st = &state{id: r.ID, nth: len(g.all)}
		g.index[r.ID] = st
		g.all = append(g.all, st)
		for _, c := range g.orphaned[r.ID] {
			st.pending = merged(st.pending, c)
			st.tighten = max(st.tighten, c.Tighten)
		}
		delete(g.orphaned, r.ID)
	case r.Revision <= st.rec.Revision:
		return false
	default:
		g.unlist(st)
	}
	st.rec = &r
	g.names.add(r.Name, st)
	g.serials.add(r.Serial, st)
	g.seat(st)
	st.tighten = max(st.tighten, r.Tighten)
	st.generation = 0
	g.touch(st)
	g.notify(r.ID)
	return true
}

// drop forgets a device that is no more. The caller holds mu.
func (g *Gate) drop(id ID) (last Entry, ok bool) {
	st := g.index[id]
	if st == nil {
		return Entry{}, false
	}
	last = Entry{Device: id, Revision: st.rec.Revision, Tighten: st.tighten}
	g.touch(st)
	g.schedule(st, time.Time{})
	delete(g.index, id)
	g.unlist(st)
	end := len(g.all) - 1
	g.all[st.nth] = g.all[end]
	g.all[st.nth].nth = st.nth
	g.all[end], st.nth = nil, -1
	g.all = g.all[:end]
	g.strike(st.pending...)
	g.notify(id)
	return last, true
}

// strike has the recorder take tightenings off the journal. The caller holds mu.
func (g *Gate) strike(changes ...Change) {
	if len(changes) == 0 {
		return
	}
	g.struck = append(g.struck, changes...)
	signal(g.unrecorded)
}

// notify wakes whoever waits for the device. The caller holds mu.
func (g *Gate) notify(id ID) {
	if c := g.waiters[id]; c != nil {
		close(c)
		delete(g.waiters, id)
	}
}

// changed is closed at the device's next change. The caller holds mu.
func (g *Gate) changed(id ID) <-chan struct{} {
	c := g.waiters[id]
	if c == nil {
		c = make(chan struct{})
		g.waiters[id] = c
	}
	return c
}

// tryHold keeps others from writing the device's record until release is called, unless
// somebody does already. The caller holds mu.
func (g *Gate) tryHold(id ID) (release func(), ok bool) {
	if g.busy[id] != nil {
		return nil, false
	}
	c := make(chan struct{})
	g.busy[id] = c
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.busy, id)
		close(c)
	}, true
}

// hold waits until nobody else writes the device's record, and keeps others from it until
// the returned function is called.
func (g *Gate) hold(ctx context.Context, id ID) (release func(), err error) {
	for {
		g.mu.Lock()
		release, ok := g.tryHold(id)
		c := g.busy[id]
		g.mu.Unlock()
		if ok {
			return release, nil
		}
		select {
		case <-c:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another change of the device: %w", ctx.Err())
		}
	}
}

// schedule sets when the device is to be looked at again; zero: never. The caller holds mu.
func (g *Gate) schedule(st *state, wake time.Time) {
	st.wake = wake
	switch {
	case wake.IsZero() && st.slot > 0:
		heap.Remove(&g.wakes, st.slot-1)
	case wake.IsZero():
	case st.slot > 0:
		heap.Fix(&g.wakes, st.slot-1)
	default:
		heap.Push(&g.wakes, st)
	}
	if len(g.wakes) > 0 && g.wakes[0] == st {
		signal(g.rescheduled)
	}
}

// wakes is a heap of devices by wake.
type wakes []*state

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].wake.Before(w[j].wake) }
func (w wakes) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].slot, w[j].slot = i+1, j+1
}

// Push implements heap.Interface.
func (w *wakes) Push(x any) {
	st := x.(*state)
	*w = append(*w, st)
	st.slot = len(*w)
}

// Pop implements heap.Interface.
func (w *wakes) Pop() any {
	last := len(*w) - 1
	st := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	st.slot = 0
	return st
}
