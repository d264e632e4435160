package dataplane

import (
	"fmt"
	"maps"

	"lazaret/quarantine"
)

// replace makes the table and the tunnel hold plan and nothing else. A plan with a
// fault is refused whole, and changes nothing. One whose peers the tunnel does not all
// take is taken, and p.lacking names the devices without; p.kept names those that it would
// loosen by outdated entries, and which stay as they are.
func (p *Plane) replace(plan quarantine.Plan) error {
	if plan.Control == p.control && plan.Revision < p.planAt {
		return fmt.Errorf("taking plan %d: a later one is applied: %w", plan.Revision, quarantine.ErrOutdated)
	}
	if p.lost {
		return fmt.Errorf("taking plan %d: the tunnel is lost: %w", plan.Revision, quarantine.ErrNotEnforced)
	}
	r, err := underPlan(p.config.Host, plan)
	if err != nil {
		return fmt.Errorf("taking plan %d: %w", plan.Revision, err)
	}
	next, kept, err := p.project(r, plan)
	if err != nil {
		return fmt.Errorf("taking plan %d: %w", plan.Revision, err)
	}
	if p.config.Flows != nil {
		p.forget(left(p.mirror, next))
	}
	p.rules, p.mirror, p.kept = r, next, kept
	if err := p.refill(); err != nil { // the old table's rules may be gone: there is no way back but shut
		return fmt.Errorf("taking plan %d: %w", plan.Revision, err)
	}
	p.control, p.planAt, p.applied, p.planned = plan.Control, plan.Revision, plan.Revision, true
	clear(p.failed)
	if err := p.raise(); err != nil {
		p.planned = p.weigh(err) == nil
		return fmt.Errorf("taking plan %d: %w", plan.Revision, err)
	}
	p.reportUnmet()
	p.log.Info("plan applied", "control", plan.Control, "revision", plan.Revision, "devices", len(plan.Entries))
	for id, h := range p.mirror.held {
		if h.moved { // told again: the event may have met no listener
			p.tell(Event{Kind: Rotated, Device: id, Key: h.Next})
		}
	}
	return nil
}

// raise brings up what lies behind the table: addresses, peers, and forwarding last.
// Peers that are merely missing are noted and stop nothing.
func (p *Plane) raise() error {
	if err := p.link.SetAddresses(p.rules.own); err != nil {
		return fmt.Errorf("setting the tunnel's addresses: %w", err)
	}
	clear(p.lacking)
	err := p.syncPeers("")
	if err != nil && !onlyRefused(err) {
		p.log.Warn("setting peers failed; comparing all of them", "error", err)
		err = p.syncPeers("")
	}
	if err != nil {
		if err := p.weigh(err); err != nil {
			return err
		}
	}
	if p.forward {
		return nil
	}
	if err := p.config.Forward(); err != nil {
		return fmt.Errorf("switching forwarding on: %w", err)
	}
	p.forward = true
	return nil
}

// project returns what will be held under plan, and the devices that get less than the
// plan says, since it lacks their last tightening. A device that the plan leaves out
// has nothing, and keeps its counters.
func (p *Plane) project(r rules, plan quarantine.Plan) (*mirror, map[quarantine.ID]error, error) {
	next := newMirror(max(len(plan.Entries), len(p.mirror.held)))
	now, kept := p.now(), make(map[quarantine.ID]error)
	for _, e := range plan.Entries {
		if err := r.check(e); err != nil {
			return nil, nil, err
		}
		if _, twice := next.held[e.Device]; twice {
			return nil, nil, fmt.Errorf("%w: device %s stands in it twice", ErrRefused, e.Device)
		}
		h, stale := admit(p.mirror.held[e.Device], e, now, plan.Control == p.control)
		if stale != nil {
			kept[e.Device] = fmt.Errorf("revision %d with tightening %d: %w", e.Revision, e.Tighten, stale)
		}
		if err := next.clash(h); err != nil {
			return nil, nil, fmt.Errorf("device %s: %w", e.Device, err)
		}
		next.put(h)
	}
	for id := range maps.Keys(p.mirror.held) {
		if _, there := next.held[id]; !there && len(next.held) < 2*maxEntries {
			old := p.mirror.held[id]
			next.put(held{Entry: quarantine.Entry{Device: id, Revision: old.Revision, Tighten: old.Tighten}})
		}
	}
	return next, kept, nil
}
