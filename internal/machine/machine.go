package machine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/clock"
	"lazaret/appliance/modules"
	"lazaret/appliance/network"
	"lazaret/appliance/ring"
	"lazaret/appliance/screen"
	"lazaret/appliance/seed"
	"lazaret/appliance/supervise"
	"lazaret/appliance/update"
	"lazaret/appliance/watchdog"
	"lazaret/firewall"
)

// Machine is the running appliance. Its parts are made one after the other, in boot; what
// is made is never replaced.
type Machine struct {
	log     *slog.Logger
	ring    *ring.Ring
	kernel  boot.Config
	loader  *modules.Loader
	dog     *watchdog.Dog
	guard   *firewall.Table // the boot table; nil once it is gone
	screen  *screen.Screen
	network wires
	clock   *clock.Keeper
	parts   *supervise.Supervisor
	version string
	flavour string // of the image; empty: unknown
	booted  time.Time

	beat   chan chan struct{} // the main loop's sign of life
	orders chan order         // what ends the machine
	moved  chan struct{}      // gets a value when a process became ready or ended

	esp espMount // the EFI system partition's

	seed  seed.Seed           // as it was before the claim; set once, before beClaimed
	noted [][sha256.Size]byte // the faults of seeds that are in the log; of who looks for seeds alone

	wiring      sync.Mutex  // held while the network is set or kept by who is no administrator
	screened    atomic.Bool // somebody set the network at the screen; changed with wiring held
	networkPath string      // where the network is kept

	renewing sync.Mutex // held while a new administrator is made

	// What parts ask for that hold locks of their own, and so may not wait for mu.
	name    atomic.Pointer[string]         // the gateway's
	own     atomic.Pointer[[]netip.Prefix] // the tunnel's networks, as the data plane has them
	looked  atomic.Int64                   // when look had gone round last, in seconds since the machine was booted
	stands  atomic.Bool                    // start is through: all parts are there
	settled atomic.Bool                    // the version that runs was judged

	mu    sync.Mutex // nothing is asked of a part while it is held
	state state
}

// state is what the screen and administrators are shown beside what the parts say themselves.
type state struct {
	stage    appliance.Stage
	name     string
	urls     []string
	print    string
	code     string
	problems map[string]string // by subject: one sentence each
	data     partition
	withdraw context.CancelFunc // of the question for the recovery passphrase; nil: there was none
	updates  *update.Manager
}

// order asks for the end of the machine.
type order struct {
	how boot.Ending
	why string
}

// Run is process number 1. It returns only where the machine could not be ended.
func Run(version string) error {
	m := &Machine{
		version: version, booted: time.Now(), networkPath: appliance.NetworkPath,
		beat: make(chan chan struct{}), orders: make(chan order, 1), moved: make(chan struct{}, 1),
	}
	m.state = state{stage: appliance.Starting, problems: map[string]string{}}
	m.startLog() // from here on, everything that is said is kept
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan order, 1)
	go func() { ended <- m.run(ctx) }()
	o := m.answer(ended)
	m.log.Warn("the machine ends", "how", string(o.how), "why", o.why)
	stop()
	return m.end(o.how)
}

// startWithin is how long the machine may take until it stands; opening the data partition,
// for which a person may be needed, comes after.
const startWithin = 3 * time.Minute

// run starts the machine and lives its life; it returns how it is to end.
func (m *Machine) run(ctx context.Context) order {
	late := time.AfterFunc(startWithin, func() { m.finish(boot.Restart, "the machine did not start in time") })
	err := m.start(ctx)
	late.Stop()
	if err == nil {
		m.stands.Store(true)
		return m.live(ctx)
	}
	// There is nothing to show it on yet but the console, and nothing to do but to try again.
	m.log.Error("the machine could not start; it restarts in ten seconds", "error", err)
	select {
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
	}
	return order{boot.Restart, "the machine could not start"}
}

// answer is the main loop: it shows that process 1 is alive, until the machine is to end.
func (m *Machine) answer(ended <-chan order) order {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR) // SIGINT: ctrl-alt-del; SIGPWR: the power button
	for {
		select {
		case c := <-m.beat:
			m.mu.Lock() // who holds it for ever is found out
			m.mu.Unlock()
			close(c)
		case o := <-m.orders:
			return o
		case o := <-ended:
			return o
		case s := <-signals:
			if s == unix.SIGPWR {
				return order{boot.PowerOff, "the power button was pressed"}
			}
			return order{boot.Restart, "asked by " + s.String()}
		}
	}
}

// aliveWithin is how long what shows the machine may take for a round, which asks every part.
const aliveWithin = 3 * time.Minute

