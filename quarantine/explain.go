package quarantine

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Explanation answers why a device is where it is (X7).
type Explanation struct {
	Record   Record    // as stored; its reasons are told anew in Decided
	Decided  Placement // what all known facts say now
	InForce  Placement // what is enforced: Decided, but no freer than what is recorded
	Pending  []Change  // tightenings the store has not taken in yet
	Enforced bool      // the data plane holds InForce
	Fresh    bool      // the gateway's freshness, without which nothing is routed, has not run out
	Problem  string    // last enforcement error, empty for none
}

// Explain tells everything about one device, found by ID or else by name; of several with
// one name, by that which is not revoked.
func (g *Gate) Explain(idOrName string) (Explanation, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, err := g.find(idOrName)
	if err != nil {
		return Explanation{}, err
	}
	now := g.now()
	x := Explanation{
		Record:   st.base(),
		Decided:  Place(g.facts(st.known(), now.Wall)),
		InForce:  g.inForce(st, now.Wall),
		Pending:  slices.Concat(st.pending, st.later),
		Enforced: g.planned && !g.dirty && st.problem == nil && st.applied == st.moves,
		Fresh:    g.fresh > now.Boot,
	}
	x.Record.Reasons = slices.Clone(x.Decided.Reasons)
	for _, err := range []error{st.problem, g.problem} {
		if err != nil {
			x.Problem = err.Error()
			break
		}
	}
	return x, nil
}

// find looks a device up. The caller holds mu.
func (g *Gate) find(idOrName string) (*state, error) {
	if g.settings.generation == 0 {
		return nil, ErrNotReady
	}
	st := g.index[ID(idOrName)]
	if st == nil {
		st = g.names.first(idOrName)
	}
	if st == nil || idOrName == "" {
		return nil, fmt.Errorf("%w: %q", ErrUnknownDevice, idOrName)
	}
	return st, nil
}

// Device returns one device by ID or else by name, as Explain finds it, as it stands now, with reasons. Tightenings that
// the store has not taken in yet are in it; Revision is that of the store.
func (g *Gate) Device(idOrName string) (Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, err := g.find(idOrName)
	if err != nil {
		return Record{}, err
	}
	return g.view(st, g.now().Wall), nil
}

// view is the device as it stands, with reasons. The caller holds mu.
func (g *Gate) view(st *state, now time.Time) Record {
	return st.known().Settle(g.inForce(st, now), now)
}

// Wait returns the device as it stands once its record is newer than revision after; at
// once if it is. It returns ErrUnknownDevice when the device goes, and the context's error.
func (g *Gate) Wait(ctx context.Context, id ID, after int64) (Record, error) {
	select {
	case <-g.loaded:
	case <-ctx.Done():
		return Record{}, fmt.Errorf("waiting for the store: %w", ctx.Err())
	}
	for {
		g.mu.Lock()
		st := g.index[id]
		if st == nil {
			g.mu.Unlock()
			return Record{}, fmt.Errorf("%w: %q", ErrUnknownDevice, id)
		}
		if st.rec.Revision > after {
			r := g.view(st, g.now().Wall)
			g.mu.Unlock()
			return r, nil
		}
		c := g.changed(id)
		g.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return Record{}, fmt.Errorf("waiting for device %s: %w", id, ctx.Err())
		}
	}
}

// Admit settles a record that is about to be stored for the first time, or anew, by the
// present settings: what an enrollment desk writes. A record without a seat is settled as
// if it had the first.
func (g *Gate) Admit(r Record) (Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settings.generation == 0 {
		return Record{}, ErrNotReady
	}
	now := g.now().Wall
	seated := r
	seated.Seat = max(r.Seat, 1)
	if seated.Key.IsZero() || seated.ID == "" {
		return Record{}, fmt.Errorf("%w: a record needs an ID and a WireGuard key", ErrMalformed)
	}
	return r.Settle(Place(g.facts(seated, now)), now), nil
}

// Status is the gate's health, for a status page.
type Status struct {
	Revision int64 // of the store, as far as it is known
	Devices  int
	Pending  int    // devices with tightenings the store has not taken in
	Planned  bool   // a complete plan is enforced
	Fresh    bool   // and fresh
	Problem  string // last error, empty for none
}

// Status returns the gate's health.
func (g *Gate) Status() Status {
	pending := 0
	for _, l := range g.glance(g.everyone()) {
		if len(l.pending) > 0 {
			pending++
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{Revision: g.revision, Devices: len(g.index), Pending: pending, Planned: g.planned && !g.dirty,
		Fresh: g.fresh > g.now().Boot}
	if g.problem != nil {
		s.Problem = g.problem.Error()
	}
	return s
}
