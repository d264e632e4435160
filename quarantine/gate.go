package quarantine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lazaret/firewall"
)

const (
	DefaultFreshness      = time.Minute
	DefaultQuarantineLife = 24 * time.Hour
	MaxFreshness          = 24 * time.Hour
	defaultTimeout        = 10 * time.Second
	planTimeout           = 10 // times Config.Timeout: a plan carries every device
)

// Keeper keeps tightenings that the store has not taken in yet. *Journal is the one on disk.
type Keeper interface {
	// Append returns when c is safe from a crash.
	Append(c Change) error
	// Done forgets c, and the reports that c superseded, and nothing else.
	Done(c Change) error
	// Pending returns what was appended and not done.
	Pending() map[ID][]Change
}

// Config is what a Gate is made of.
type Config struct {
	Store    Store    // required
	Enforcer Enforcer // required
	Journal  Keeper   // required
	Policy   Policy   // required
	Control  string   // required: names this run of the control plane, new at each start

	Gateway        string        // optional: this gateway's name in the audit log
	Log            *slog.Logger  // optional: discards
	Clock          Clock         // optional: SystemClock
	Freshness      time.Duration // optional: DefaultFreshness; how long routing outlives the control plane
	QuarantineLife time.Duration // optional: DefaultQuarantineLife; the same for quarantine
	Timeout        time.Duration // optional: 10 s; of one call to the store or the enforcer
	Cluster        bool          // optional: other gateways write to the same store, so that no bad report is only remembered here
}

func (c *Config) check() error {
	var faults []error
	need := func(there bool, field string) {
		if !there {
			faults = append(faults, fmt.Errorf("%s is required", field))
		}
	}
	need(c.Store != nil, "Store")
	need(c.Enforcer != nil, "Enforcer")
	need(c.Journal != nil, "Journal")
	need(c.Policy != nil, "Policy")
	need(c.Control != "", "Control")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock.Wall == nil || c.Clock.Boot == nil {
		c.Clock = SystemClock()
	}
	if c.Freshness == 0 {
		c.Freshness = DefaultFreshness
	}
	if c.QuarantineLife == 0 {
		c.QuarantineLife = DefaultQuarantineLife
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	for _, d := range []time.Duration{c.Freshness, c.QuarantineLife} {
		if d < 2*time.Second || d > MaxFreshness {
			faults = append(faults, fmt.Errorf("freshness of %s: want 2 s to %s", d, MaxFreshness))
		}
	}
	return errors.Join(faults...)
}

// Gate is the one way to move a device: it decides, records and applies, in that order
// for what loosens; what tightens is journalled, applied, and recorded as soon as the
// store can.
//
// Two things are held apart for every device: what is recorded, and what all known facts
// say now (the record, tightenings not yet recorded, settings, the time). Enforced is what
// both allow, so nothing is ever looser than its record.
type Gate struct {
	Config
	loaded   chan struct{} // closed once the store was read for the first time
	ready    chan struct{} // closed once the first plan is enforced and fresh
	applying chan struct{} // capacity 1: held while talking to the enforcer, so that calls keep their order

	reconnected chan struct{} // capacity 1: the data plane came back
	unplanned   chan struct{} // capacity 1: a complete plan is needed
	unfresh     chan struct{} // capacity 1: freshness can be prolonged at once
	unrecorded  chan struct{} // capacity 1: todo has grown
	rescheduled chan struct{} // capacity 1: the first wake is another
	roomier     chan struct{} // capacity 1: the tunnel has room for a peer that was lacking
	bulk        chan struct{} // capacity 1: held for a part of many reports, so that several callers disturb as one

	steady steady // has a lock of its own

	mu       lock // guards all below; held for a chunk of devices at most
	settings settings
	index    map[ID]*state
	all      []*state // of index, in no order
	names    register
	serials  register
	revision int64                // of the store, up to which the index is complete and applied
	seen     chan struct{}        // closed when revision grows
	waiters  map[ID]chan struct{} // closed when the device changes
	busy     map[ID]chan struct{} // devices whose record is being written; closed when done
	todo     agenda               // devices whose record must be written
	lacking  []*state             // devices that the tunnel had no room for, oldest first
	draft    *draft               // a plan in the making, or nil
	drafts   uint32               // begun
	unsafe   []Change             // repeats that are pending now and not in the journal yet
	struck   []Change             // recorded tightenings that the journal still holds
	wakes    wakes
	naming   naming

	planned   bool              // a complete plan was taken
	plannedAt int64             // its revision
	dirty     bool              // the data plane may hold something else than the index
	fresh     firewall.Deadline // of the last refresh
	problem   error             // last error with the whole plan or its freshness
	vain      tally             // moves in vain of which the log does not tell each
	orphaned  map[ID][]Change   // journalled before this run, until the first read of the store
}

// settings is what the organization decided; its maps are never written to.
type settings struct {
	pools      map[string]Pool
	profiles   map[string]Profile
	sources    map[string]Source
	sets       map[string]PolicySet
	conduct    Conduct
	quarantine string // name of the quarantine pool
	fault      error  // what is wrong with the pools
	generation uint64 // grows when any decision may be another
}

// NewGate makes a Gate; Run starts it.
func NewGate(c Config) (*Gate, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("making the gate: %w", err)
	}
	signal := func() chan struct{} { return make(chan struct{}, 1) }
	return &Gate{
		Config:      c,
		loaded:      make(chan struct{}),
		ready:       make(chan struct{}),
		applying:    signal(),
		reconnected: signal(),
		unplanned:   signal(),
		unfresh:     signal(),
		unrecorded:  signal(),
		rescheduled: signal(),
		roomier:     signal(),
		bulk:        signal(),
		index:       make(map[ID]*state),
		names:       make(register),
		serials:     make(register),
		seen:        make(chan struct{}),
		waiters:     make(map[ID]chan struct{}),
		busy:        make(map[ID]chan struct{}),
		dirty:       true,
		orphaned:    c.Journal.Pending(),
	}, nil
}

// Run follows the store and keeps the data plane right until ctx ends. It returns nil
// then, and never before: whatever fails is retried.
func (g *Gate) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	for _, part := range []func(context.Context){g.follow, g.plans, g.freshen, g.records, g.lapses, g.admitLacking} {
		parts.Go(func() { part(ctx) })
	}
	parts.Wait()
	g.keepRepeats()
	return nil
}

// Ready is closed once a complete plan is enforced and fresh for the first time.
func (g *Gate) Ready() <-chan struct{} { return g.ready }

// Replan asks for a complete plan to be sent, for a data plane that came back. It does not wait.
func (g *Gate) Replan() {
	g.mu.Lock()
	g.dirty = true
	g.mu.Unlock()
	signal(g.reconnected)
}

// signal leaves word in a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// backoff waits longer after each failure in a row.
type backoff struct{ wait time.Duration }

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// sleep waits, or returns earlier when ctx ends or an early channel has something.
func (b *backoff) sleep(ctx context.Context, early <-chan struct{}) {
	b.wait = min(max(2*b.wait, firstBackoff), lastBackoff)
	t := time.NewTimer(b.wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-t.C:
	}
}

func (b *backoff) reset() { b.wait = 0 }