// alive asks the main loop for a sign of life, and whether all parts answered of late.
func (m *Machine) alive(ctx context.Context) error {
	c := make(chan struct{})
	select {
	case m.beat <- c:
		<-c
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	last := time.Duration(m.looked.Load()) * time.Second
	if up := time.Since(m.booted); m.stands.Load() && up-max(last, startWithin) > aliveWithin {
		return fmt.Errorf("no part has answered for %s", (up - last).Round(time.Second))
	}
	return nil
}

// finish asks for the machine's end; the first who asks is heard.
func (m *Machine) finish(how boot.Ending, why string) {
	select {
	case m.orders <- order{how, why}:
	default:
	}
}

// start does what everything else stands on. After an error nothing may run.
func (m *Machine) start(ctx context.Context) error {
	if err := m.kernel.Mount(); err != nil {
		return err
	}
	if err := supervise.Slacken(); err != nil {
		m.log.Warn("timers wake this process as often as they like", "error", err)
	}
	if err := m.makeParts(); err != nil {
		return err
	}
	var err error
	if m.dog, err = watchdog.Open(watchdog.Config{Log: m.log, Load: m.load}); err != nil {
		m.problem("watchdog", "There is no watchdog: a machine that hangs stays so.")
		m.log.Error("arming a watchdog", "error", err)
	} else {
		m.log.Info("watchdog armed", "which", m.dog.Name())
		m.keep(ctx, "watchdog", func(ctx context.Context) error { return m.dog.Run(ctx, m.alive) })
	}
	m.keep(ctx, "log of the kernel", func(ctx context.Context) error { return m.ring.Kernel(ctx, "/dev/kmsg") })
	m.keep(ctx, "screen", m.screen.Run)
	if err := m.loadModules(ctx); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(volatileDir, 0o700), m.startUpdates(volatileDir)); err != nil {
		return err
	}
	m.keep(ctx, "power button", m.heedButton)
	if err := m.startTable(); err != nil {
		return err
	}
	if err := m.kernel.Loopback(); err != nil {
		return err
	}
	if err := m.kernel.Harden(); err != nil {
		m.problem("kernel", "Some settings of the kernel could not be made; the log names them.")
		m.log.Error("setting up the kernel", "error", err)
	}
	if err := m.kernel.SealRoot(); err != nil {
		return err
	}
	m.keep(ctx, "network", m.network.Run)
	m.keep(ctx, "view", m.look)
	return nil
}

// volatileDir is where updates are recorded before the data partition is open.
const volatileDir = appliance.MachineRun + "/updates"

// makeParts makes all that status asks, before anything runs that may change it.
func (m *Machine) makeParts() (err error) {
	if release, err := osRelease("/etc/os-release"); err == nil {
		m.flavour = release["VARIANT_ID"]
	}
	if m.loader, err = newLoader(m.log); err != nil {
		return err
	}
	m.screen, err = screen.New(screen.Config{Log: m.log, Actions: m.actions()})
	if err != nil {
		return err
	}
	m.network, err = network.New(network.Config{Log: m.log, Resolv: appliance.ResolvConf, Hostname: m.hostname, Load: m.load, Own: m.pools})
	if err != nil {
		return err
	}
	m.clock, err = clock.New(clock.Config{
		Log: m.log, System: clock.Kernel{}, Servers: m.timeServers, Built: built(), Mark: filepath.Join(appliance.MachineDir, "time"), Claimed: isClaimed,
	})
	if err != nil {
		return err
	}
	m.parts, err = supervise.New(supervise.Config{
		Log: m.log, Output: m.ring.Follow, Dir: appliance.MachineRun + "/parts", Cgroups: "/sys/fs/cgroup", Orphans: true,
	})
	return err
}

func (m *Machine) load(name string) error { return m.loader.Load(name) }

// live is the machine's life once it stands: it returns how it is to end.
func (m *Machine) live(ctx context.Context) order {
	if m.onTrial() {
		m.keep(ctx, "trial", m.endTrial)
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{{"opening the data partition", m.openData}, {"setting up the network", m.connect}, {"running the gateway", m.serve}} {
		if err := step.do(ctx); err != nil {
			if ctx.Err() != nil {
				return order{boot.Restart, "stopped"}
			}
			m.log.Error("the machine cannot go on", "doing", step.what, "error", err)
			m.problem("machine", fmt.Sprintf("It cannot go on: %s: %v.", step.what, err))
			m.stage(appliance.Failed)
			if m.onTrial() {
				m.log.Error("this version is on trial, and does not get as far as the one before: restarting")
				return order{boot.Restart, "a version on trial could not go on"}
			}
			break
		}
	}
	<-ctx.Done() // the screen's menu is the way out
	return order{boot.Restart, "stopped"}
}

// trialWithin is how long a version on trial has to be judged in.
const trialWithin = 20 * time.Minute

// endTrial restarts a machine on trial that was not judged in time, whatever keeps it; the
// boot loader counts that. Who waits for a person to type the passphrase waits.
func (m *Machine) endTrial(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for waited := time.Duration(0); waited < trialWithin; {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if m.settled.Load() {
			<-ctx.Done()
			return nil
		}
		m.mu.Lock()
		stage := m.state.stage
		m.mu.Unlock()
		if stage == appliance.Locked && best() != appliance.ByTPM || stage == appliance.Unclaimed {
			continue
		}
		waited += time.Minute
	}
	m.finish(boot.Restart, "a version on trial was not judged in time")
	<-ctx.Done()
	return nil
}

// keep runs a part of this process until ctx ends, and says when one ends by itself.
func (m *Machine) keep(ctx context.Context, name string, run func(context.Context) error) {
	go func() {
		if err := run(ctx); ctx.Err() == nil {
			m.log.Error("a part of the machine ended by itself", "part", name, "error", err)
			m.problem(name, "The machine's "+name+" does not work any more; the log says why. A restart brings it back.")
		}
	}()
}
