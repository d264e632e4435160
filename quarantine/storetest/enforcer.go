package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// Enforcer is a quarantine.Enforcer that keeps what it is told.
type Enforcer struct {
	mu        sync.Mutex
	hook      Hook
	planned   bool
	control   string
	revision  int64
	pools     []firewall.Pool
	entries   map[quarantine.ID]quarantine.Entry
	freshness quarantine.Freshness
	applies   int
	plans     int
	refreshes int
}

// NewEnforcer returns one that holds nothing.
func NewEnforcer() *Enforcer {
	return &Enforcer{entries: make(map[quarantine.ID]quarantine.Entry)}
}

// SetHook installs a hook; nil removes it.
func (e *Enforcer) SetHook(h Hook) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hook = h
}

func (e *Enforcer) step(ctx context.Context, step string, id quarantine.ID) error {
	e.mu.Lock()
	h := e.hook
	e.mu.Unlock()
	if h != nil {
		if err := h(ctx, step, id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Apply implements quarantine.Enforcer.
func (e *Enforcer) Apply(ctx context.Context, n quarantine.Entry) error {
	if err := e.step(ctx, "apply", n.Device); err != nil {
		return err
	}
	if err := e.apply(n); err != nil {
		return err
	}
	return e.step(ctx, "applied", n.Device)
}

func (e *Enforcer) apply(n quarantine.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.planned {
		return errors.New("no plan yet")
	}
	old := e.entries[n.Device]
	if n.Tighten < old.Tighten && Freedom(n) > Freedom(old) {
		return fmt.Errorf("entry of %s: %w", n.Device, quarantine.ErrOutdated)
	}
	n.Tighten = max(n.Tighten, old.Tighten)
	e.entries[n.Device] = n
	e.applies++
	return nil
}

// Freedom is how much an entry lets pass: 0 nothing, 1 quarantine, 2 routing.
func Freedom(e quarantine.Entry) int {
	switch {
	case e.Key.IsZero():
		return 0
	case len(e.Routed) > 0 && e.Mark != 0:
		return 2
	default:
		return 1
	}
}

// Replace implements quarantine.Enforcer.
func (e *Enforcer) Replace(ctx context.Context, p quarantine.Plan) error {
	if err := e.step(ctx, "replace", ""); err != nil {
		return err
	}
	e.mu.Lock()
	e.entries = make(map[quarantine.ID]quarantine.Entry, len(p.Entries))
	for _, n := range p.Entries {
		e.entries[n.Device] = n
	}
	if p.Control != e.control {
		e.freshness = quarantine.Freshness{}
	}
	e.planned, e.control, e.revision, e.pools = true, p.Control, p.Revision, p.Pools
	e.plans++
	e.mu.Unlock()
	return e.step(ctx, "replaced", "")
}

// Refresh implements quarantine.Enforcer.
func (e *Enforcer) Refresh(ctx context.Context, f quarantine.Freshness) error {
	if err := e.step(ctx, "refresh", ""); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.planned || f.Control != e.control || f.Revision > e.revision {
		return errors.New("no complete plan of this control plane at that revision")
	}
	e.freshness = f
	e.refreshes++
	return nil
}

// Restart forgets everything, as a data plane that was killed.
func (e *Enforcer) Restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.planned, e.control, e.revision = false, "", 0
	e.entries, e.freshness = make(map[quarantine.ID]quarantine.Entry), quarantine.Freshness{}
}

// Entry is what it holds of a device; the zero Entry for nothing.
func (e *Enforcer) Entry(id quarantine.ID) quarantine.Entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.entries[id]
	if n.Key.IsZero() {
		return quarantine.Entry{}
	}
	return n
}

// Entries is all it holds that has a peer.
func (e *Enforcer) Entries() map[quarantine.ID]quarantine.Entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := maps.Clone(e.entries)
	maps.DeleteFunc(all, func(_ quarantine.ID, n quarantine.Entry) bool { return n.Key.IsZero() })
	return all
}

// Routed reports whether a device's packets would be routed at a moment of boot time.
func (e *Enforcer) Routed(id quarantine.ID, at firewall.Deadline) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.entries[id]
	return Freedom(n) == 2 && n.Until > at && e.freshness.Fresh > at
}

// Freshness is the last one accepted.
func (e *Enforcer) Freshness() quarantine.Freshness {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.freshness
}

// Counts returns how many moves, plans and refreshes were accepted.
func (e *Enforcer) Counts() (applies, plans, refreshes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.applies, e.plans, e.refreshes
}
