package quarantine

import (
	"context"
	"time"
)

const (
	tick    = time.Second     // how often the clocks are compared
	maxJump = 2 * time.Second // wall clock against boot time; less is adjustment
)

// lapses acts when time alone changes a decision: a lease, report or certificate begins or
// ends. The kernel's own timeout has cut a lapsed device off already; this brings the peer,
// the record and the index along. A lapse is not journalled, since it is found again at
// any later time. Of many at once, others' moves wait for one at a time.
func (g *Gate) lapses(ctx context.Context) {
	before := g.Clock.Now()
	for {
		t := time.NewTimer(g.untilWake())
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-g.rescheduled:
		case <-t.C:
		}
		t.Stop()
		read := g.Clock.Now()
		switch jump := read.offset() - before.offset(); {
		case jump > maxJump:
			g.Log.Warn("the clock was set forward", "by", jump)
			g.decideAnew()
		case jump < -maxJump:
			g.Log.Warn("the clock was set back; until the gate is started again, it decides as if it were not", "by", jump)
		}
		before = read
		for _, id := range g.due(g.now().Wall) {
			if err := g.enforce(ctx, id); err != nil {
				g.unapplied(id, err)
			}
		}
	}
}

// untilWake is how long nothing is to be done.
func (g *Gate) untilWake() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wakes) == 0 {
		return tick
	}
	return min(max(g.wakes[0].wake.Sub(g.now().Wall), 0), tick)
}

// due decides on devices whose time has come, a chunk of them at most, and returns those
// that move.
func (g *Gate) due(now time.Time) []ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var moved []ID
	for range chunk {
		if len(g.wakes) == 0 || g.wakes[0].wake.After(now) {
			break
		}
		st := g.wakes[0]
		if _, changed := g.decide(st, now); changed {
			moved = append(moved, st.rec.ID)
		}
		if !st.wake.IsZero() && !st.wake.After(now) {
			g.schedule(st, time.Time{}) // a policy that names the past is not asked for ever
		}
	}
	return moved
}

// decideAnew lets every decision be made again, and enforced by a plan.
func (g *Gate) decideAnew() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settings.generation == 0 {
		return
	}
	g.settings.generation++
	g.dirty = true
	signal(g.unplanned)
}
