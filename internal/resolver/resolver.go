package resolver

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"lazaret/quarantine"
)

// What Config means where it says nothing.
const (
	DefaultGrace = time.Hour
	DefaultStale = 24 * time.Hour
)

const (
	lookups    = 16               // at once
	lookupTime = 15 * time.Second // for one, with all servers and tries
	saveEvery  = 15 * time.Minute // at most, while only times change
)

// Gate enforces what names resolve to; *quarantine.Gate is one.
type Gate interface {
	// Pools returns the pools by name, and a channel that is closed when they change.
	Pools() (map[string]quarantine.Pool, <-chan struct{})
	// SetNames takes in what names resolve to.
	SetNames(n quarantine.Names)
}

// Config is what a Resolver is made of.
type Config struct {
	Gate    Gate                             // required
	Servers func() ([]netip.AddrPort, error) // required: upstream servers in the order to ask them, read before each question
	Grace   time.Duration                    // optional: DefaultGrace; how long an address outlives its place in answers
	Stale   time.Duration                    // optional: DefaultStale; how long one outlives its TTL while nobody answers
	Gateway func() []netip.Addr              // optional: the gateway's own addresses, which no name opens
	Own     []netip.Prefix                   // optional: public networks that names open like private ones: where a pool allows it
	File    string                           // optional: keeps pins over a restart
	Log     *slog.Logger                     // optional: discards

	Dial func(ctx context.Context, network, address string) (net.Conn, error) // optional: the net package's
}

// Resolver keeps the addresses of the names that pools reach.
type Resolver struct {
	cfg   Config
	times times
	ask   *exchanger
	slots chan struct{} // capacity lookups

	publishing sync.Mutex // held while the gate is told, so that it hears things in order
	mu         sync.Mutex // guards all below
	names      map[string]*name
	choices    uint64          // the last Pin.held
	refused    map[string]bool // what the log has told
	saved      time.Time
	unsaved    bool // something is not in File
	urgent     bool // and is more than a time
}

// name is one name that a pool reaches. The Resolver's mu guards it.
type name struct {
	families [2]family // A and AAAA
	stop     context.CancelFunc
}

var types = [2]uint16{dns.TypeA, dns.TypeAAAA}

