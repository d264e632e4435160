package quarantine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lazaret/firewall"
)

// seize waits for the right to talk to the enforcer.
func (g *Gate) seize(ctx context.Context) error {
	select {
	case g.applying <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the data plane: %w", ctx.Err())
	}
}

// enforce makes the data plane hold what is in force for one device now. It goes on when
// its caller is gone; on failure a complete plan follows.
func (g *Gate) enforce(ctx context.Context, id ID) error {
	g.mu.Lock()
	st := g.index[id]
	if st == nil {
		g.mu.Unlock()
		return nil // whoever dropped it removes it
	}
	if t := st.turn; t != nil {
		g.mu.Unlock()
		<-t.done
		return t.err
	}
	t := &turn{done: make(chan struct{})}
	st.turn = t
	g.mu.Unlock()
	t.err = g.takeTurn(ctx, st)
	close(t.done)
	return t.err
}

// turn is an apply of one device that waits for the data plane. It reads the device when
// it begins, so that whoever needs one until then shares it: however many changes of a
// device arrive at once, others wait for two applies of it at most.
type turn struct {
	done chan struct{} // closed at its end, after err is set
	err  error
}

func (g *Gate) takeTurn(ctx context.Context, st *state) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Timeout)
	defer cancel()
	err := g.seize(ctx)
	g.mu.Lock()
	st.turn = nil // what changes from here on needs another
	g.mu.Unlock()
	if err == nil {
		err = g.applyNow(ctx, st)
		<-g.applying
	}
	if err == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.alone(st, err) {
		st.problem = err
		g.dirty, g.problem = true, err
		signal(g.unplanned)
	}
	return fmt.Errorf("%w: %w", ErrNotEnforced, err)
}

// alone notes an Enforcer's word that concerns this device and no other, and reports
// whether err is one; a complete plan would not mend it. The caller holds mu.
func (g *Gate) alone(st *state, err error) bool {
	if kept, ok := errors.AsType[*Kept](err); ok {
		st.kept = max(st.kept, kept.Tighten)
	} else if !errors.Is(err, ErrPeer) {
		return false
	}
	st.problem = err
	if errors.Is(err, ErrPeer) {
		g.lack(st)
	}
	return true
}

// applyNow applies the device's entry as it is at this moment, so that entries reach the
// data plane in the order of the facts, whoever calls.
func (g *Gate) applyNow(ctx context.Context, st *state) error {
	g.mu.Lock()
	if st.nth < 0 {
		g.mu.Unlock()
		return nil // whoever dropped it removes it
	}
	if !g.planned {
		g.mu.Unlock()
		return errors.New("the data plane has no plan yet")
	}
	e, fault := g.entry(st, g.now())
	g.touch(st)
	moves := st.moves
	g.mu.Unlock()
	if err := g.Enforcer.Apply(ctx, e); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st.problem, st.applied = fault, max(st.applied, moves)
	if e.Key.IsZero() {
		g.freed()
	}
	return nil
}

// enforced reports whether the data plane surely holds what is in force of the device: the
// last plan or move that it took was made after all that is known, and under the present
// settings. The caller holds mu.
func (g *Gate) enforced(st *state) bool {
	return g.planned && st.applied == st.moves && st.generation == g.settings.generation
}

// confirm says where a device stands of which somebody says nothing new. That is no answer
// before it is enforced: what is on its way is waited for, and what failed is on its way
// again without the caller, who is told so.
func (g *Gate) confirm(ctx context.Context, id ID) (Placement, error) {
	var failed error
	g.mu.Lock()
	st := g.index[id]
	enforced := st == nil || g.enforced(st)
	if !enforced {
		failed = st.problem
	}
	g.mu.Unlock()
	switch {
	case enforced:
		return g.standing(id, nil)
	case failed != nil:
		return g.standing(id, fmt.Errorf("%w: %w", ErrNotEnforced, failed))
	default:
		return g.standing(id, g.enforce(ctx, id))
	}
}

// standing says where a device stands, with err, after something was applied.
func (g *Gate) standing(id ID, err error) (Placement, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.index[id]
	if st == nil {
		return Placement{}, errors.Join(err, ErrUnknownDevice)
	}
	return g.inForce(st, g.now().Wall), err
}

