package machine

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/update"
)

// espMount is the one mount of the EFI system partition, for all who keep something there:
// slots, and the key file of the data partition. Those who change something share it, so that
// nobody waits for a bundle that comes in; who looks while nobody does has it mounted
// read-only. The zero value is ready.
type espMount struct {
	mu     sync.Mutex
	users  int    // of a mount that takes writes
	device string // that they use

	mount   func(device string, flags uintptr) error // tests bring their own
	unmount func() error
}

// with runs do with the directory where the partition is mounted.
func (e *espMount) with(device string, change bool, do func(dir string) error) (err error) {
	e.mu.Lock()
	switch {
	case e.users > 0 && e.device != device:
		e.mu.Unlock()
		return fmt.Errorf("mounting the EFI system partition %s: %s is mounted", device, e.device)
	case e.users > 0:
	case !change:
		defer e.mu.Unlock() // others wait for as long as a look takes
		if err := e.attach(device, unix.MS_RDONLY); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, e.detach()) }()
		return do(appliance.ESPDir)
	default:
		if err := e.attach(device, 0); err != nil {
			e.mu.Unlock()
			return err
		}
		e.device = device
	}
	e.users++
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.users--; e.users == 0 {
			err = errors.Join(err, e.detach())
		}
	}()
	return do(appliance.ESPDir)
}

func (e *espMount) attach(device string, flags uintptr) error {
	mount := e.mount
	if mount == nil {
		mount = func(device string, flags uintptr) error {
			const options = "umask=0077,shortname=mixed,utf8=1,errors=continue" // read-only after a fault that a loss of power left would keep updates out for ever
			return unix.Mount(device, appliance.ESPDir, "vfat", flags|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, options)
		}
	}
	if err := mount(device, flags); err != nil {
		return fmt.Errorf("mounting the EFI system partition %s: %w", device, err)
	}
	return nil
}

func (e *espMount) detach() error {
	unmount := e.unmount
	if unmount == nil {
		unmount = func() error { return unix.Unmount(appliance.ESPDir, 0) }
	}
	if err := unmount(); err != nil {
		return fmt.Errorf("unmounting the EFI system partition: %w", err)
	}
	return nil
}

// withESP runs do with the slots on the EFI system partition; lookESP, too, for those who
// change nothing.
func (m *Machine) withESP(do func(update.ESP) error) error { return m.slotsOn(true, do) }
func (m *Machine) lookESP(do func(update.ESP) error) error { return m.slotsOn(false, do) }

func (m *Machine) slotsOn(change bool, do func(update.ESP) error) error {
	device, err := espDevice("/sys", isMounted(appliance.DataDir))
	if err != nil {
		return err
	}
	return m.esp.with(device, change, func(mounted string) error {
		dir, err := update.OpenDir(mounted)
		if err != nil {
			return err
		}
		return errors.Join(do(dir), dir.Close())
	})
}
