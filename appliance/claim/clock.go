package claim

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Clock is what a machine says of its clock. The zero one was compared with nothing.
type Clock struct {
	Time         time.Time `json:"time"`
	Synchronized bool      `json:"synchronized"` // it was compared with time servers
}

// How far a machine's clock may be from the claimant's own. Certificates that it issues
// begin, and end, by its clock.
const (
	ClockNear = 5 * time.Minute // beyond it, people should know
	ClockFar  = time.Hour       // beyond it, what is made is of no use once the clock is right
)

// clockText is how people read a time here.
const clockText = "2 January 2006, 15:04 UTC"

// String says the time, and what it rests on.
func (c Clock) String() string {
	if c.Synchronized {
		return c.Time.UTC().Format(clockText) + ", as its time servers do"
	}
	return c.Time.UTC().Format(clockText) + ", not compared with any time server"
}

// clockWait bounds a question to the keeper; the page is shown without its answer.
const clockWait = 2 * time.Second

// heard is what the door was told of the clock last. It asks again after a second: pages are
// asked for as often as somebody likes.
type heard struct {
	mu    sync.Mutex // guards what follows
	clock Clock
	at    time.Time // zero: never
}

// clock is the machine's present time. A keeper that does not answer vouches for nothing.
func (d *Door) clock(ctx context.Context) Clock {
	d.heard.mu.Lock()
	defer d.heard.mu.Unlock()
	now := time.Now()
	if since := now.Sub(d.heard.at); d.heard.at.IsZero() || since < 0 || since > time.Second {
		ctx, cancel := context.WithTimeout(ctx, clockWait)
		defer cancel()
		d.heard.clock, d.heard.at = Clock{Time: now}, now
		if r, err := d.ask(ctx, call{Kind: callClock}, nil); err == nil && r.Clock != nil {
			d.heard.clock = *r.Clock
		}
	}
	c := d.heard.clock
	c.Time = c.Time.Add(now.Sub(d.heard.at))
	return c
}

// clockSection asks the person whether the time is right where the machine cannot know.
func clockSection(c Clock, ask bool) section {
	s := section{Title: "The machine's clock", Name: "clock", Intro: fmt.Sprintf("This machine's clock says %s.", c)}
	if c.Synchronized {
		return s
	}
	s.More = "What is made now is valid from that time on: made by a wrong clock, it is of no use once the clock is right. If the time is wrong, set the clock of the hypervisor or the board and start the machine again, or let it reach a time server; then load this page again."
	if ask {
		s.Entries = []*entry{{Name: entryClock, Label: "The time is right", Kind: "check"}}
	}
	return s
}
