package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"lazaret/appliance"
	"lazaret/appliance/disk"
	"lazaret/appliance/machine"
	"lazaret/internal/config"
	"lazaret/internal/daemon"
	"lazaret/internal/stig"
)

// data is the open data partition.
func (m *Machine) data() (*disk.Data, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.data == nil {
		return nil, fmt.Errorf("%w: the data partition is not open", machine.ErrRefused)
	}
	return m.state.data, nil
}

// SetPassphrase implements machine.Host.
func (m *Machine) SetPassphrase(ctx context.Context, passphrase string) error {
	if err := appliance.CheckTyped("passphrase", passphrase, appliance.MinPassphrase); err != nil {
		return fmt.Errorf("%w: %w", machine.ErrRefused, err)
	}
	data, err := m.data()
	if err != nil {
		return err
	}
	defer m.refresh()
	if err := data.SetPassphrase(ctx, []byte(passphrase)); err != nil {
		return err
	}
	m.log.Warn("a passphrase keeps the key of the data partition now")
	return nil
}

// Seal implements machine.Host. What the TPM says is for the administrator: nothing of it
// is secret.
func (m *Machine) Seal(ctx context.Context, pin string) (recovery string, err error) {
	if pin != "" {
		if err := appliance.CheckTyped("PIN", pin, appliance.MinPIN); err != nil {
			return "", fmt.Errorf("%w: %w", machine.ErrRefused, err)
		}
	}
	data, err := m.data()
	if err != nil {
		return "", err
	}
	defer m.refresh()
	if recovery, err = data.Reseal(ctx, []byte(pin)); err != nil {
		return "", fmt.Errorf("%w: %w", machine.ErrRefused, err)
	}
	m.log.Warn("the key of the data partition is sealed to the TPM", "pin", pin != "")
	return recovery, nil
}

// NewRecovery implements machine.Host.
func (m *Machine) NewRecovery(ctx context.Context) (string, error) {
	data, err := m.data()
	if err != nil {
		return "", err
	}
	recovery, err := data.NewRecovery(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: %w", machine.ErrRefused, err)
	}
	m.problem("recovery", "") // whoever asked has it
	m.log.Warn("the data partition has a new recovery passphrase")
	return recovery, nil
}

// AcceptTime implements machine.Host.
func (m *Machine) AcceptTime(ctx context.Context) error {
	defer m.refresh()
	if err := m.clock.Accept(ctx); err != nil {
		return fmt.Errorf("%w: %w", machine.ErrRefused, err)
	}
	return nil
}

// SelfCheck implements machine.Host. This process asks for addresses by DHCP, and may have
// what that takes.
func (m *Machine) SelfCheck(ctx context.Context) (appliance.Report, error) {
	c, err := config.Load(appliance.ConfigPath)
	if err != nil {
		return appliance.Report{}, err
	}
	return daemon.Stig(ctx, c, os.Getpid()), nil
}

// Inventory implements machine.Host.
func (m *Machine) Inventory(context.Context) (json.RawMessage, error) {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("listing what the program is made of: it was built without module information")
	}
	return json.Marshal(stig.NewBOM(b))
}
