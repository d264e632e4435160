package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/claim"
	"lazaret/appliance/machine"
	"lazaret/internal/config"
	"lazaret/internal/making"
)

// administratorTime is how long the control plane is stopped, at most, for a new
// administrator to be made.
const administratorTime = 15 * time.Minute

// resetAdministrator begins to make a new administrator, for whoever stands before the
// screen: it returns at once, and the code is on the screen as soon as the control plane has
// let go of its store. ctx must be the machine's.
func (m *Machine) resetAdministrator(ctx context.Context) error {
	m.mu.Lock()
	running := m.state.stage == appliance.Running
	m.mu.Unlock()
	// Before the control plane was started for the first time, others are about to do so.
	if !running || !slices.ContainsFunc(m.parts.Parts(), func(p appliance.Part) bool { return p.Name == control }) {
		return fmt.Errorf("%w: this machine is no gateway at the moment", machine.ErrRefused)
	}
	// A version that is tried is judged by the control plane, and left when that is away.
	if trial, err := m.updates().Trial(); err != nil {
		return err
	} else if trial {
		return fmt.Errorf("%w: this version is being tried; wait until it is kept", machine.ErrBusy)
	}
	if !m.renewing.TryLock() {
		return fmt.Errorf("%w: a code is shown already; it goes by itself, or with a restart", machine.ErrBusy)
	}
	go func() {
		defer m.renewing.Unlock()
		m.newAdministrator(ctx)
	}()
	return nil
}

// newAdministrator stops the control plane, since a store has one user, takes a claim for an
// administrator, and has the control plane run again however that went. Tunnel and
// enforcement go on meanwhile.
func (m *Machine) newAdministrator(ctx context.Context) {
	until := time.Now().Add(administratorTime)
	m.log.Warn("a new administrator is asked for at the screen; the control plane stops", "until", until.UTC().Format(time.RFC3339))
	m.problem("administrator", "A new administrator can be made with the code shown here, by lazaretctl claim or a browser. Until then, or "+until.UTC().Format("15:04")+" UTC, the control plane is stopped: nobody enrolls, and no report is taken.")
	defer m.resume(ctx)
	if err := m.parts.Stop(control); err != nil {
		m.log.Error("stopping the control plane", "error", err)
		return
	}
	ctx, stop := context.WithDeadlineCause(ctx, until, errors.New("nobody claimed it in time"))
	defer stop()
	if err := m.offerAdministrator(ctx); err != nil {
		m.log.Warn("no new administrator was made, or none who said so", "why", err)
		return
	}
	m.log.Warn("a new administrator was made at the screen")
}

// resume has the control plane run again; a machine that cannot do that starts anew.
func (m *Machine) resume(ctx context.Context) {
	m.show(func(st *state) { st.code, st.print = "", "" })
	m.problem("administrator", "")
	if ctx.Err() != nil {
		return // the machine ends
	}
	if err := m.parts.Start(controlPart()); err != nil && ctx.Err() == nil {
		m.log.Error("starting the control plane again", "error", err)
		m.finish(boot.Restart, "the control plane could not be started again")
	}
}

// offerAdministrator takes one claim, where devices enroll otherwise: what the firewall lets
// in there, it lets in now.
func (m *Machine) offerAdministrator(ctx context.Context) error {
	c, err := config.Load(appliance.ConfigPath)
	if err != nil {
		return err
	}
	var at []string
	for _, a := range c.Enroll.Listen {
		at = append(at, a.String())
	}
	code := claim.DrawCode()
	keeper, err := claim.NewKeeper(claim.KeeperConfig{
		Code: code, Log: m.log, Administrator: true,
		About:   func() claim.About { return claim.About{Version: m.version} },
		Clock:   m.saysClock,
		Serving: func(print string) { m.show(func(st *state) { st.print = print }) },
		Make: func(ctx context.Context, r claim.Request, step func(string)) (claim.Answer, error) {
			made, err := m.makeOf(ctx, making.Request{Claim: r}, step)
			return made.Answer, err
		},
		Keep: func(context.Context) error { return nil }, // the certificate is all there is
	})
	if err != nil {
		return err
	}
	m.show(func(st *state) { st.code = code.String() })
	return m.serveDoor(ctx, keeper, at...)
}
