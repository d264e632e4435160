package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// Config says what a Plane works with.
type Config struct {
	Table    Table                               // required: opened, not yet adopted; Run does not close it
	OpenLink func(context.Context) (Link, error) // required: called once the table stands
	Host     firewall.Ruleset                    // required: the gateway's own rules, without pools
	Listen   func() (*net.UnixListener, error)   // makes the socket for control planes; called once the table is this process's own and the link is open
	Listener *net.UnixListener                   // instead of Listen: an inherited socket
	Conn     net.Conn                            // an inherited connection to a control plane; one of these three is required
	UIDs     []uint32                            // users that may connect by the socket; empty: the process's own
	Forward  func() error                        // switches forwarding on, and again if somebody switched it off; nil: writes /proc/sys
	Clock    func() Times                        // nil: SystemTimes
	Flows    Flows                               // optional: forgets the connections of addresses that were cut
	Log      *slog.Logger                        // optional

	Interface func(name string) (Interface, error) // looks at the tunnel's interface; nil: SystemInterface
}

// Plane is the data plane. It starts with everything shut.
type Plane struct {
	config Config
	log    *slog.Logger
	ready  chan struct{}
	talks  *sync.WaitGroup // connections
	tunnel string          // interface name

	tidying chan struct{} // capacity 1: something was cut, and answered

	mu      sync.Mutex // guards everything below, and every use of table and link
	link    Link
	mirror  *mirror
	rules   rules // of the last plan
	control string
	planned bool                    // a complete plan is in the table
	applied int64                   // revision up to which it is
	planAt  int64                   // revision of the last plan
	failed  map[quarantine.ID]bool  // devices whose last move failed; freshness ends until they are mended
	lacking map[tunnel.Key]error    // peers of the mirror that the tunnel lacks, and why; nobody else's matter
	kept    map[quarantine.ID]error // devices that the last plan would have loosened by an outdated entry, and why not
	fresh   firewall.Deadline
	alive   firewall.Deadline
	forward bool   // forwarding was switched on
	index   int    // of the tunnel's interface
	lost    bool   // the tunnel's interface is gone: link is closed, and nothing planned
	full    bool   // lost, and the table not emptied yet
	refusal string // what opening it again met last
	ended   bool   // Run lets go: no connection begins any more
	cut     cuts   // to be forgotten
	seen    Times
	current *session // the control plane that is listened to; nil: none

	nextRetry time.Time // Run's own: when to set missing peers again
	nextLook  time.Time // Run's own: when to look for handshakes again
	ticks     int       // Run's own
}

// New checks c. Nothing happens before Run.
func New(c Config) (*Plane, error) {
	var faults []error
	need := func(there bool, what string) {
		if !there {
			faults = append(faults, errors.New(what))
		}
	}
	need(c.Table != nil, "Table is required")
	need(c.OpenLink != nil, "OpenLink is required")
	need(c.Host.Table != "" && c.Host.Tunnel != "", "Host must name the table and the tunnel")
	need(len(c.Host.Pools) == 0, "Host must have no pools: they come with a plan")
	need(c.Listen != nil || c.Listener != nil || c.Conn != nil, "Listen, Listener or Conn is required")
	need(c.Listen == nil || c.Listener == nil, "Listen and Listener exclude each other")
	if len(faults) > 0 {
		return nil, fmt.Errorf("making the data plane: %w", errors.Join(faults...))
	}
	if len(c.UIDs) == 0 {
		c.UIDs = []uint32{uint32(os.Geteuid())}
	}
	if c.Forward == nil {
		c.Forward = forwardAll
	}
	if c.Clock == nil {
		c.Clock = SystemTimes
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Interface == nil {
		c.Interface = SystemInterface
	}
	p := &Plane{config: c, log: c.Log, ready: make(chan struct{}), talks: new(sync.WaitGroup), tunnel: c.Host.Tunnel, tidying: make(chan struct{}, 1)}
	p.mirror, p.failed, p.lacking = newMirror(0), make(map[quarantine.ID]bool), make(map[tunnel.Key]error)
	return p, nil
}

// Ready is closed once the table stands, the link is up and orders are taken.
func (p *Plane) Ready() <-chan struct{} { return p.ready }

// Run adopts the table, opens the link, takes orders until ctx ends, and lets go. The
// table stays, and a kernel link too. If the table cannot be set up there is no
// interface, and Run fails. It returns nil when ctx ended, and may be called once.
//
// The order is the point: the table drops everything before there is an interface,
// the interface is there before any peer, and forwarding comes last, with the first
// complete plan. Another data plane that runs already owns the table, and is left with
// its socket too.
func (p *Plane) Run(ctx context.Context) error {
	if err := p.config.Table.Adopt(p.config.Host); err != nil {
		return fmt.Errorf("setting up the firewall table: %w", err)
	}
	p.mu.Lock()
	p.seen = p.config.Clock()
	err := p.openLink(ctx)
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("opening the tunnel: %w", err)
	}
	listener := p.config.Listener
	if p.config.Listen != nil {
		if listener, err = p.config.Listen(); err != nil {
			return errors.Join(fmt.Errorf("listening for the control plane: %w", err), p.letGo())
		}
	}
	p.log.Info("data plane is up", "table", p.config.Host.Table, "tunnel", p.config.Host.Tunnel)
	return p.serve(ctx, listener)
}

// letGo ends Run's use of the tunnel.
func (p *Plane) letGo() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	link := p.link
	p.link = nil
	if p.lost {
		return nil
	}
	return link.Close()
}

// serve owns the goroutines of Run.
func (p *Plane) serve(ctx context.Context, l *net.UnixListener) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer p.talks.Wait()
	defer func() { p.hangUp(); err = errors.Join(err, p.letGo()) }()
	defer cancel()
	failed, changed := make(chan error, 1), make(chan struct{}, 1)
	p.talks.Go(func() { p.tidyFlows(ctx) })
	p.talks.Go(func() { p.follow(ctx, changed) })
	if p.config.Conn != nil {
		p.talks.Go(func() { p.talk(p.config.Conn) })
	}
	if l != nil {
		defer l.Close()
		p.talks.Go(func() { failed <- p.accept(ctx, l) })
	}
	close(p.ready)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-changed:
			p.watchLink(ctx)
		case <-tick.C:
			p.tick(ctx)
		}
	}
}

// tick does what no order asks for.
func (p *Plane) tick(ctx context.Context) {
	p.watchClocks()
	p.watchLink(ctx)
	p.watchHandshakes()
	if p.ticks++; p.ticks%verifyEvery == 0 {
		p.watchTable()
		p.watchForwarding()
		p.retryPeers()
	}
}

// forwardAll lets the kernel forward packets, in this network namespace.
func forwardAll() error {
	var faults []error
	for _, name := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if b, err := os.ReadFile(name); err == nil && string(b) == "1\n" {
			continue
		}
		if err := os.WriteFile(name, []byte("1\n"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, err) // not there: the kernel has no IPv6
		}
	}
	return errors.Join(faults...)
}
