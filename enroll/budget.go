package enroll

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"lazaret/quarantine"
)

// budget bounds the audit entries of one kind: so many in a window for everybody
// together, refilled little by little, and so many of each identity. A flood then costs
// the disk next to nothing, and nobody silences anybody else.
type budget struct {
	what       string // that it is for, in the audit log
	most       int
	each       int // of one identity; zero: no bound, since strangers have none
	identities tallies

	spent    float64 // of most; shrinks as time passes
	at       time.Time
	withheld int       // entries left out since the count was last written
	since    time.Time // the first of them
}

// entry says whether one more entry of a budget may be written. identity is who caused
// it, once that is known.
func (m *limiter) entry(b *budget, identity string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if passed := now.Sub(b.at); passed < 0 || passed >= m.Window {
		b.spent = 0
	} else {
		b.spent = max(0, b.spent-float64(b.most)*passed.Seconds()/m.Window.Seconds())
	}
	b.at = now
	if b.within(m, identity, now) && b.spent+1 <= float64(b.most) {
		b.spent++
		return true
	}
	if b.withheld++; b.withheld == 1 {
		b.since = now
	}
	return false
}

// within counts an entry for its identity. The caller holds m.mu.
func (b *budget) within(m *limiter, identity string, now time.Time) bool {
	if b.each == 0 {
		return true
	}
	sum := sha256.Sum256([]byte(identity))
	return b.identities.add(tallyKey(sum[:16]), now, m.Window, m.Keys) <= b.each
}

// leftOut is how many entries of a budget were left out, once a minute has passed since
// the first of them; else zero.
func (m *limiter) leftOut(b *budget, now time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if passed := now.Sub(b.since); b.withheld == 0 || passed >= 0 && passed < time.Minute {
		return 0
	}
	n := b.withheld
	b.withheld = 0
	return n
}

// summarize writes how many entries were left out of the audit log, once a minute at most.
func (d *Desk) summarize(ctx context.Context, now time.Time) {
	for _, b := range []*budget{&d.limits.strangers, &d.limits.alerts, &d.limits.holders, &d.limits.alarms} {
		n := d.limits.leftOut(b, now)
		if n == 0 {
			continue
		}
		d.audit(ctx, Event{
			By: quarantine.Actor{Kind: "gateway", Name: "enrollment desk"}, Action: "enroll.leftout",
			Why:    fmt.Sprintf("%d %s are not in this log one by one: there were too many", n, b.what),
			Detail: map[string]string{"entries": fmt.Sprint(n)},
		})
	}
}

// bounded writes an event that can be caused again and again, as long as its budget lasts.
func (e *exchange) bounded(b *budget, ev Event) {
	if e.desk.limits.entry(b, e.by.Kind+" "+e.by.Name, e.now) {
		e.audit(ev)
	}
	e.desk.summarize(e.ctx, e.now)
}

func (e *exchange) audit(ev Event) { e.desk.audit(e.ctx, ev) }

func (d *Desk) audit(ctx context.Context, ev Event) {
	if err := d.cfg.Audit.Audit(ctx, ev); err != nil {
		d.cfg.Log.Error("writing to the audit log", "action", ev.Action, "why", ev.Why, "error", err)
	}
}
