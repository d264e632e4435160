package machine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/update"
	"lazaret/internal/config"
	"lazaret/internal/daemon"
)

// looks is how often the gateway's health is looked at until its slot is blessed, and after.
const (
	looks      = 2 * time.Second
	laterLooks = 30 * time.Second
)

// watch looks after a gateway that runs, until ctx ends. A slot is kept when everything was
// well for a while; one that never is, is left.
func (m *Machine) watch(ctx context.Context, c config.Config) error {
	t := time.NewTicker(looks)
	defer t.Stop()
	var well time.Time
	trial, err := m.updates().Trial()
	if err != nil {
		return err
	}
	if err := m.lookAtSlots(); err != nil {
		m.log.Warn("reading the slots", "error", err)
	}
	blessed, gone := false, false
	for {
		h := m.health(ctx, c)
		if ok := h.API && h.Firewall && h.Tunnel && h.Store; !ok {
			well = time.Time{}
		} else if well.IsZero() {
			well = time.Now()
		}
		if !well.IsZero() {
			h.Steady = time.Since(well)
		}
		_, why := update.Bless(h)
		switch {
		case blessed || gone:
		case trial && update.Overdue(h):
			gone = true // a restart takes its time
			if err := m.leave(why); err != nil {
				m.log.Error("going back to the version before", "error", err)
				m.problem("update", "This version is not well, and there is none to go back to: "+why+".")
			}
		case why == "":
			if err := m.bless(); err != nil {
				m.log.Error("keeping this version", "error", err)
				m.problem("update", "This version cannot be noted as good; the log says why. After some restarts the one before would be started.")
			}
			blessed = true
			t.Reset(laterLooks)
		}
		m.refresh()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leave gives up on a version that is not well, if there is another one to start.
func (m *Machine) leave(why string) error {
	if err := m.updates().GiveUp(why); err != nil {
		return fmt.Errorf("leaving a version that is not well (%s): %w", why, err)
	}
	m.finish(boot.Restart, fmt.Sprintf("this version is not well (%s); the one before is started", why))
	return nil
}

// health is what can be seen from here.
func (m *Machine) health(ctx context.Context, c config.Config) update.Health {
	h := update.Health{Up: time.Since(m.booted)}
	for _, p := range m.parts.Parts() {
		switch {
		case p.Name == plane && p.Ready:
			h.Firewall = m.tableHeld(ctx, c)
		case p.Name == control && p.Ready:
			h.Store = true // it is ready only once its store answers, and ends when that fails
		}
	}
	h.API = answers(ctx, c)
	_, err := net.InterfaceByName(c.Tunnel.Interface)
	h.Tunnel = err == nil
	return h
}

// tableHeld says whether the data plane holds the table that it recorded.
func (m *Machine) tableHeld(ctx context.Context, c config.Config) bool {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	_, err := daemon.ShowHost(ctx, c)
	if err != nil {
		m.log.Warn("asking the data plane for its table", "error", err)
	}
	return err == nil
}

// answers says whether every listener that faces the outside takes a TLS connection.
func answers(ctx context.Context, c config.Config) bool {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	var faults []error
	for _, at := range append(append([]netip.AddrPort{}, c.Enroll.Listen...), c.API.Listen...) {
		a := at.Addr()
		if a.IsUnspecified() {
			a = netip.IPv6Loopback()
			if at.Addr().Is4() {
				a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
		}
		// Who answers is no question here: the connection does not leave the machine.
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
		conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, at.Port()).String())
		if err == nil {
			err = conn.Close()
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...) == nil
}

// bless notes that this version is good.
func (m *Machine) bless() error {
	if err := m.updates().Bless(); err != nil {
		return err
	}
	if err := m.lookAtSlots(); err != nil {
		return err
	}
	m.log.Info("this version is good", "version", m.version, "stage", string(appliance.Running))
	return nil
}
