package machine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/appliance/supervise"
)

// idle is a machine of which nothing runs: its processes cannot be started, and are tried
// again and again.
func idle(t *testing.T) *Machine {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	parts, err := supervise.New(supervise.Config{
		Log: log, Output: func(_ string, from io.Reader) { _, _ = io.Copy(io.Discard, from) }, Dir: t.TempDir(), Program: filepath.Join(t.TempDir(), "none"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parts.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Machine{log: log, parts: parts, orders: make(chan order, 1), state: state{stage: appliance.Running, problems: map[string]string{}}}
}

func (m *Machine) keeps(name string) bool {
	for _, p := range m.parts.Parts() {
		if p.Name == name {
			return true
		}
	}
	return false
}

// TestControlPlaneComesBack: after a claim for an administrator that fails at once (there is
// no configuration here), the control plane is kept running again, also if it did not run;
// code and problem are gone. A machine that ends starts nothing.
func TestControlPlaneComesBack(t *testing.T) {
	for name, ran := range map[string]bool{"it ran": true, "it did not run": false} {
		m := idle(t)
		if ran {
			if err := m.parts.Start(controlPart()); err != nil {
				t.Fatal(err)
			}
		}
		m.state.code, m.state.print = "CODE", "PRINT"
		m.newAdministrator(t.Context())
		if !m.keeps(control) || len(m.orders) != 0 {
			t.Errorf("%s: the control plane stays stopped", name)
		}
		if m.keeps("claim") {
			t.Errorf("%s: the door is still there", name)
		}
		if m.state.code != "" || m.state.print != "" || len(m.state.problems) != 0 {
			t.Errorf("%s: left on the screen: %+v", name, m.state)
		}
	}
	m := idle(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m.newAdministrator(ctx); m.keeps(control) {
		t.Error("a machine that ends starts the control plane")
	}
}

// TestNoAdministratorOfNothing: a machine that is no gateway at the moment, or not yet, shows
// no code.
func TestNoAdministratorOfNothing(t *testing.T) {
	if err := idle(t).resetAdministrator(t.Context()); !errors.Is(err, machine.ErrRefused) {
		t.Errorf("before the control plane runs: %v", err)
	}
	for _, stage := range []appliance.Stage{"", appliance.Starting, appliance.Locked, appliance.Unclaimed, appliance.Failed} {
		m := idle(t)
		m.state.stage = stage
		if err := m.resetAdministrator(t.Context()); !errors.Is(err, machine.ErrRefused) {
			t.Errorf("%q: %v", stage, err)
		}
	}
}

// TestProtectionIsLongEnough: what is too short is refused before anything is touched, and
// never quoted; nothing is done to a data partition that is shut.
func TestProtectionIsLongEnough(t *testing.T) {
	m := idle(t)
	for name, do := range map[string]func() error{
		"short passphrase": func() error { return m.SetPassphrase(t.Context(), "eleven char") },
		"no passphrase":    func() error { return m.SetPassphrase(t.Context(), "") },
		"short PIN":        func() error { _, err := m.Seal(t.Context(), "12345"); return err },
		"shut, passphrase": func() error { return m.SetPassphrase(t.Context(), "a long enough one") },
		"shut, TPM":        func() error { _, err := m.Seal(t.Context(), ""); return err },
		"shut, recovery":   func() error { _, err := m.NewRecovery(t.Context()); return err },
	} {
		if err := do(); !errors.Is(err, machine.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
