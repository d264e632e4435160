package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"lazaret/appliance"
)

// Bounds of what the clock is set by.
const (
	// StepFrom is the offset from which the clock is set instead of slewed (RFC 5905, STEPT).
	StepFrom = 128 * time.Millisecond
	// MaxStep is how far a claimed machine's clock is set in a day (by its own measure) without a person.
	MaxStep = time.Hour
)

// When to ask.
const (
	soon   = 5 * time.Second    // after a round that failed; doubled each time
	seldom = 1024 * time.Second // once all is well (RFC 5905: 2^10)
	first  = 64 * time.Second   // for the first few rounds after that
	firsts = 4
	marks  = time.Hour     // between two marks on the disk
	stale  = 3 * time.Hour // without a comparison the time is not called synchronized
)

// System is a clock that can be set.
type System interface {
	Now() time.Time
	Step(time.Time) error
	Slew(offset, every time.Duration) error
	Save(time.Time) error // into the hardware clock
}

// Config is what a Keeper needs.
type Config struct {
	Log     *slog.Logger    // required
	System  System          // required: Kernel, but in tests
	Servers func() []string // names or addresses, asked anew in each round; nil or none: DefaultServers
	Built   time.Time       // when the image was built: time is never before
	Mark    string          // a file on the data partition whose time of change is the last time known; empty: none
	Claimed func() bool     // the machine is somebody's: great steps wait for a person; nil: it is not

	ask func(ctx context.Context, server string, now func() time.Time) (sample, error) // nil: by NTP
}

// Keeper keeps the clock. Its methods may be called by several at once.
type Keeper struct {
	config Config
	kick   chan struct{} // of capacity 1
	synced chan struct{} // closed at the first comparison

	mu     sync.Mutex // guards what follows
	turn   sync.Mutex // held while the clock is compared and set
	status appliance.Clock
	when   time.Time // of the last comparison, by the monotonic clock
	good   int       // comparisons so far
	marked time.Time // when the mark was written last
	alone  map[string]time.Time
	walked time.Duration // sum of the steps that no person took, since
	since  time.Time     // then; a day at most
}

// New returns a Keeper that has touched nothing yet.
func New(c Config) (*Keeper, error) {
	if c.Log == nil || c.System == nil {
		return nil, errors.New("making the clock's keeper: no log or no clock")
	}
	if c.ask == nil {
		c.ask = ask
	}
	return &Keeper{config: c, kick: make(chan struct{}, 1), synced: make(chan struct{}), alone: make(map[string]time.Time)}, nil
}

func (k *Keeper) servers() []string {
	var list []string
	if k.config.Servers != nil {
		list = k.config.Servers()
	}
	if len(list) == 0 {
		list = DefaultServers
	}
	return list[:min(len(list), maxServers)]
}

func (k *Keeper) isLeftAlone(server string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Before(k.alone[server])
}

func (k *Keeper) leaveAlone(server string, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.alone) > 8*maxServers {
		clear(k.alone) // names change with DHCP; whoever is still annoyed says so again
	}
	k.alone[server] = time.Now().Add(d)
}

