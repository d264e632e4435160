package machine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/update"
	"lazaret/internal/config"
	"lazaret/internal/plane"
)

// looks is how often the gateway's health is looked at until its slot is blessed, and after.
const (
	looks      = 2 * time.Second
	laterLooks = 30 * time.Second
)

// watch looks after a gateway that runs, until ctx ends, at intervals and when a process
// became ready or ended: the boot table goes when it can,
// and a slot is kept when everything was well for a while; one that never is, is left.
// started is when its processes were.
func (m *Machine) watch(ctx context.Context, c config.Config, started time.Time) error {
	v := verdict{m: m, started: started}
	t := time.NewTicker(looks)
	defer t.Stop()
	for {
		h := m.health(ctx, c)
		if h.Firewall && m.guard != nil {
			if err := m.handOver(); err != nil {
				m.log.Error("taking the boot table away", "error", err)
			}
		}
		if v.look(h); v.settled {
			m.settled.Store(true)
			t.Reset(laterLooks)
		}
		m.refresh()
		select {
		case <-t.C:
		case <-m.moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// verdict is what becomes of the slot that runs.
type verdict struct {
	m       *Machine
	started time.Time // the gateway's processes: what a person took before is not theirs
	known   bool      // whether it is on trial
	trial   bool      // it was never found well
	well    time.Time // since when everything is; zero: something is not
	settled bool
	failed  int // attempts to leave
}

// mostLeaves is how often leaving a version is tried before the boot loader's count is left
// to do it.
const mostLeaves = 10

// look takes in how the gateway does now. What cannot be done is tried again at the next look.
func (v *verdict) look(h update.Health) {
	if v.settled || !v.learn() {
		return
	}
	if ok := h.API && h.Firewall && h.Tunnel && h.Store; !ok {
		v.well = time.Time{}
	} else if v.well.IsZero() {
		v.well = time.Now()
	}
	if !v.well.IsZero() {
		h.Steady = time.Since(v.well)
	}
	h.Up = time.Since(v.started)
	good, why := update.Bless(h)
	switch {
	case good:
		if err := v.m.bless(); err != nil {
			v.m.log.Error("keeping this version; it is tried again", "error", err)
			v.m.problem("update", "This version cannot be noted as good; the log says why. After some restarts the one before would be started.")
			v.known = false // its slot may be kept by now, where only the record could not be
			return
		}
		v.settled = true
		v.m.problem("update", "")
	case v.trial && update.Overdue(h):
		v.leave(why)
	}
}

// learn finds out whether the slot that runs is on trial.
func (v *verdict) learn() bool {
	if v.known {
		return true
	}
	trial, err := v.m.updates().Trial()
	if err != nil {
		v.m.log.Warn("reading the slots", "error", err)
		return false
	}
	v.known, v.trial = true, trial
	return true
}

func (v *verdict) leave(why string) {
	err := v.m.leave(why)
	if err == nil {
		v.settled = true
		return
	}
	v.failed++
	v.m.log.Error("going back to the version before; it is tried again", "error", err)
	v.m.problem("update", "This version is not well ("+why+"), and the one before could not be started yet.")
	if v.failed >= mostLeaves {
		v.settled = true
		v.m.finish(boot.Restart, "this version is not well ("+why+"), and could not be left; the boot loader counts its attempts")
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
	var h update.Health
	for _, p := range m.parts.Parts() {
		switch {
		case p.Name == dataPlane && p.Ready:
			h.Firewall = m.tableHeld(ctx, c)
		case p.Name == control && p.Ready:
			h.Store = true // it is started again when its store does not answer for a while
			h.API = answers(ctx, c)
		}
	}
	link, err := net.InterfaceByName(c.Tunnel.Interface)
	h.Tunnel = err == nil && link.Flags&net.FlagUp != 0
	return h
}

// tableHeld says whether the data plane holds its table, and notes the tunnel's networks in it.
func (m *Machine) tableHeld(ctx context.Context, c config.Config) bool {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	own, err := plane.HeldPools(ctx, c)
	if err != nil {
		m.log.Warn("asking the data plane for its table", "error", err)
		return false
	}
	m.notePools(own)
	return true
}

// notePools takes in the tunnel's networks as the data plane has them.
func (m *Machine) notePools(own []netip.Prefix) {
	// A data plane that has just started knows no pools yet: what it had before still holds.
	if len(own) == 0 || slices.Equal(m.pools(), own) {
		return
	}
	m.own.Store(&own)
	m.network.Recheck()
	if err := savePools(own); err != nil {
		m.log.Warn("noting the tunnel's networks for the next start", "error", err)
	}
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
	m.log.Info("this version is good", "version", m.version, "stage", string(appliance.Running))
	return nil
}
