package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/agentapi"
	"lazaret/quarantine/tunnel"
)

// DefaultInterface is the tunnel's name on a device.
const DefaultInterface = "lazaret0"

// Config says where the agent lives and how it behaves.
type Config struct {
	Dir       string // required: state directory, 0700
	Socket    string // required: control socket, for status and down
	Interface string // optional: DefaultInterface
	Userspace bool   // do not look for kernel WireGuard
	NoDNS     bool   // leave the device's DNS servers alone
	// ResolvConf is the resolver's file where systemd-resolved does not run; optional:
	// DefaultResolvConf.
	ResolvConf string
	Schedule   Schedule // optional: DefaultSchedule
	Log        *slog.Logger

	// EraseProgram is what erases the whole device when the gateway orders it, by its full
	// path; optional: the order is refused. It belongs to root, as does all above it, and
	// nobody else may write there.
	EraseProgram string

	// TPM is the device or unix socket of the TPM that vouches for reports; optional: the
	// device's own, if it has one. NoTPM leaves it alone.
	TPM string

	// Step is told how far a renewal, a command or a wipe is; optional, and set by tests alone.
	Step func(string)
}

func (c Config) resolvConf() string { return cmp.Or(c.ResolvConf, DefaultResolvConf) }

// network is what the agent changes on the device.
type network interface {
	SetAddresses([]netip.Prefix) error
	SetKey(tunnel.PrivateKey) error
	SetPeer(tunnel.Peer) error
	RemovePeer(tunnel.Key) error
	SetRoutes([]tunnel.Route) error
	SetRules(endpoint netip.Addr) error
	DropRules() error
	Peers() ([]tunnel.PeerStatus, error)
	Remove() error
}

// system is the device's own network.
type system struct{ *tunnel.Link }

func (system) SetRules(endpoint netip.Addr) error { return setRules(endpoint) }
func (system) DropRules() error {
	_, err := dropRules()
	return err
}

// Agent is one running agent.
type Agent struct {
	config Config
	store  store
	log    *slog.Logger
	quit   context.CancelFunc

	net network
	dns resolver // nil: left alone
	api *gateway

	moved    chan struct{} // a token when the stage changed
	renewNow chan struct{} // a token when a renewal was ordered
	// renewing is true while the gateway may know a newer certificate than api shows.
	renewing atomic.Bool
	voucher  voucher
	managing sync.Mutex    // held during a management session
	woken    chan struct{} // a token when a wake-up was accepted

	mu      sync.Mutex // guards what follows
	state   state
	have    layout
	unsure  bool // the last change of the network failed halfway: have may be wrong
	status  agentapi.Status
	placed  string    // stage that the network was last set up for
	seen    time.Time // last answer of the gateway
	problem string    // last failure to reach it, empty when reached
	noDNS   string    // why the DNS servers are not as they should be, empty when they are
	via     way       // to the gateway
	ways    []way     // found last
	keys    keys      // of the tunnel
	managed managed
	news    chan struct{} // closed at the next change of what a command may wait for; nil: nobody waits
}

// Run brings the tunnel up and keeps it until ctx ends or somebody asks for down. ready
// is called once the tunnel is up; reaching the gateway may take longer.
func Run(ctx context.Context, c Config, ready func()) error {
	c.Interface = cmp.Or(c.Interface, DefaultInterface)
	if c.Schedule == (Schedule{}) {
		c.Schedule = DefaultSchedule
	}
	s, err := openStore(c.Dir)
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if order, err := s.wipeOrder(); err != nil || order != nil {
		return errors.Join(err, resumeWipe(ctx, c, s, order))
	}
	st, err := s.load()
	if err != nil {
		return err
	}
	m, err := s.recoverManaged()
	if err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	a := newAgentOf(c, s, st, m, quit)
	listener, err := listenControl(c.Socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := a.up(ctx); err != nil {
		return errors.Join(err, a.tearDown())
	}
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.follow(ctx) })
	group.Go(func() error { return a.management(ctx) })
	group.Go(func() error { return a.sessions(ctx) })
	group.Go(func() error { return a.renewals(ctx) })
	group.Go(func() error { return a.control(ctx, listener) })
	ready()
	err = group.Wait()
	if errors.Is(err, errWipe) {
		return a.wipe(outer) // nothing else runs any more
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, a.tearDown())
}

func newAgentOf(c Config, s store, st state, m managed, quit context.CancelFunc) *Agent {
	return &Agent{config: c, store: s, log: c.Log, voucher: voucher{at: c.TPM, log: c.Log}, state: st, managed: m, quit: quit,
		moved: make(chan struct{}, 1), renewNow: make(chan struct{}, 1), woken: make(chan struct{}, 1)}
}

// up opens the tunnel with the network of quarantine; the gateway says whether there is more.
func (a *Agent) up(ctx context.Context) error {
	k, err := a.store.loadKeys(a.state)
	if err != nil {
		return err
	}
	a.keys = k
	link, err := tunnel.Open(ctx, tunnel.Config{
		Name: a.config.Interface, PrivateKey: k.used(), MTU: a.state.Settings.MTU, Mark: mark,
		ForceUserspace: a.config.Userspace, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.net = system{link}
	a.openDNS(ctx)
	if err := a.resolve(ctx); err != nil {
		return err
	}
	settings := a.state.Settings
	settings.Full.Addresses, settings.Full.Routes = nil, nil
	want, err := layoutFor(settings, a.via)
	if err != nil {
		return err
	}
	if err := a.apply(want); err != nil {
		return err
	}
	return a.connect()
}

// openDNS takes back what an agent that was killed left, and finds out where the device
// keeps its DNS servers.
func (a *Agent) openDNS(ctx context.Context) {
	file := &resolvConf{path: a.config.resolvConf(), log: a.log}
	left, err := file.left()
	if left {
		err = file.restore()
	}
	switch {
	case err != nil:
		a.dnsTrouble(err)
	case left:
		a.log.Info("took back the DNS servers of a run that did not end in order")
	}
	if a.config.NoDNS {
		return
	}
	if a.dns, err = openResolver(ctx, a.config.Interface, file.path, a.log); err != nil {
		a.dnsTrouble(err)
	}
}

// connect makes a client for the agent API with the present certificate.
func (a *Agent) connect() error {
	st := a.snapshot()
	cert, err := a.store.certificate(st)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	api, err := newGateway(st, a.via, cert)
	if err != nil {
		return err
	}
	if a.api != nil {
		a.api.close()
	}
	a.api = api
	a.tell()
	return nil
}

func (a *Agent) snapshot() state {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

func (a *Agent) client() *gateway {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.api
}

// tearDown removes what up and apply made.
func (a *Agent) tearDown() error {
	if a.net == nil {
		return nil
	}
	var err error
	if a.dns != nil {
		err = a.dns.restore()
	}
	return errors.Join(err, a.net.DropRules(), a.net.Remove())
}

// wait sleeps for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
