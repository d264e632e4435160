package machine

import (
	"context"
	"fmt"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
)

// setTime sets the clock to what somebody typed at the screen, and has a control plane that
// did not run try again at once.
func (m *Machine) setTime(_ context.Context, at time.Time) error {
	defer m.refresh()
	if err := m.clock.Set(at); err != nil {
		return fmt.Errorf("%w: %w", machine.ErrRefused, err)
	}
	if failing(m.parts.Parts()) {
		return m.parts.Restart(control)
	}
	return nil
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
