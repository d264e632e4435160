package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/appliance/seed"
	"lazaret/appliance/supervise"
	"lazaret/internal/durable"
	"lazaret/internal/making"
)

// beClaimed returns when the machine is somebody's. Until then a seed is looked for where
// there is none, by one goroutine that is gone before this returns.
func (m *Machine) beClaimed(ctx context.Context) error {
	if err := m.openClaimPort(); err != nil {
		return err
	}
	s, err := m.offerUntilClaimed(ctx, m.seed, m.loader.Changed(), m.findSeed, m.offer)
	if err != nil {
		return err
	}
	m.show(func(st *state) { st.code, st.print = "", "" })
	m.problem("claim", "")
	m.problem("code", "")
	m.seedProblems()
	if s.Instance != "" {
		if err := applied.Done(s.Instance); err != nil {
			return err
		}
	}
	return m.shutClaimPort()
}

// offering is what the machine is offered with.
type offering struct {
	code     claim.Code
	fromSeed bool // the code is the seed's
	seed     seed.Seed
	turns    *turns
}

// offerUntilClaimed offers the machine, with a seed or until one is found by find, and
// returns the seed that it was claimed with. A claim that lapsed needs a new code.
func (m *Machine) offerUntilClaimed(ctx context.Context, s seed.Seed, devices <-chan struct{}, find func() seed.Seed, offer func(context.Context, offering) error) (seed.Seed, error) {
	var t turns
	watched, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer stop()
	if s.Instance == "" {
		watcher.Go(func() { m.watchSeeds(watched, devices, find, &t) })
	}
	code, fromSeed := m.firstCode(s)
	for {
		offered, end := context.WithCancelCause(ctx)
		t.open(end)
		err := offer(offered, offering{code, fromSeed, s, &t})
		end(nil)
		late, came := t.over()
		if err == nil || ctx.Err() != nil {
			return s, err
		}
		lapsed := errors.Is(err, claim.ErrLapsed)
		if lapsed {
			m.log.Error("a claim came to nothing", "error", err)
			m.problem("claim", fmt.Sprintf("The last claim came to nothing: %v.", err))
		}
		switch {
		case came:
			s = late
			m.useSeedNetwork(ctx, s)
			code, fromSeed = m.firstCode(s)
		case lapsed:
			if fromSeed {
				m.problem("code", "The seed's claim code was used; use the one shown here.")
			}
			code, fromSeed = claim.DrawCode(), false
		default:
			return s, err
		}
	}
}

// firstCode is the seed's, else a new one.
func (m *Machine) firstCode(s seed.Seed) (code claim.Code, fromSeed bool) {
	if s.Code != "" {
		code, err := claim.ParseCode(s.Code)
		if err == nil {
			return code, true
		}
		m.problem("code", "The seed's claim code is not one; use the one shown here.")
	}
	return claim.DrawCode(), false
}

// offer shows a code and runs doors until the claim with it is kept. It ends with
// claim.ErrLapsed when the code is of no use any more.
func (m *Machine) offer(ctx context.Context, o offering) error {
	keeper, err := claim.NewKeeper(m.claimWith(o, m.makeGateway))
	if err != nil {
		return err
	}
	m.show(func(st *state) {
		st.stage, st.name, st.code = appliance.Unclaimed, o.seed.Setup.Name, o.code.String()
		if o.fromSeed {
			st.code = "" // whoever made the seed has it
		}
	})
	return m.serveDoor(ctx, keeper)
}

// claimWith is what the machine does for a claim, for which a gateway is made by make.
func (m *Machine) claimWith(o offering, make func(context.Context, claim.Request, func(string)) (making.Made, error)) claim.KeeperConfig {
	var made making.Made // what the keeper has made last; it makes and keeps one after the other
	var setup appliance.Setup
	return claim.KeeperConfig{
		Code: o.code, Log: m.log,
		About: func() claim.About { return m.about(o.seed) },
		Clock: m.saysClock, SeedCode: o.fromSeed,
		Serving: func(print string) { m.show(func(st *state) { st.print = print }) },
		Make: func(ctx context.Context, r claim.Request, step func(string)) (claim.Answer, error) {
			if err := o.turns.begin(); err != nil {
				return claim.Answer{}, err
			}
			r.Setup.Network = m.asked(r.Setup.Network, o.seed)
			var err error
			if made, err = make(ctx, r, step); err != nil {
				o.turns.failed()
				return claim.Answer{}, err
			}
			setup = r.Setup
			return made.Answer, nil
		},
		Keep: func(context.Context) error { return m.keepGateway(made, setup, o.seed) },
	}
}

// saysClock is the time, for whoever claims the machine.
func (m *Machine) saysClock() claim.Clock {
	return claim.Clock{Time: time.Now(), Synchronized: m.clock.Status().Synchronized}
}

