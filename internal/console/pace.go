package console

import (
	"errors"
	"sync"
	"time"

	"lazaret/quarantine"
)

// A device may report as often as its agent's schedule and a person at its keyboard need,
// and no oftener: every report costs the gateway a journal entry or a write, and one
// device must not hold up the demotion of another.
const (
	reportBurst = 10
	reportEvery = 3 * time.Second // one more each
	paceKeys    = 1 << 17         // devices remembered; beyond, the map starts over
)

var errTooMany = errors.New("this device reports too often")

// pace lets each device have one report under way, at a bounded rate.
type pace struct {
	now   func() time.Time
	burst float64

	mu   sync.Mutex
	each map[quarantine.ID]*allowance
}

type allowance struct {
	left float64
	at   time.Time
	busy bool
}

func newPace(now func() time.Time, burst float64) *pace {
	return &pace{now: now, burst: burst, each: map[quarantine.ID]*allowance{}}
}

// enter takes one report's worth, or errTooMany; done ends it.
func (p *pace) enter(id quarantine.ID) (done func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.each[id]
	if a == nil {
		if len(p.each) >= paceKeys {
			clear(p.each)
		}
		a = &allowance{left: p.burst, at: p.now()}
		p.each[id] = a
	}
	now := p.now()
	a.left = min(p.burst, a.left+now.Sub(a.at).Seconds()/reportEvery.Seconds())
	a.at = now
	if a.busy || a.left < 1 {
		return nil, errTooMany
	}
	a.left--
	a.busy = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		a.busy = false
	}, nil
}
