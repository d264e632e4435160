package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/disk"
	"lazaret/appliance/machine"
	"lazaret/appliance/ring"
	"lazaret/appliance/update"
	"lazaret/internal/version"
)

var _ machine.Host = (*Machine)(nil)

// listen opens the socket at which the control plane asks for the machine.
func (m *Machine) listen(ctx context.Context) error {
	if err := os.Remove(appliance.MachineSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("opening the machine's socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: appliance.MachineSocket, Net: "unix"})
	if err == nil {
		err = errors.Join(os.Chown(appliance.MachineSocket, appliance.ControlUser, appliance.ControlUser), os.Chmod(appliance.MachineSocket, 0o600))
	}
	if err != nil {
		return fmt.Errorf("opening the machine's socket: %w", err)
	}
	m.keep(ctx, "socket", func(ctx context.Context) error {
		return machine.Serve(ctx, l, m, []uint32{appliance.ControlUser}, m.log)
	})
	return nil
}

// Status implements machine.Host.
func (m *Machine) Status(context.Context) (appliance.Status, error) {
	s := m.status()
	s.Code = ""
	return s, nil
}

// Log implements machine.Host.
func (m *Machine) Log(_ context.Context, n int, f machine.Filter) ([]machine.Line, error) {
	var out []machine.Line
	for _, l := range m.ring.Tail(n, ring.Filter{Origin: f.Part, Since: f.Since, Text: f.Contains}) {
		out = append(out, machine.Line{At: l.At, Part: l.Origin, Text: l.Text})
	}
	return out, nil
}

func (m *Machine) tail(n int) []ring.Line { return m.ring.Tail(n, ring.Filter{}) }

// Network implements machine.Host.
func (m *Machine) Network(context.Context) (machine.NetworkIs, error) {
	confirmed, err := m.wantedNetwork()
	if err != nil {
		return machine.NetworkIs{}, err
	}
	is := machine.NetworkIs{Confirmed: confirmed}
	if until, ok := m.network.Trying(); ok {
		n := m.network.Network()
		is.Trying, is.Until = &n, until
	}
	return is, nil
}

// TryNetwork implements machine.Host.
func (m *Machine) TryNetwork(ctx context.Context, n appliance.Network, trial time.Duration) (time.Time, error) {
	if err := n.Check(); err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", machine.ErrRefused, err)
	}
	if err := m.network.Try(ctx, n, trial); err != nil {
		return time.Time{}, err
	}
	until, ok := m.network.Trying()
	if !ok {
		return time.Time{}, errors.New("trying a network: it was taken back at once")
	}
	m.refresh()
	return until, nil
}

// ConfirmNetwork implements machine.Host.
func (m *Machine) ConfirmNetwork(context.Context) error {
	if _, ok := m.network.Trying(); !ok {
		return fmt.Errorf("%w: no network is being tried", machine.ErrRefused)
	}
	before, err := m.wantedNetwork()
	if err != nil {
		return err
	}
	if err := m.saveNetwork(m.network.Network()); err != nil { // first: what is confirmed outlives a restart
		return err
	}
	if _, err := m.network.Confirm(); err != nil { // it was taken back at this moment
		return errors.Join(fmt.Errorf("%w: %w", machine.ErrRefused, err), m.saveNetwork(before))
	}
	return nil
}

// StageUpdate implements machine.Host.
func (m *Machine) StageUpdate(ctx context.Context, bundle io.Reader, o machine.Options) (machine.Staged, error) {
	man, file, err := m.updates().Stage(ctx, bundle, o.Automatic, update.Pin{Version: o.Version, SHA256: o.SHA256})
	if err != nil {
		return machine.Staged{}, err
	}
	m.refresh()
	s := machine.Staged{Version: man.Version, File: file, Notes: man.Notes, Rebooting: o.Reboot}
	if o.Reboot {
		m.finish(boot.Restart, "an update to version "+man.Version+" is started")
	}
	return s, nil
}

// UpdateSettings implements machine.Host.
func (m *Machine) UpdateSettings(context.Context) (machine.Settings, error) {
	u, place, failed := m.updates().Settings()
	release, err := osRelease("/etc/os-release")
	if err != nil {
		return machine.Settings{}, err
	}
	return machine.Settings{
		Updates: u, Version: version.Number, Architecture: runtime.GOARCH, Flavour: release["VARIANT_ID"],
		Place: place, Failed: failed, Staged: m.updates().Is().Staged, Listed: m.updates().Listed(),
	}, nil
}

// SetUpdates implements machine.Host.
func (m *Machine) SetUpdates(_ context.Context, u appliance.Updates) error {
	return m.updates().SetSettings(u)
}

// Heard implements machine.Host.
func (m *Machine) Heard(_ context.Context, h machine.Heard) error {
	defer m.refresh()
	return m.updates().Heard(h.Checked, h.Available, h.Since, h.Problem, h.Listed)
}

// Rollback implements machine.Host.
func (m *Machine) Rollback(context.Context) error {
	to, err := m.updates().Rollback()
	if err == nil {
		m.finish(boot.Restart, "rolled back to version "+to)
	}
	return err
}

// Reboot implements machine.Host.
func (m *Machine) Reboot(context.Context) error {
	m.finish(boot.Restart, "asked by an administrator")
	return nil
}

// PowerOff implements machine.Host.
func (m *Machine) PowerOff(context.Context) error {
	m.finish(boot.PowerOff, "asked by an administrator")
	return nil
}

// Reset implements machine.Host.
func (m *Machine) Reset(ctx context.Context, name string) error {
	if name == "" || name != m.hostname() {
		return fmt.Errorf("%w: the name is not this gateway's", machine.ErrRefused)
	}
	return m.reset(ctx)
}

// reset destroys the data partition's keys and starts anew.
func (m *Machine) reset(ctx context.Context) error {
	m.mu.Lock()
	data := m.state.data
	m.mu.Unlock()
	if data == nil {
		return m.resetShut(ctx)
	}
	if err := data.Reset(ctx); err != nil {
		return err
	}
	m.finish(boot.Restart, "reset to the state of a new machine")
	return nil
}

// resetShut is reset for a data partition that could not be opened.
func (m *Machine) resetShut(ctx context.Context) error {
	if err := disk.Reset(ctx, disk.Config{Log: m.log, Changed: m.loader.Changed()}); err != nil {
		return err
	}
	m.finish(boot.Restart, "reset to the state of a new machine")
	return nil
}
