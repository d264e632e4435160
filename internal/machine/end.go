package machine

import (
	"fmt"
	"path/filepath"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/boot"
)

// endWithin is how long the watchdog lets the machine end in order.
const endWithin = time.Minute

// end ends all processes, closes the data partition and the machine. The table of the
// firewall stays until the kernel is gone.
func (m *Machine) end(how boot.Ending) error {
	if m.dog != nil {
		if err := m.dog.Last(endWithin); err != nil {
			m.log.Warn("giving the watchdog its last time", "error", err)
		}
	}
	if m.stands.Load() {
		if err := m.parts.Close(); err != nil {
			m.log.Warn("ending processes", "error", err)
		}
	}
	m.mu.Lock()
	data := m.state.data
	m.mu.Unlock()
	if data != nil {
		if err := m.ring.Save(filepath.Join(appliance.MachineDir, "last.log")); err != nil {
			m.log.Warn("keeping the log", "error", err)
		}
		if err := data.Close(); err != nil {
			m.log.Warn("closing the data partition", "error", err)
		}
	}
	return fmt.Errorf("ending the machine: the kernel did not: %w", m.kernel.End(how))
}
