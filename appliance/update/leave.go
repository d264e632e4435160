package update

import (
	"context"
	"fmt"
	"slices"

	"lazaret/appliance"
)

// staging is a bundle that comes in.
type staging struct {
	stop  context.CancelCauseFunc
	ended chan struct{}
}

// errLeaving ends a bundle that comes in while its machine goes back to another version.
var errLeaving = fmt.Errorf("%w: this machine goes back to the version before", appliance.ErrBusy)

// beginStaging notes that a bundle comes in, of which there is one at a time. ctx ends when
// the version that runs is left.
func (m *Manager) beginStaging(ctx context.Context) (context.Context, func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaving > 0 {
		return nil, nil, errLeaving
	}
	if m.staging != nil {
		return nil, nil, fmt.Errorf("%w: an update is under way", appliance.ErrBusy)
	}
	ctx, stop := context.WithCancelCause(ctx)
	s := &staging{stop, make(chan struct{})}
	m.staging = s
	return ctx, func() {
		stop(nil)
		m.mu.Lock()
		m.staging = nil
		m.mu.Unlock()
		close(s.ended)
	}, nil
}

// endStaging stops a bundle that comes in, waits until nothing of it is written any more,
// and keeps others away until the function that it returns is called.
func (m *Manager) endStaging() func() {
	m.mu.Lock()
	m.leaving++
	s := m.staging
	m.mu.Unlock()
	if s != nil {
		s.stop(errLeaving)
		<-s.ended
	}
	return func() {
		m.mu.Lock()
		m.leaving--
		m.mu.Unlock()
	}
}

// GiveUp leaves the slot that runs because it was not found well, if there is a blessed one
// to go back to, and ends an update that comes in. The caller restarts the machine then.
// It needs no data partition that takes writes: the slot's name is what counts.
func (m *Manager) GiveUp(why string) error {
	return m.leave(false, func(esp ESP, l layout, to string) error {
		if err := markBad(esp, l, m.cfg.Version); err != nil {
			return err
		}
		m.tryChange(func(r *record) {
			r.say(m.cfg.Now().UTC(), true, "version %s was left for version %s: %s", m.cfg.Version, to, why)
			r.Failed, r.Pending, r.Left = m.cfg.Version, nil, ""
		})
		return nil
	})
}

// Rollback leaves the slot that runs because a person says so, ends an update that comes in,
// and returns the version that the next start brings. The caller restarts the machine then.
func (m *Manager) Rollback() (to string, err error) {
	err = m.leave(true, func(esp ESP, l layout, other string) error {
		to = other
		// First, or a loss of power in between would have the version installed again by itself.
		m.tryChange(func(r *record) { r.Left, r.Failed, r.Pending = m.cfg.Version, m.cfg.Version, nil })
		return markBad(esp, l, m.cfg.Version)
	})
	return to, err
}

// tryChange alters the record if it can: what is done on the EFI system partition counts.
func (m *Manager) tryChange(f func(r *record)) {
	if err := m.change(f); err != nil {
		m.cfg.Log.Error("the record of updates does not say that this version was left", "version", m.cfg.Version, "err", err)
	}
}

// leave has the slot that runs marked as bad, if there is another to go to.
func (m *Manager) leave(asked bool, mark func(esp ESP, l layout, to string) error) error {
	defer m.endStaging()()
	return m.alter(func(esp ESP) error {
		l, err := look(esp, m.cfg.Version)
		if err != nil {
			return err
		}
		runs, ok := l.booted()
		i := slices.IndexFunc(l.slots, func(s appliance.Slot) bool { return s.Blessed && s.Version != m.cfg.Version })
		if !ok || i < 0 {
			return refused("there is no other version on this machine that was found well")
		}
		other, rec := l.slots[i], m.known()
		if schema, ok := rec.schemaOf(other.Version); asked && ok && schema < rec.Schema && !m.hasSnapshot(schema) {
			return refused("version %s reads data of schema %d, and they are of %d now", other.Version, schema, rec.Schema)
		}
		var staged []string
		for _, s := range l.slots {
			if s.Version != runs.Version && !s.Blessed && s.Left > 0 {
				staged = append(staged, l.files[s.Version]...)
			}
		}
		if err := remove(esp, staged); err != nil {
			return err
		}
		return mark(esp, l, other.Version)
	})
}

// markBad gives all slots of a version names that the boot loader takes last.
func markBad(esp ESP, l layout, version string) error {
	n := 0
	for _, s := range l.slots {
		if s.Version == version {
			n = max(n, s.Tried)
		}
	}
	for _, s := range l.slots {
		if s.Version != version || !s.Blessed && s.Left == 0 {
			continue
		}
		n++
		if err := esp.Rename(s.File, countedName(version, 0, n)); err != nil {
			return fmt.Errorf("leaving version %s: %w", version, err)
		}
	}
	return esp.Sync()
}
