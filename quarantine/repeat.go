package quarantine

import (
	"slices"
	"sync"
	"time"
)

// Most reports say what the last one said. One that is compliant, in the first half of the
// life of another, is dropped, unless a rule fails: the lease stays at what is stored. A bad one is not dropped,
// since it holds the device for longer and keeps older reports out; but as it moves nobody
// now, it is only remembered, and recorded when half the life of the recorded one is over,
// or at once when that is no longer as bad. So one device's reports cost the disk, the
// store and the data plane next to nothing, however many they are. A crash, but not a stop,
// forgets what was remembered, and then the recorded report stands: as bad, and for at
// least the half of its life that was left. Where several gateways share a store, bad reports
// are recorded at once: another gateway must not take an older word for the newest.

// repeats reports whether c says nothing that is worth keeping: what is known already, or,
// in the first half of the life of the last report, the same with no effect but to prolong
// a release, or none at all. The lease stays at what is stored. The caller holds mu.
func (g *Gate) repeats(st *state, known Record, c Change, now time.Time) bool {
	switch {
	case known.Revocation.Set():
		return false
	case c.Kind == Prove:
		return known.Proven && c.Key == known.Key
	case c.Kind == Rotate:
		return !c.Key.IsZero() && c.Key == known.Key
	case c.Kind == Confirm:
		return known.Confirmed
	case c.Kind == Contact:
		return seenEnough(known, c)
	case c.Kind != Reported:
		return false
	}
	r := *c.Report
	last, ok := known.Reports[r.Source]
	if !ok || r.Verdict != last.Verdict || r.Device != last.Device || !sameFacts(r, last) {
		return false
	}
	if r.At.Equal(last.At) && r.Sequence == last.Sequence && r.Validity == last.Validity {
		return true
	}
	if r.Validity < 0 || !r.newer(last) || r.At.After(now.Add(MaxAhead)) {
		return false
	}
	source := g.settings.sources[r.Source]
	switch {
	case r.Verdict == Compliant:
	case r.Verdict == "" && r.Source == AgentSource:
	default:
		return false
	}
	return now.Before(lifeOf(last, source).half()) && !lifeOf(r, source).until.Before(lifeOf(last, source).until) &&
		!g.refreshes(st, known, c, now)
}

// refreshes reports whether a report that says what the last one said is worth keeping for
// being newer: a rule may ask for younger facts than the report's own life allows. Then, where
// it makes a difference now, or half the time is over until the lack of it would, it is kept;
// and always while a rule fails, since what speaks against the device must last as long as it
// was said to. The caller holds mu.
func (g *Gate) refreshes(st *state, known Record, c Change, now time.Time) bool {
	if len(c.Report.Facts) == 0 || len(g.settings.sets) == 0 {
		return false
	}
	next, err := known.With(c)
	if err != nil {
		return false
	}
	before, after := g.look(st, now), placeQuietly(g.facts(next, now))
	if len(before.Failing) > 0 || before.Stage != after.Stage || before.Pool != after.Pool || before.Demand != after.Demand || !slices.Equal(before.Failing, after.Failing) {
		return true
	}
	from := lifeOf(known.Reports[c.Report.Source], g.settings.sources[c.Report.Source]).from
	return !before.Again.IsZero() && after.Again.After(before.Again) && !now.Before(life{from, before.Again}.half())
}

// half is the middle of the life.
func (l life) half() time.Time { return l.from.Add(l.until.Sub(l.from) / 2) }

// known is the record with everything that it has not taken in.
func (st *state) known() Record { return st.base().replay(st.pending).replay(st.later) }

// canWait reports whether a bad report that moves nobody may be recorded later: one just as
// bad is recorded, or on its way, is in the first half of its life, and does not hold the
// device for longer. The caller holds mu.
func (g *Gate) canWait(st *state, known Record, c Change, now time.Time) bool {
	if g.Cluster || c.Kind != Reported || !c.tightens() || !g.current(st, now) {
		return false
	}
	r := *c.Report
	source := g.settings.sources[r.Source]
	safe, ok := st.rec.replay(st.pending).Reports[r.Source]
	return ok && safe.Verdict == r.Verdict && sameFacts(safe, r) && now.Before(lifeOf(safe, source).half()) &&
		!lifeOf(r, source).until.Before(lifeOf(known.Reports[r.Source], source).until)
}

// putOff remembers a bad report that can wait. What is decided stays as it is. The caller
// holds mu.
func (g *Gate) putOff(st *state, c Change, now time.Time) {
	st.later = merged(st.later, c)
	g.schedule(st, soonest(now, st.wake, g.ripen(st, now)))
}

// ripen makes pending what cannot wait any more, forgets what was overtaken, and returns
// when the next ripens. The caller holds mu.
func (g *Gate) ripen(st *state, now time.Time) (next time.Time) {
	if len(st.later) == 0 {
		return time.Time{}
	}
	safe := st.rec.replay(st.pending)
	var wait []Change
	for _, c := range st.later {
		last, ok := safe.Reports[c.Report.Source]
		half := lifeOf(last, g.settings.sources[c.Report.Source]).half()
		switch {
		case safe.Revocation.Set(), ok && !c.Report.newer(last):
		case ok && last.Verdict == c.Report.Verdict && now.Before(half):
			wait = append(wait, c)
			next = soonest(now, next, half)
		default:
			g.makePending(st, c)
		}
	}
	st.later = wait
	return next
}

// ripenAll makes pending all that is only remembered. The caller holds mu.
func (g *Gate) ripenAll(st *state, now time.Time) {
	g.ripen(st, now)
	for _, c := range st.later {
		g.makePending(st, c)
	}
	st.later = nil
}

// makePending gives a repeat its counter, and has it journalled and recorded soon. The
// caller holds mu.
func (g *Gate) makePending(st *state, c Change) {
	st.tighten++
	c.Tighten = st.tighten
	st.pending = merged(st.pending, c)
	g.unsafe = append(g.unsafe, c)
	g.enqueue(st.rec.ID)
}

// secure journals repeats that became pending. The file is not touched under mu. The recorder
// calls it before strikeOut, so that what was recorded meanwhile is struck off after it.
func (g *Gate) secure() {
	g.mu.Lock()
	unsafe := g.unsafe
	g.unsafe = nil
	g.mu.Unlock()
	for _, c := range unsafe {
		if err := g.journal(c); err != nil {
			g.Log.Warn("repeated reports are not safe from a crash before the store takes them in", "error", err)
			return // they are recorded next; a disk that does not answer is not waited for again
		}
	}
}

// keepers is how many appends to the journal share its syncs at the end.
const keepers = 32

// keepRepeats journals, at the end of a run, every report that is only remembered.
func (g *Gate) keepRepeats() {
	g.mu.Lock()
	now := g.now().Wall
	for _, st := range g.all {
		g.ripenAll(st, now)
	}
	unsafe := g.unsafe
	g.unsafe = nil
	g.mu.Unlock()
	next := make(chan Change)
	var all sync.WaitGroup
	for range min(keepers, len(unsafe)) {
		all.Go(func() {
			for c := range next {
				if err := g.journal(c); err != nil {
					g.Log.Warn("a repeated report is forgotten", "device", c.Device, "error", err)
				}
			}
		})
	}
	for _, c := range unsafe {
		next <- c
	}
	close(next)
	all.Wait()
}
