package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk"
)

// openData opens the data partition, and makes it at the first boot.
func (m *Machine) openData(ctx context.Context) error {
	c := disk.Config{
		Log: m.log, Changed: m.loader.Changed(), Protection: best(), WithESP: m.esp.with,
		Ask: func(ctx context.Context, prompt string, attempt int) ([]byte, error) {
			m.stage(appliance.Locked)
			text, err := m.screen.Ask(ctx, prompt, true)
			return []byte(text), err
		},
		Tell: func(recovery string) {
			m.keepRecovery(ctx, recovery, m.screen.AskAside)
		},
	}
	// Which disk the firmware started, and whether it checked what it started, is in its variables.
	if _, err := m.kernel.EFIVariables(); err != nil {
		m.log.Warn("reading the firmware's variables", "error", err)
	}
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		data, err := disk.Open(ctx, c)
		if err == nil {
			m.mu.Lock()
			m.state.data = data
			m.mu.Unlock()
			m.problem("disk", "")
			m.stage(appliance.Starting)
			return errors.Join(m.layOut(), m.startUpdates(appliance.MachineDir))
		}
		if ctx.Err() == nil && c.Protection == appliance.ByTPM && !settledError(err) {
			m.log.Error("the TPM cannot keep the key of the data partition", "error", err)
			m.problem("tpm", "The TPM does not work as it should; the key of the data partition is kept without it.")
			c.Protection, c.TPM = appliance.ByFile, "none"
			continue
		}
		if ctx.Err() != nil || !errors.Is(err, disk.ErrLocked) {
			return err
		}
		m.stage(appliance.Locked)
		m.problem("disk", "The data partition stays shut: "+err.Error()+".")
		select {
		case <-time.After(pause):
		case <-c.Changed: // what holds the key may have come
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settledError says whether an error of the disk's is about what is on it, where another
// protection would change nothing.
func settledError(err error) bool {
	for _, e := range []error{disk.ErrNoDisk, disk.ErrForeign, disk.ErrLocked, disk.ErrDamaged} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// best is the best protection this machine has without a person: a passphrase is for an
// administrator to set.
func best() appliance.Protection {
	if _, err := os.Stat("/dev/tpmrm0"); err == nil {
		return appliance.ByTPM
	}
	return appliance.ByFile
}

// layOut makes the directories of those who keep something there, and those of sockets.
func (m *Machine) layOut() error {
	for _, d := range []struct {
		path  string
		owner int
		mode  fs.FileMode
	}{
		{appliance.MachineDir, 0, 0o700}, {appliance.CrashDir, 0, 0o700}, {appliance.ConfigDir, 0, 0o755},
		{appliance.RunDir, appliance.PlaneUser, 0o755}, {appliance.MachineRun, 0, 0o755},
		{appliance.ControlState, appliance.ControlUser, 0o700}, {appliance.PlaneState, appliance.PlaneUser, 0o700},
	} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return fmt.Errorf("making %s: %w", d.path, err)
		}
		if err := errors.Join(os.Chmod(d.path, d.mode), os.Chown(d.path, d.owner, d.owner)); err != nil {
			return fmt.Errorf("making %s: %w", d.path, err)
		}
	}
	saved, err := m.kernel.SaveCrash(appliance.CrashDir)
	if err != nil {
		m.log.Warn("keeping what the kernel left when it died", "error", err)
	}
	if len(saved) > 0 {
		m.problem("crash", "The kernel died before this start; what it left is kept, see the log.")
		m.log.Error("the kernel died before this start", "kept", saved)
	}
	return nil
}

// claimedState says whether this machine is somebody's: a gateway whose configuration is
// there is whole (see daemon.Init). Where that cannot be told, it is not nobody's.
func claimedState() (bool, error) {
	_, err := os.Stat(appliance.ConfigPath)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return true, fmt.Errorf("looking whether this machine is somebody's: %w", err)
}

// isClaimed is claimedState for those who want to be careful with what is somebody's.
func isClaimed() bool {
	yes, _ := claimedState()
	return yes
}
