package quarantine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	DefaultFreshness      = time.Minute
	DefaultQuarantineLife = 24 * time.Hour
	MaxFreshness          = 24 * time.Hour
	defaultTimeout        = 10 * time.Second
)

// Keeper keeps tightenings that the store has not taken in yet. *Journal is the one on disk.
type Keeper interface {
	// Append returns when c is safe from a crash.
	Append(c Change) error
	// Done forgets the device's changes up to and including that tighten counter.
	Done(device ID, tighten uint64) error
	// Pending returns what was appended and not done, oldest first.
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
type Gate struct {
	Config
	ready chan struct{} // closed once the first plan is enforced and fresh

	mu sync.Mutex
}

// NewGate makes a Gate; Run starts it.
func NewGate(c Config) (*Gate, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("making the gate: %w", err)
	}
	return &Gate{Config: c, ready: make(chan struct{})}, nil
}

// Run follows the store and keeps the data plane right until ctx ends.
func (g *Gate) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Ready is closed once a complete plan is enforced and fresh for the first time.
func (g *Gate) Ready() <-chan struct{} { return g.ready }

// Change brings one fact and returns where the device belongs now.
func (g *Gate) Change(ctx context.Context, by Actor, c Change) (Placement, error) {
	return Placement{}, errors.ErrUnsupported
}

// Report takes a source's report.
func (g *Gate) Report(ctx context.Context, by Actor, r Report) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Reported, Device: r.Device, Report: &r})
}

// Approve admits a pending device and lifts a hold.
func (g *Gate) Approve(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Approve, Device: id, Why: why})
}

// Hold keeps a device in quarantine until it is approved.
func (g *Gate) Hold(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Hold, Device: id, Why: why})
}

// Block takes the device's peer away until a person unblocks it.
func (g *Gate) Block(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Block, Device: id, Why: why})
}

// Unblock lifts a block.
func (g *Gate) Unblock(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Unblock, Device: id, Why: why})
}

// Revoke takes the device's peer away for ever. Its certificate is the caller's to revoke.
func (g *Gate) Revoke(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Revoke, Device: id, Why: why})
}

// Prove notes that the device showed that it holds its WireGuard key.
func (g *Gate) Prove(ctx context.Context, by Actor, id ID) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Prove, Device: id})
}

// Confirm notes that the device has its certificate.
func (g *Gate) Confirm(ctx context.Context, by Actor, id ID) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Confirm, Device: id})
}

// Admit settles a record that is about to be stored for the first time, or anew, by the
// present settings: what an enrollment desk writes.
func (g *Gate) Admit(r Record) (Record, error) { return Record{}, errors.ErrUnsupported }

// Explanation answers why a device is where it is (X7).
type Explanation struct {
	Record   Record    // as stored, Reasons included
	Decided  Placement // what all known facts say now
	InForce  Placement // what is enforced: Decided, but no freer than what is recorded
	Pending  []Change  // tightenings the store has not taken in yet
	Enforced bool      // the data plane holds InForce
	Problem  string    // last enforcement error, empty for none
}

// Explain tells everything about one device, found by ID or name.
func (g *Gate) Explain(idOrName string) (Explanation, error) {
	return Explanation{}, errors.ErrUnsupported
}

// Device returns one device by ID or name, as it stands now, with reasons.
func (g *Gate) Device(idOrName string) (Record, error) { return Record{}, errors.ErrUnsupported }

// Devices returns all devices as they stand now, sorted by name, without reasons.
func (g *Gate) Devices() []Record { return nil }

// Wait returns the device once its record is newer than revision after.
func (g *Gate) Wait(ctx context.Context, id ID, after int64) (Record, error) {
	return Record{}, errors.ErrUnsupported
}

// Replan asks for a complete plan to be sent, for a data plane that came back. It does not wait.
func (g *Gate) Replan() {}