// Run keeps the clock until ctx ends, and returns nil then.
func (k *Keeper) Run(ctx context.Context) error {
	wait := soon
	for ctx.Err() == nil {
		next := wait
		if err := k.compare(ctx, false); err != nil {
			wait = min(2*wait, seldom)
		} else {
			wait, next = soon, k.interval()
		}
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-k.kick:
			wait = soon
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

func (k *Keeper) interval() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.good <= firsts {
		return first
	}
	return seldom
}

// Kick begins a round at once, as when the network has come up.
func (k *Keeper) Kick() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Accept has a step that waits for a person taken, if servers still agree. It goes behind the
// mark, which may be wrong, but never behind the time the image was built.
func (k *Keeper) Accept(ctx context.Context) error {
	if err := k.compare(ctx, true); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// compare asks, decides and sets.
func (k *Keeper) compare(ctx context.Context, person bool) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	offset, from, err := k.round(ctx)
	if err == nil {
		err = k.set(offset, person)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	k.note(offset, from, err)
	if err == nil {
		k.mark(person)
	}
	return err
}

// set makes the clock differ by offset, within the bounds.
func (k *Keeper) set(offset time.Duration, person bool) error {
	if offset.Abs() < StepFrom {
		return k.config.System.Slew(offset, k.interval())
	}
	to := k.config.System.Now().Add(offset)
	floor := k.config.Built
	if !person {
		floor = k.floor()
	}
	if to.Before(floor) {
		return fmt.Errorf("time servers say %s, which has passed already: %s is known", to.UTC().Format(time.RFC3339), floor.UTC().Format(time.RFC3339))
	}
	if k.config.Claimed != nil && k.config.Claimed() && !person && !k.walk(offset.Abs()) {
		return fmt.Errorf("time servers say %s, %v from this clock: too far to follow without a person", to.UTC().Format(time.RFC3339), offset.Round(time.Second))
	}
	k.config.Log.Warn("setting the clock", "by", offset, "to", to.UTC())
	if err := k.config.System.Step(k.config.System.Now().Add(offset)); err != nil {
		return err
	}
	return k.config.System.Save(k.config.System.Now())
}

// walk says whether a step of d keeps within what is allowed in a day, and counts it: small
// steps in a row must not lead where a great one may not.
func (k *Keeper) walk(d time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.since) > 24*time.Hour {
		k.walked, k.since = 0, time.Now()
	}
	if k.walked+d > MaxStep {
		return false
	}
	k.walked += d
	return true
}

// note keeps what a round found.
func (k *Keeper) note(offset time.Duration, from string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		if k.status.Problem != err.Error() {
			k.config.Log.Warn("the time was not compared", "error", err)
		}
		k.status.Problem = err.Error()
		return
	}
	if k.good++; k.good == 1 {
		close(k.synced)
		k.config.Log.Info("the time is known", "server", from, "offset", offset)
	}
	k.when = time.Now()
	k.status = appliance.Clock{Server: from, At: k.config.System.Now().UTC(), Offset: offset.Seconds()}
}

// Status is what is known of the time.
func (k *Keeper) Status() appliance.Clock {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.status
	s.Synchronized = k.good > 0 && time.Since(k.when) < stale
	return s
}

// Synchronized returns a channel that is closed once the clock has been compared and is right.
func (k *Keeper) Synchronized() <-chan struct{} { return k.synced }

// floor is the last time known to have passed.
func (k *Keeper) floor() time.Time {
	floor := k.config.Built
	if k.config.Mark == "" {
		return floor
	}
	if info, err := os.Stat(k.config.Mark); err == nil && info.ModTime().After(floor) {
		floor = info.ModTime()
	}
	return floor
}

// Floor sets the clock to the last time known to have passed, if it is behind it, as after
// a dead battery. Call it at the start, again when the data partition is open, and before
// anything that looks at certificates.
func (k *Keeper) Floor() error {
	k.turn.Lock()
	defer k.turn.Unlock()
	now, floor := k.config.System.Now(), k.floor()
	if !now.Before(floor) {
		return nil
	}
	k.config.Log.Warn("the clock is behind what is known to have passed", "clock", now.UTC(), "known", floor.UTC())
	return k.config.System.Step(floor)
}

// mark writes down that this time has come. Only a time that servers agree on is written: a
// clock that is ahead would otherwise never come back by itself.
func (k *Keeper) mark(person bool) {
	if k.config.Mark == "" {
		return
	}
	now := k.config.System.Now()
	k.mu.Lock()
	due := person || k.marked.IsZero() || now.Sub(k.marked).Abs() >= marks
	k.mu.Unlock()
	if !due {
		return
	}
	if err := touch(k.config.Mark, now); err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // the partition is not open yet
			k.config.Log.Warn("writing down the time", "error", err)
		}
		return
	}
	k.mu.Lock()
	k.marked = now
	k.mu.Unlock()
}

func touch(path string, at time.Time) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Chtimes(path, at, at)
}