// New makes a Resolver, with what File holds from before. Run starts it.
func New(c Config) (*Resolver, error) {
	if c.Gate == nil || c.Servers == nil {
		return nil, errors.New("making the resolver: gate and servers are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Gateway == nil {
		c.Gateway = func() []netip.Addr { return nil }
	}
	r := &Resolver{
		cfg: c, times: times{cmp.Or(c.Grace, DefaultGrace), cmp.Or(c.Stale, DefaultStale)},
		ask: &exchanger{servers: c.Servers, dial: c.Dial}, slots: make(chan struct{}, lookups),
		names: make(map[string]*name), refused: make(map[string]bool),
	}
	if c.File != "" {
		if err := r.tidy(); err != nil {
			c.Log.Warn("starting the resolver", "error", err)
		}
		if err := r.load(time.Now()); err != nil {
			c.Log.Warn("starting without the addresses known before", "error", err)
		}
	}
	r.publish() // before the gate sends its first plan
	return r, nil
}

// Run follows the pools and resolves their names until ctx ends. It returns nil then, and
// never before.
func (r *Resolver) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for ctx.Err() == nil {
		pools, changed := r.cfg.Gate.Pools()
		if len(pools) > 0 { // the store was read
			r.want(ctx, namesOf(pools), &all)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	all.Wait()
	r.save(true)
	return nil
}

func namesOf(pools map[string]quarantine.Pool) map[string]bool {
	names := make(map[string]bool)
	for _, p := range pools {
		for _, n := range p.Named {
			names[n.Name] = true
		}
	}
	return names
}

// want starts following names that are new, and forgets those that no pool has any more.
func (r *Resolver) want(ctx context.Context, names map[string]bool, all *sync.WaitGroup) {
	r.mu.Lock()
	for text, n := range r.names {
		if !names[text] {
			if n.stop != nil {
				n.stop()
			}
			delete(r.names, text)
			r.unsaved = true
		}
	}
	for text := range names {
		n := r.names[text]
		if n == nil {
			n = &name{}
			r.names[text] = n
		}
		if n.stop == nil {
			var mine context.Context
			mine, n.stop = context.WithCancel(ctx)
			all.Go(func() { r.follow(mine, text, n) })
		}
	}
	r.mu.Unlock()
	r.publish() // what a name may open depends on the pools, too
}

// follow asks for a name's addresses whenever it is time, until ctx ends.
func (r *Resolver) follow(ctx context.Context, text string, n *name) {
	for {
		r.refresh(ctx, text, n)
		if ctx.Err() != nil {
			return
		}
		r.publish()
		r.mu.Lock()
		wake := n.families[0].wake(r.times)
		if other := n.families[1].wake(r.times); other.Before(wake) {
			wake = other
		}
		r.mu.Unlock()
		t := time.NewTimer(max(time.Until(wake), 0))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// refresh asks for the families that are due, and lets addresses end.
func (r *Resolver) refresh(ctx context.Context, text string, n *name) {
	var both sync.WaitGroup
	for i, qtype := range types {
		r.mu.Lock()
		due := !time.Now().Before(n.families[i].due)
		r.mu.Unlock()
		if due {
			both.Go(func() { r.question(ctx, text, n, i, qtype) })
		}
	}
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n.families {
		n.families[i].expire(time.Now(), r.times)
	}
}

func (r *Resolver) question(ctx context.Context, text string, n *name, i int, qtype uint16) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return
	}
	call, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	a, err := r.ask.lookup(call, text, qtype)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f, now := &n.families[i], time.Now()
	if err != nil {
		if f.problem == "" {
			r.cfg.Log.Warn("a name that a pool reaches is not answered; its addresses stay until they are stale", "name", text, "type", dns.TypeToString[qtype], "error", err)
		}
		f.fail(err.Error(), now, r.times)
		return
	}
	before := f.addrs()
	f.take(a, now, r.times)
	r.unsaved, r.urgent = true, r.urgent || !slices.Equal(before, f.addrs())
}

// publish tells the gate all addresses, and the log which of them are refused.
func (r *Resolver) publish() {
	r.publishing.Lock()
	defer r.publishing.Unlock()
	n := quarantine.Names{Addresses: r.Addresses(), Gateway: r.cfg.Gateway(), Own: r.cfg.Own}
	r.cfg.Gate.SetNames(n)
	r.hold(n)
	r.tell(n)
	r.save(false)
}

// Addresses are what every name resolves to at this moment, whether or not it may be
// reached; the most wanted first.
func (r *Resolver) Addresses() map[string][]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string][]netip.Addr, len(r.names))
	for text, n := range r.names {
		var list []netip.Addr
		for _, p := range n.pins(time.Now(), r.times) {
			list = append(list, p.Addr)
		}
		all[text] = list
	}
	return all
}

// pins are the addresses of both families, the most wanted first.
func (n *name) pins(now time.Time, t times) []Pin {
	var all []Pin
	for _, f := range n.families {
		for _, p := range f.pins {
			if t.until(p).After(now) {
				all = append(all, p)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Pin) int {
		if a.held == 0 && b.held == 0 && a.Current == b.Current {
			return 0 // IPv4 before IPv6
		}
		return wanted(a, b)
	})
	return all
}

// Known is what is known of one name.
type Known struct {
	Pins     []Pin     // those that are open first, then those of the latest answers
	Answered time.Time // of the older of the last answers for A and AAAA; zero: one has none yet
	Problem  string    // of the last question, empty for an answer
}

// Until is when an address will be closed if nothing is heard of it any more.
func (r *Resolver) Until(p Pin) time.Time { return r.times.until(p) }

// Look tells about one name; false if no pool reaches it.
func (r *Resolver) Look(text string) (Known, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[text]
	if n == nil {
		return Known{}, false
	}
	k := Known{Pins: n.pins(time.Now(), r.times), Answered: n.families[0].answered}
	for _, f := range n.families {
		if f.answered.Before(k.Answered) {
			k.Answered = f.answered
		}
		k.Problem = cmp.Or(k.Problem, f.problem)
	}
	return k, true
}
