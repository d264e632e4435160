package machine

import (
	"context"
	"errors"
	"sync"

	"lazaret/appliance/seed"
)

// errSeedCame ends an offer: a seed's disk came while the machine was offered without one.
// Some take their time, and others are plugged in by a person.
var errSeedCame = errors.New("a seed disk came")

// turns lets either a seed that comes or a claim have the machine, whichever is first. A seed
// that is second waits: it is used once the claim has come to nothing.
type turns struct {
	mu    sync.Mutex
	came  *seed.Seed              // waits to be used
	begun bool                    // a claim is carried out, or its answer waits
	stop  context.CancelCauseFunc // ends the offer that stands; nil: none does
}

// open is called as an offer begins, with what ends it.
func (t *turns) open(stop context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop, t.begun = stop, false
	t.settle()
}

// settle ends the offer that stands if a seed waits and no claim was begun; mu is held.
func (t *turns) settle() {
	if t.came != nil && !t.begun && t.stop != nil {
		t.stop(errSeedCame)
	}
}

// over is called when an offer has ended; ok says that a seed is there for the next.
func (t *turns) over() (s seed.Seed, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop = nil
	if t.came == nil {
		return seed.Seed{}, false
	}
	s, t.came = *t.came, nil
	return s, true
}

// begin is called before a claim is carried out.
func (t *turns) begin() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.came != nil {
		return errors.New("a seed disk came; the claim begins anew")
	}
	t.begun = true
	return nil
}

// failed is called when a claim could not be carried out.
func (t *turns) failed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = false
	t.settle()
}

// arrive is called with a seed that came; it is false where a claim was begun, and the seed waits.
func (t *turns) arrive(s seed.Seed) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came = &s
	t.settle()
	return !t.begun
}

// watchSeeds looks for a seed, at once and whenever devices came, until there is one or ctx
// ends. devices must tell of all that came since it was called.
func (m *Machine) watchSeeds(ctx context.Context, devices <-chan struct{}, find func() seed.Seed, t *turns) {
	for ctx.Err() == nil {
		if s := find(); s.Instance != "" {
			if !t.arrive(s) {
				m.log.Warn("a seed disk came too late: it waits for how the claim ends, which has begun", "instance", s.Instance)
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-devices:
		}
	}
}