// serveDoor runs doors until the claim is kept, or until the keeper is of no use any more.
// They listen where at says, else at the claim's port of all addresses.
func (m *Machine) serveDoor(ctx context.Context, keeper *claim.Keeper, at ...string) error {
	ends := make(chan net.Conn)
	part := m.door(ctx, ends)
	if len(at) > 0 {
		part.Args = append(part.Args, "--listen", strings.Join(at, ","))
	}
	if err := m.parts.Start(part); err != nil {
		return err
	}
	defer func() { _ = m.parts.Stop("claim") }() // it runs: it was started here
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case conn := <-ends:
			err := keeper.Run(ctx, conn)
			if err == nil || errors.Is(err, claim.ErrLapsed) {
				return err
			}
			m.log.Warn("the door of the claim ended", "error", err)
		}
	}
}

// door is the part that speaks with strangers. Each of its processes has one end of a
// socket pair as descriptor 3; ends gets the other.
func (m *Machine) door(ctx context.Context, ends chan<- net.Conn) supervise.Part {
	return supervise.Part{
		Name: "claim", Args: []string{"claim", "--confine"}, User: appliance.ClaimUser, Group: appliance.ClaimUser,
		AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE}, Notify: true, Files: 4096, Tasks: 256, Memory: 256 << 20,
		Inherit: func() ([]*os.File, error) {
			theirs, ours, err := pair()
			if err != nil {
				return nil, err
			}
			go func() {
				select {
				case ends <- ours:
				case <-ctx.Done():
					ours.Close()
				}
			}()
			return []*os.File{theirs}, nil
		},
	}
}

// claimURLs are where the page of the claim is.
func claimURLs(links []appliance.LinkIs) []string {
	var out []string
	for _, l := range links {
		for _, p := range l.Addresses {
			if !p.Addr().IsLinkLocalUnicast() {
				out = append(out, "https://"+host(p.Addr().String()))
			}
		}
	}
	return out
}

// pair is a socket pair: a file for a child, and a connection for this process.
func pair() (*os.File, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	theirs, f := os.NewFile(uintptr(fds[0]), "claim"), os.NewFile(uintptr(fds[1]), "claim")
	ours, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", errors.Join(err, theirs.Close()))
	}
	return theirs, ours, nil
}

// about is what everybody may know of an unclaimed machine.
func (m *Machine) about(s seed.Seed) claim.About {
	a := claim.About{Version: m.version, Setup: s.Setup}
	if !m.screened.Load() {
		a.Setup.Network = s.Network // kept with the claim
	}
	for _, l := range m.network.Links() {
		a.Links = append(a.Links, claim.Card{Name: l.Name, MAC: l.MAC, Up: l.Up, Addresses: l.Addresses})
		for _, p := range l.Addresses {
			if !p.Addr().IsLinkLocalUnicast() {
				a.Networks = append(a.Networks, p.Masked())
			}
		}
	}
	return a
}

// makeGateway has a child, as the user who will own it all, make the gateway.
func (m *Machine) makeGateway(ctx context.Context, r claim.Request, step func(string)) (making.Made, error) {
	q := making.Request{Claim: r, Network: m.network.Network()}
	for _, l := range m.network.Links() {
		q.Addresses = append(q.Addresses, l.Addresses...)
	}
	return m.makeOf(ctx, q, step)
}

// makeOf has a child make what a claim asks for.
func (m *Machine) makeOf(ctx context.Context, q making.Request, step func(string)) (making.Made, error) {
	question, err := json.Marshal(q)
	if err != nil {
		return making.Made{}, err
	}
	from, to := io.Pipe()
	defer from.Close() // a child that goes on talking is not heard
	ended := make(chan error, 1)
	started := time.Now()
	go func() {
		part := supervise.Part{Name: "make", Args: []string{"make", "--confine"}, User: appliance.ControlUser, Group: appliance.ControlUser, Tasks: 256, Memory: 512 << 20}
		err := m.parts.Once(ctx, part, bytes.NewReader(question), to)
		to.Close()
		ended <- err
	}()
	made, err := making.ReadMade(from, step)
	if err != nil {
		from.Close()
		if e := <-ended; e != nil {
			m.log.Error("carrying out a claim", "error", e)
		}
		return making.Made{}, err
	}
	if err := <-ended; err != nil {
		return making.Made{}, err
	}
	m.log.Info("carried out a claim", "took", time.Since(started).Round(time.Millisecond).String())
	return made, nil
}

// keepGateway makes what was made this machine's: its configuration comes last.
func (m *Machine) keepGateway(made making.Made, s appliance.Setup, from seed.Seed) error {
	if err := m.keepNetwork(s.Network, from); err != nil {
		return err
	}
	if err := durable.Write(timeServersPath, []byte(strings.Join(append(slices.Clone(s.TimeServers), ""), "\n")), 0o644); err != nil {
		return err
	}
	if err := m.updates().SetSettings(s.Updates); err != nil {
		return err
	}
	err := making.Keep(making.AppliancePlaces, made.Config)
	if yes, _ := claimedState(); yes && err != nil { // from here on it is a gateway
		m.log.Error("clearing up after the gateway was made", "error", err)
		return nil
	}
	return err
}
