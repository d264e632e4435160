package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/internal/config"
	"lazaret/internal/plane"
	"lazaret/internal/stig"
)

// partition is the open data partition (disk.Data).
type partition interface {
	Status() appliance.Disk
	Problems() []string
	SetPassphrase(ctx context.Context, passphrase []byte) error
	Reseal(ctx context.Context, pin []byte) (recovery string, err error)
	NewRecovery(ctx context.Context) (string, error)
	Reset(ctx context.Context) error
	Close() error
}

// data is the open data partition.
func (m *Machine) data() (partition, error) {
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

// keepRecovery shows the recovery passphrase until somebody says to have it, or until there
// is another in its place. ask puts a question on the screen.
func (m *Machine) keepRecovery(ctx context.Context, recovery string, ask func(ctx context.Context, prompt string) (string, error)) {
	m.problem("recovery", "Nobody has confirmed to have the recovery passphrase of the data partition: do so on this screen, or make another with lazaretctl machine recovery.")
	stands, withdraw := context.WithCancel(ctx)
	m.mu.Lock()
	m.state.withdraw = withdraw
	m.mu.Unlock()
	m.keep(ctx, "question for the recovery passphrase", func(ctx context.Context) error {
		defer withdraw()
		_, err := ask(stands, "Recovery passphrase of the data partition, for when the TPM cannot open it:\n\n    "+recovery+"\n\nWrite it down: it is not shown again. Enter: ")
		if err != nil && stands.Err() == nil {
			return err
		}
		if err == nil {
			m.problem("recovery", "")
		}
		<-ctx.Done()
		return nil
	})
}

// told: whoever asked has the recovery passphrase that holds now, and what the screen may
// still show opens nothing.
func (m *Machine) told() {
	m.mu.Lock()
	withdraw := m.state.withdraw
	m.mu.Unlock()
	if withdraw != nil {
		withdraw()
	}
	m.problem("recovery", "")
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
	m.told()
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
	return plane.Stig(ctx, c, os.Getpid()), nil
}

// Inventory implements machine.Host.
func (m *Machine) Inventory(context.Context) (json.RawMessage, error) {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("listing what the program is made of: it was built without module information")
	}
	return json.Marshal(stig.NewBOM(b))
}
