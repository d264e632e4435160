package dataplane

import (
	"fmt"

	"lazaret/quarantine"
)

// assembly is a plan on its way in. Nothing of it counts before its commit, where it
// is answered, also when an earlier part was refused.
type assembly struct {
	id     uint64
	count  int
	plan   quarantine.Plan
	broken error
}

// assemble takes m into the plan that comes in, and returns that plan; nil for a
// message that is no part of one. A new beginning drops what went before.
func assemble(plan *assembly, m message) (*assembly, error) {
	switch m.Kind {
	case begin:
		return newAssembly(m), nil
	case entries, commit:
		if plan == nil || plan.id != m.ID {
			return nil, fmt.Errorf("%w: a part of no plan", ErrRefused)
		}
		plan.add(m.Entries)
		return plan, nil
	default:
		return nil, nil
	}
}

func newAssembly(m message) *assembly {
	a := &assembly{id: m.ID}
	switch {
	case m.Head == nil:
		a.broken = fmt.Errorf("%w: a plan without a head", ErrRefused)
	case m.Head.Count < 0 || m.Head.Count > maxEntries:
		a.broken = fmt.Errorf("%w: a plan of %d entries, at most %d", ErrRefused, m.Head.Count, maxEntries)
	default:
		a.count = m.Head.Count
		a.plan = quarantine.Plan{Control: m.Head.Control, Revision: m.Head.Revision, Pools: m.Head.Pools, Gateway: m.Head.Gateway}
	}
	return a
}

func (a *assembly) add(e []quarantine.Entry) {
	if a.broken == nil && len(a.plan.Entries)+len(e) > a.count {
		a.broken = fmt.Errorf("%w: more entries than the %d announced", ErrRefused, a.count)
		a.plan.Entries = nil
	}
	if a.broken == nil {
		a.plan.Entries = append(a.plan.Entries, e...)
	}
}

func (a *assembly) whole() (quarantine.Plan, error) {
	if a.broken == nil && len(a.plan.Entries) != a.count {
		a.broken = fmt.Errorf("%w: %d entries of the %d announced", ErrRefused, len(a.plan.Entries), a.count)
	}
	return a.plan, a.broken
}
