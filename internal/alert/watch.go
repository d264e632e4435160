package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lazaret/quarantine"
)

// Gate wipes and blocks devices that are silent for too long; *quarantine.Gate is one.
type Gate interface {
	Change(ctx context.Context, by quarantine.Actor, c quarantine.Change) (quarantine.Placement, error)
}

// Config is what a Watcher needs.
type Config struct {
	Book    *Book                                                // required
	Store   Store                                                // required: keeps when somebody listened
	View    func(ctx context.Context) (View, error)              // required: all but Silence and Many
	Outlets func(ctx context.Context) ([]Outlet, error)          // required
	Gate    Gate                                                 // required
	Log     *slog.Logger                                         // required
	Trusted func(ctx context.Context) (now time.Time, err error) // required: the time, or why it cannot be trusted
	Every   time.Duration                                        // optional: a minute
}

// Watcher looks, raises, resolves, tells, and acts on devices that are silent for too long.
type Watcher struct {
	Config
	watched Watched
	kick    chan struct{}

	mu     sync.Mutex
	latest Watched // a copy of watched for Silence
}

// NewWatcher makes one; Run starts it.
func NewWatcher(c Config) (*Watcher, error) {
	if c.Book == nil || c.Store == nil || c.View == nil || c.Outlets == nil || c.Gate == nil || c.Log == nil || c.Trusted == nil {
		return nil, errors.New("building the watcher of alerts: something that is required is missing")
	}
	if c.Every == 0 {
		c.Every = time.Minute
	}
	return &Watcher{Config: c, kick: make(chan struct{}, 1)}, nil
}

const watchedNote = "watched"

// Run looks every so often, until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	kept, err := w.Store.List(ctx, watchedNote)
	if err != nil {
		return fmt.Errorf("reading when devices were watched: %w", err)
	}
	if text, ok := kept[watchedNote]; ok {
		if err := json.Unmarshal(text, &w.watched); err != nil || w.watched.V != 1 {
			w.Log.Error("what is kept of when devices were watched cannot be read: their silence counts from now", "err", err)
			w.watched = Watched{}
		}
	}
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for {
		if err := w.round(ctx); err != nil && ctx.Err() == nil {
			w.Log.Warn("watching for alerts", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.kick:
		}
	}
}

// Kick has it look now.
func (w *Watcher) Kick() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Silence is how long nothing was heard of a device while somebody listened.
func (w *Watcher) Silence(r quarantine.Record, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest.Silence(LastSeen(r), now)
}

func (w *Watcher) round(ctx context.Context) error {
	v, err := w.View(ctx)
	if err != nil {
		return fmt.Errorf("gathering what alerts are about: %w", err)
	}
	now, untrusted := w.Trusted(ctx)
	var faults []error
	if untrusted == nil {
		faults = append(faults, w.beat(ctx, now))
		if !v.Deaf {
			v.Silence = func(r quarantine.Record) time.Duration { return w.watched.Silence(LastSeen(r), now) }
			faults = append(faults, w.act(ctx, &v))
		}
	}
	looked, found := Look(v)
	faults = append(faults, w.Book.Observe(ctx, v.Now, looked, found))
	outlets, err := w.Outlets(ctx)
	faults = append(faults, err, w.Book.Tell(ctx, outlets, w.Log))
	return errors.Join(faults...)
}

// beat notes that somebody listens now. It is written every Beat, and after each outage.
func (w *Watcher) beat(ctx context.Context, now time.Time) error {
	next := w.watched.At(now)
	if next.Last.Sub(w.watched.Last) < Beat && len(next.Outages) == len(w.watched.Outages) && next.Since.Equal(w.watched.Since) {
		return nil
	}
	text, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("noting that devices are watched: %w", err)
	}
	if err := w.Store.Put(ctx, watchedNote, text); err != nil {
		return err
	}
	w.watched = next
	w.mu.Lock()
	w.latest = next
	w.mu.Unlock()
	return nil
}

// inactivity is who wipes or blocks a device for its silence.
var inactivity = quarantine.Actor{Kind: "policy", Name: "inactivity"}

func (w *Watcher) act(ctx context.Context, v *View) error {
	if v.Devices == nil {
		return nil
	}
	due, action, deferred := Due(v.Devices, v.Silence, v.Conduct, v.Now)
	v.Many = &deferred
	kind := map[quarantine.FailureAction]quarantine.Kind{quarantine.FailWipe: quarantine.Wipe, quarantine.FailBlock: quarantine.Block}[action]
	var faults []error
	for _, r := range due {
		_, err := w.Gate.Change(ctx, inactivity, quarantine.Change{
			Kind: kind, Device: r.ID, By: inactivity, At: v.Now, Why: "not heard of for " + days(v.Silence(r)),
		})
		if err != nil && !errors.Is(err, quarantine.ErrNotEnforced) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}
