package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

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
		WithESP: m.withESP, BootPath: m.bootPath, Keys: keys, Version: version.Number, Architecture: runtime.GOARCH, Flavour: release["VARIANT_ID"],
		Dir: dir, State: []string{appliance.ControlState}, Log: m.log,
	})
	if err != nil {
		return err
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

// lookAtSlots reads what there is to start, for whoever is shown it.
func (m *Machine) lookAtSlots() error {
	all, err := m.updates().Slots()
	if err == nil {
		m.show(func(st *state) { st.slots = all })
	}
	return err
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

// withESP mounts the EFI system partition while do runs.
func (m *Machine) withESP(do func(update.ESP) error) (err error) {
	m.esp.Lock()
	defer m.esp.Unlock()
	device, err := partition(appliance.ESPName)
	if err != nil {
		return err
	}
	const options = "umask=0077,shortname=mixed,utf8=1,errors=continue" // read-only after a fault that a loss of power left would keep updates out for ever
	if err := unix.Mount(device, appliance.ESPDir, "vfat", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mounting the EFI system partition %s: %w", device, err)
	}
	defer func() {
		if e := unix.Unmount(appliance.ESPDir, 0); e != nil {
			err = errors.Join(err, fmt.Errorf("unmounting the EFI system partition: %w", e))
		}
	}()
	dir, err := update.OpenDir(appliance.ESPDir)
	if err != nil {
		return err
	}
	return errors.Join(do(dir), dir.Close())
}

// partition is the block device of the partition with this name. The disk package chose the
// disk with the same names, and refused where two have them.
func partition(name string) (string, error) {
	list, err := filepath.Glob("/sys/class/block/*/uevent")
	if err != nil {
		return "", err
	}
	for _, p := range list {
		text, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if strings.Contains("\n"+string(text), "\nPARTNAME="+name+"\n") {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(p))), nil
		}
	}
	return "", fmt.Errorf("no partition is called %s: %w", name, fs.ErrNotExist)
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
