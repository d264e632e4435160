package machine

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"lazaret/appliance"
	"lazaret/appliance/update"
	"lazaret/internal/version"
)

// startUpdates reads what is known of updates in dir. Before the data partition is open that
// is nothing, and enough for going back to the version before.
func (m *Machine) startUpdates(dir string) error {
	keys, err := update.LoadKeys(update.KeysPath)
	if err != nil {
		return err
	}
	release, err := osRelease("/etc/os-release")
	if err != nil {
		return err
	}
	u, err := update.New(update.Config{
		WithESP: m.withESP, LookESP: m.lookESP, BootPath: m.bootPath, Startable: m.startable, Keys: keys, Version: version.Number, Architecture: runtime.GOARCH, Flavour: release["VARIANT_ID"],
		Dir: dir, State: []string{appliance.ControlState}, Log: m.log,
	})
	if err != nil {
		return err
	}
	if _, err := u.Trial(); err != nil { // for whoever is shown the slots
		m.log.Warn("reading the slots", "error", err)
	}
	m.show(func(st *state) { st.updates = u })
	return nil
}

// updates is what keeps slots.
func (m *Machine) updates() *update.Manager {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.updates
}

// onTrial says whether the boot loader counts the attempts at the slot that runs. It can be
// asked before the data partition is open.
func (m *Machine) onTrial() bool {
	text, err := m.bootPath()
	if err != nil {
		return false // the boot loader leaves none where it counts nothing
	}
	name, err := update.ParseBootPath(text)
	if err != nil {
		return false
	}
	slot, ok := update.ParseSlot(name)
	return ok && !slot.Blessed
}

// bootPath reads the variable in which the boot loader tells what it started.
func (m *Machine) bootPath() (text []byte, err error) {
	err = m.kernel.WithEFIVariables(func(dir string) error {
		text, err = os.ReadFile(filepath.Join(dir, update.BootPathVariable))
		return err
	})
	return text, err
}

// osRelease reads os-release(5).
func osRelease(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading what this system is: %w", err)
	}
	defer f.Close()
	out := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out, lines.Err()
}
