package machine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
)

// far is from which step on the control plane starts anew: the certificates that it made by
// another clock are not yet valid, or over.
const far = time.Hour

// setTime sets the clock to what somebody typed at the screen.
func (m *Machine) setTime(_ context.Context, at time.Time) error {
	return m.stepped(func() error {
		if err := m.clock.Set(at); err != nil {
			return fmt.Errorf("%w: %w", machine.ErrRefused, err)
		}
		return nil
	}, m.clock.Now)
}

// acceptTime is AcceptTime for who stands before the screen.
func (m *Machine) acceptTime(ctx context.Context) error {
	return m.stepped(func() error { return m.AcceptTime(ctx) }, m.clock.Now)
}

// stepped does what may set the clock that now reads, and has a control plane that failed, or
// that knew another time, start anew.
func (m *Machine) stepped(do func() error, now func() time.Time) error {
	defer m.refresh()
	begun, before := time.Now(), now()
	if err := do(); err != nil {
		return err
	}
	parts := m.parts.Parts()
	step := now().Sub(before) - time.Since(begun)
	if !failing(parts) && (step.Abs() < far || !slices.ContainsFunc(parts, func(p appliance.Part) bool { return p.Name == control })) {
		return nil
	}
	m.log.Warn("the control plane starts anew, since the clock was set", "step", step.Round(time.Second).String())
	return m.parts.Restart(control)
}

// failing says whether the control plane ended and is not ready again.
func failing(parts []appliance.Part) bool {
	for _, p := range parts {
		if p.Name == control {
			return !p.Ready && p.Restarts > 0
		}
	}
	return false
}

// clockProblem is a sentence on a clock that may be what keeps the control plane from
// running; empty: there is nothing to say. It says the day alone, since what changes all the
// time is printed all the time.
func clockProblem(st appliance.Status, doubtful bool, now time.Time) string {
	if st.Stage != appliance.Running || st.Clock.Synchronized || !doubtful || !failing(st.Parts) {
		return ""
	}
	return "The clock may be wrong: it says " + now.UTC().Format(time.DateOnly) + ", no time servers agree, and the control plane does not run. If that is not today, choose t."
}