// remove takes a device that is no more out of the data plane.
func (g *Gate) remove(ctx context.Context, last Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Timeout)
	defer cancel()
	err := g.seize(ctx)
	if err == nil {
		err = g.Enforcer.Apply(ctx, last)
		<-g.applying
	}
	g.mu.Lock()
	g.freed()
	g.mu.Unlock()
	if err != nil && !errors.Is(err, ErrPeer) {
		g.needPlan(fmt.Errorf("removing device %s: %w", last.Device, err))
	}
}

// needPlan notes that the data plane may hold something else than the index.
func (g *Gate) needPlan(err error) {
	g.mu.Lock()
	g.dirty, g.problem = true, err
	g.mu.Unlock()
	signal(g.unplanned)
}

// plans sends a complete plan whenever one is needed, until it is taken.
func (g *Gate) plans(ctx context.Context) {
	var wait backoff
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.unplanned:
		case <-g.reconnected:
		}
		err := g.plan(ctx)
		for err != nil && ctx.Err() == nil {
			g.Log.Warn("the data plane has no complete plan", "error", err)
			wait.sleep(ctx, g.reconnected)
			err = g.plan(ctx)
		}
		wait.reset()
	}
}

// plan sends one complete plan and tells the store.
func (g *Gate) plan(ctx context.Context) error {
	select {
	case <-g.loaded:
	default:
		return ErrNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout*g.Timeout)
	defer cancel()
	p, err := g.replace(ctx)
	if err != nil {
		g.mu.Lock()
		g.problem = err
		g.mu.Unlock()
		return err
	}
	g.allApplied()
	signal(g.unfresh)
	if err := g.Store.Confirm(ctx, p.Revision); err != nil {
		g.Log.Warn("the store does not know of the applied plan", "revision", p.Revision, "error", err)
	}
	return nil
}

// freshen prolongs freshness well before it runs out, and soon after each plan.
func (g *Gate) freshen(ctx context.Context) {
	period := min(g.Freshness, g.QuarantineLife) / 3
	next := period
	for {
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-g.unfresh:
		case <-t.C:
		}
		t.Stop()
		next = period
		if err := g.refresh(ctx); err != nil && ctx.Err() == nil {
			g.Log.Warn("freshness is not prolonged", "error", err)
			next = min(period/4, time.Second)
		}
	}
}

// refresh gives the data plane the control plane's word that it was current. Deadlines
// count from before the store was asked: what is said is true of that moment.
func (g *Gate) refresh(ctx context.Context) error {
	boot := firewall.Deadline(g.Clock.Boot())
	ctx, cancel := context.WithTimeout(ctx, min(g.Timeout, g.Freshness))
	defer cancel()
	revision, err := g.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("asking the store for its revision: %w", err)
	}
	if err := g.caughtUp(ctx, revision); err != nil {
		return err
	}
	if err := g.seize(ctx); err != nil {
		return err
	}
	defer func() { <-g.applying }()
	g.mu.Lock()
	f := Freshness{Control: g.Control, Revision: g.plannedAt,
		Fresh: boot + firewall.Deadline(g.Freshness), Alive: boot + firewall.Deadline(g.QuarantineLife)}
	unplanned := !g.planned || g.dirty || g.settings.fault != nil
	g.mu.Unlock()
	if unplanned {
		return errors.New("the data plane has no complete plan")
	}
	if err := g.Enforcer.Refresh(ctx, f); err != nil {
		g.needPlan(fmt.Errorf("refreshing: %w", err))
		return fmt.Errorf("refreshing: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fresh = f.Fresh
	select {
	case <-g.ready:
	default:
		close(g.ready)
	}
	return nil
}

// caughtUp waits until the index holds, and the data plane was given, everything up to a
// revision of the store.
func (g *Gate) caughtUp(ctx context.Context, revision int64) error {
	for {
		g.mu.Lock()
		at, seen := g.revision, g.seen
		g.mu.Unlock()
		if at >= revision {
			return nil
		}
		select {
		case <-seen:
		case <-ctx.Done():
			return fmt.Errorf("waiting for revision %d of the store, at %d: %w", revision, at, ctx.Err())
		}
	}
}
