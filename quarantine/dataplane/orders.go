package dataplane

import (
	"errors"
	"fmt"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// move takes one entry. Whatever goes wrong, the device has no more afterwards than
// the mirror says.
func (p *Plane) move(e quarantine.Entry) error {
	if !p.planned {
		return fmt.Errorf("moving device %.128q: no plan yet: %w", e.Device, quarantine.ErrNotEnforced)
	}
	err := p.rules.check(e)
	old, known := p.mirror.held[e.Device]
	old.Device = e.Device
	if !known && len(p.mirror.held) >= 2*maxEntries {
		err = fmt.Errorf("%w: too many devices", ErrRefused)
	}
	var next held
	var stale error
	if err == nil {
		next, stale = admit(old, e, p.now(), true)
		err = p.mirror.clash(next)
	}
	if err == nil {
		err = p.enforce(old, next)
	}
	if err != nil && !errors.Is(err, quarantine.ErrPeer) {
		p.fail(e.Device)
		p.log.Error("a move failed", "device", e.Device, "error", err)
		return fmt.Errorf("moving device %.128q: %w", e.Device, err)
	}
	delete(p.failed, e.Device)
	p.applied = max(p.applied, e.Revision)
	if stale != nil {
		stale = fmt.Errorf("revision %d with tightening %d: %w", e.Revision, e.Tighten, stale)
	}
	if err = errors.Join(stale, err); err != nil {
		return fmt.Errorf("moving device %s: %w", e.Device, err)
	}
	return nil
}

// fail notes that the device is not as the control plane wants it; freshness ends
// until a later move of it succeeds, or a plan.
func (p *Plane) fail(id quarantine.ID) {
	if len(id) > maxID || len(p.failed) > maxFailed {
		id = "" // stands for all the others, until a plan
	}
	p.failed[id] = true
}

// enforce makes the steps from old to next: the table first, then the tunnel, both
// before it answers. What tightens is attempted whole, whichever part fails: the peers
// of next never allow more than its place in the table. quarantine.ErrPeer says that
// nothing is amiss but that the device lacks a peer.
func (p *Plane) enforce(old, next held) error {
	s := step(old, next)
	p.mirror.put(next)
	p.forget(without(old.addresses(), next.addresses()))
	err := p.applyTable(s)
	if err != nil {
		err = p.mend(err, s, old)
	}
	if err != nil && s.loosens {
		return err
	}
	behind := p.applyLink(next, s.peers)
	if err != nil && behind != nil {
		return fmt.Errorf("%w; %v", err, behind) // the table's error alone counts
	}
	if err != nil {
		return err
	}
	return behind
}

// mend deals with a table that refused s. A mere loosening leaves old in force, and
// the table is filled anew only if the kernel may hold a part of it. Everything else
// is brought about by filling.
func (p *Plane) mend(cause error, s steps, old held) error {
	p.log.Warn("the firewall table refused a step", "device", old.Device, "error", cause)
	if s.loosens {
		p.mirror.put(old)
		if !errors.Is(cause, firewall.ErrDoubt) {
			return cause
		}
		return errors.Join(cause, p.refill())
	}
	if err := p.refill(); err != nil {
		return errors.Join(cause, err)
	}
	return nil
}

func (p *Plane) applyTable(s steps) error {
	if s.empty() {
		return nil
	}
	return p.config.Table.Apply(s.table)
}

// refill makes the table hold what the mirror says, in one transaction; if it cannot,
// it shuts.
func (p *Plane) refill() error {
	e := p.mirror.elements(p.now())
	e.Fresh, e.Alive = p.fresh, p.alive
	err := p.config.Table.Fill(p.rules.Ruleset, e)
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("filling the firewall table: %w", err), p.shut())
}

// shut lets nothing pass until the next plan. If even that fails, freshness is not
// prolonged any more, and ends what is left.
func (p *Plane) shut() error {
	p.planned, p.fresh, p.alive = false, 0, 0
	err := p.config.Table.Fill(p.rules.Ruleset, firewall.Elements{})
	if err != nil {
		err = p.config.Table.Adopt(p.config.Host)
	}
	p.tell(Event{Kind: NeedPlan, Detail: "the firewall table could not be filled"})
	if err != nil {
		p.log.Error("could not empty the firewall table; what it holds ends with its freshness", "error", err)
		return fmt.Errorf("shutting: %w", err)
	}
	p.log.Error("shut: nothing passes until the next plan")
	return nil
}

const (
	day      = firewall.Deadline(24 * 3600 * 1e9)
	maxFresh = day
	maxAlive = 2 * day
)

// prolong takes a freshness.
func (p *Plane) prolong(f quarantine.Freshness) error {
	now := p.now()
	switch {
	case !p.planned || f.Control != p.control:
		return fmt.Errorf("refreshing: no complete plan of this control plane: %w", quarantine.ErrNotEnforced)
	case f.Revision > p.applied:
		return fmt.Errorf("refreshing: applied up to revision %d, not %d: %w", p.applied, f.Revision, quarantine.ErrNotEnforced)
	case len(p.failed) > 0:
		return fmt.Errorf("refreshing: %d moves failed: %w", len(p.failed), quarantine.ErrNotEnforced)
	case f.Fresh < 0 || f.Alive < 0 || f.Fresh > now+maxFresh || f.Alive > now+maxAlive:
		return fmt.Errorf("refreshing: %w: freshness of %d s and %d s", ErrRefused, (f.Fresh-now)/1e9, (f.Alive-now)/1e9)
	}
	if err := p.config.Table.Refresh(f.Fresh, f.Alive); err != nil {
		if !errors.Is(err, firewall.ErrDoubt) {
			return fmt.Errorf("refreshing: %w", err)
		}
		p.fresh, p.alive = min(p.fresh, f.Fresh), min(p.alive, f.Alive)
		return errors.Join(fmt.Errorf("refreshing: %w", err), p.refill())
	}
	p.fresh, p.alive = f.Fresh, f.Alive
	return nil
}

func (p *Plane) now() firewall.Deadline { return p.config.Clock().Boot }
