package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"lazaret/appliance/seed"
)

// lateSeed is a seed whose disk came while the machine was offered without one: some take
// their time, and others are plugged in by a person.
type lateSeed struct{ seed.Seed }

// Error implements error.
func (*lateSeed) Error() string { return "a seed disk came" }

// seedWatch lets either a late seed or a claim have the machine, whichever is first.
type seedWatch struct {
	mu          sync.Mutex
	begun, came bool
}

// begin is called before a claim is carried out.
func (w *seedWatch) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.came {
		return errors.New("a seed disk came; the claim begins anew")
	}
	w.begun = true
	return nil
}

// take is called for a seed; it is false once a claim was begun.
func (w *seedWatch) take() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.came = !w.begun
	return w.came
}

// awaitSeed looks for a seed whenever devices came, and ends the offer when there is one.
func (m *Machine) awaitSeed(ctx context.Context, devices <-chan struct{}, w *seedWatch, stop context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-devices:
		}
		s := m.applySeed()
		if s.Instance == "" {
			continue
		}
		if w.take() {
			stop(&lateSeed{s})
		} else {
			m.log.Warn("a seed disk came too late: the claim has begun", "instance", s.Instance)
		}
		return
	}
}

// useSeedNetwork connects the machine as a late seed says.
func (m *Machine) useSeedNetwork(ctx context.Context, s seed.Seed) {
	if s.Network == nil {
		return
	}
	if err := m.network.Set(ctx, *s.Network); err != nil {
		m.problem("network", fmt.Sprintf("The seed's network could not be set up: %v.", err))
	}
}
