package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	Dir       string   // required: state directory, 0700
	Socket    string   // required: control socket, for status and down
	Interface string   // optional: DefaultInterface
	Userspace bool     // do not look for kernel WireGuard
	Schedule  Schedule // optional: DefaultSchedule
	Log       *slog.Logger
}

// network is what the agent changes on the device.
type network interface {
	SetAddresses([]netip.Prefix) error
	SetPeer(tunnel.Peer) error
	SetRoutes([]tunnel.Route) error
	SetRules(endpoint netip.Addr) error
	DropRules() error
	Peers() ([]tunnel.PeerStatus, error)
	Remove() error
}

// system is the device's own network.
type system struct{ *tunnel.Link }

func (system) SetRules(endpoint netip.Addr) error { return setRules(endpoint) }
func (system) DropRules() error                   { return dropRules() }

// Agent is one running agent.
type Agent struct {
	config Config
	store  store
	log    *slog.Logger
	quit   context.CancelFunc

	net network
	api *gateway

	moved chan struct{} // a token when the stage changed
	// renewing is true while the gateway may know a newer certificate than api shows.
	renewing atomic.Bool

	mu       sync.Mutex // guards what follows
	state    state
	have     layout
	status   agentapi.Status
	seen     time.Time // last answer of the gateway
	problem  string    // last failure to reach it, empty when reached
	endpoint netip.AddrPort
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
	st, err := s.load()
	if err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	a := &Agent{config: c, store: s, log: c.Log, state: st, quit: quit, moved: make(chan struct{}, 1)}
	listener, err := listenControl(c.Socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := a.up(ctx); err != nil {
		return errors.Join(err, a.tearDown())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.follow(ctx) })
	group.Go(func() error { return a.sessions(ctx) })
	group.Go(func() error { return a.renewals(ctx) })
	group.Go(func() error { return a.control(ctx, listener) })
	ready()
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, a.tearDown())
}

// up opens the tunnel with the network of quarantine; the gateway says whether there is more.
func (a *Agent) up(ctx context.Context) error {
	key, err := a.store.wireguard()
	if err != nil {
		return err
	}
	link, err := tunnel.Open(ctx, tunnel.Config{
		Name: a.config.Interface, PrivateKey: key, MTU: a.state.Settings.MTU, Mark: mark,
		ForceUserspace: a.config.Userspace, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.net = system{link}
	if err := a.resolve(ctx); err != nil {
		return err
	}
	settings := a.state.Settings
	settings.Full.Addresses, settings.Full.Routes = nil, nil
	want, err := layoutFor(settings, a.endpoint)
	if err != nil {
		return err
	}
	if err := a.apply(want); err != nil {
		return err
	}
	return a.connect()
}

// connect makes a client for the agent API with the present certificate.
func (a *Agent) connect() error {
	st := a.snapshot()
	cert, err := a.store.certificate(st)
	if err != nil {
		return err
	}
	api, err := newGateway(st, cert)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.api != nil {
		a.api.close()
	}
	a.api = api
	return nil
}

func (a *Agent) client() *gateway {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.api
}

// resolve looks the gateway's endpoint up; the first address of the first endpoint that
// has one is taken.
func (a *Agent) resolve(ctx context.Context) error {
	gateways := a.snapshot().Settings.Gateways
	if len(gateways) == 0 {
		return errors.New("the enrollment names no gateway: enroll anew")
	}
	var faults []error
	for _, e := range gateways[0].Endpoints {
		host, port, err := net.SplitHostPort(e)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil || len(addrs) == 0 {
			faults = append(faults, err)
			continue
		}
		a.mu.Lock()
		a.endpoint = netip.AddrPortFrom(addrs[0].Unmap(), uint16(n))
		a.mu.Unlock()
		return nil
	}
	return fmt.Errorf("finding the gateway: %w", errors.Join(faults...))
}

// apply makes the device's network as want says; what is right already is not touched.
func (a *Agent) apply(want layout) error {
	if a.have.equal(want) {
		return nil
	}
	if err := a.net.SetAddresses(want.Addresses); err != nil {
		return err
	}
	if err := a.net.SetPeer(want.Peer); err != nil {
		return err
	}
	if err := a.net.SetRoutes(want.Routes); err != nil {
		return err
	}
	if want.Peer.Endpoint != a.have.Peer.Endpoint {
		if err := a.net.SetRules(want.Peer.Endpoint.Addr()); err != nil {
			return err
		}
	}
	a.have = want
	return nil
}

// tearDown removes what up and apply made.
func (a *Agent) tearDown() error {
	if a.net == nil {
		return nil
	}
	return errors.Join(a.net.DropRules(), a.net.Remove())
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
