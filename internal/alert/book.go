package alert

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"lazaret/quarantine"
)

var (
	// ErrUnknown reports an alert that does not exist.
	ErrUnknown = errors.New("no such alert")
	// ErrOver reports an alert that is resolved already.
	ErrOver = errors.New("the alert is resolved already")
)

// Store keeps alerts between runs, by name; the daemon's are the store's notes.
type Store interface {
	Put(ctx context.Context, name string, value []byte) error
	List(ctx context.Context, prefix string) (map[string][]byte, error)
	Delete(ctx context.Context, names ...string) error
}

// Audit records that an alert was raised, acknowledged or resolved. What follows the audit
// log tells others.
type Audit func(ctx context.Context, by quarantine.Actor, action string, a Alert) error

const (
	prefix = "alert/"
	// keepResolved is how long a resolved alert is listed.
	keepResolved = 30 * 24 * time.Hour
	// most is how many alerts a book holds; resolved ones make room.
	most = 5000
)

// Book keeps the alerts of one organization.
type Book struct {
	store Store
	audit Audit
	by    quarantine.Actor

	mu  sync.Mutex // held over a change and its record, so that they are in one order
	all map[string]Alert
}

// OpenBook reads what is kept. by is the gateway, which raises and resolves.
func OpenBook(ctx context.Context, s Store, audit Audit, by quarantine.Actor) (*Book, error) {
	kept, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("reading alerts: %w", err)
	}
	b := &Book{store: s, audit: audit, by: by, all: make(map[string]Alert, len(kept))}
	for name, text := range kept {
		var a Alert
		if err := json.Unmarshal(text, &a); err != nil || a.V != 1 {
			return nil, fmt.Errorf("reading alert %s: version %d: %w", name, a.V, errors.Join(err))
		}
		b.all[a.ID] = a
	}
	return b, nil
}

// Observe takes in what rules found now of the kinds that they looked for: what is new is
// raised, and what is gone is resolved. Alerts of other kinds stay as they are.
func (b *Book) Observe(ctx context.Context, now time.Time, looked []Kind, found []Condition) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var faults []error
	here := map[string]bool{}
	for _, c := range found {
		if !slices.Contains(looked, c.Kind) || here[c.ID()] {
			continue
		}
		here[c.ID()] = true
		before := b.all[c.ID()]
		a, changed := before.raise(c, now)
		switch {
		case !changed:
		case before.ID == "" && !b.room(ctx):
			faults = append(faults, fmt.Errorf("raising %s: %d alerts are kept already: resolve some", a.ID, most))
		case a.Count != before.Count:
			faults = append(faults, b.keep(ctx, b.by, "alert.raise", a))
		default:
			faults = append(faults, b.keep(ctx, b.by, "", a))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.all)) {
		a := b.all[id]
		switch {
		case a.State == Resolved && now.Sub(a.Resolution.At) > keepResolved:
			faults = append(faults, b.drop(ctx, id))
		case a.State != Resolved && slices.Contains(looked, a.Kind) && !here[id]:
			faults = append(faults, b.keep(ctx, b.by, "alert.resolve", a.resolve(b.by, "it is over", now)))
		}
	}
	return errors.Join(faults...)
}

// Acknowledge notes that somebody looks after it.
func (b *Book) Acknowledge(ctx context.Context, by quarantine.Actor, id, why string, now time.Time) (Alert, error) {
	return b.change(ctx, id, "acknowledging", func(a Alert) (Alert, string) {
		a.State, a.Acknowledgement = Acknowledged, quarantine.Decision{By: by, At: now, Why: why}
		return a, "alert.acknowledge"
	}, by)
}

// Resolve closes an alert by hand. It is raised again if its condition is found again.
func (b *Book) Resolve(ctx context.Context, by quarantine.Actor, id, why string, now time.Time) (Alert, error) {
	return b.change(ctx, id, "resolving", func(a Alert) (Alert, string) { return a.resolve(by, why, now), "alert.resolve" }, by)
}

func (b *Book) change(ctx context.Context, id, doing string, f func(Alert) (Alert, string), by quarantine.Actor) (Alert, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.all[id]
	switch {
	case !ok:
		return Alert{}, fmt.Errorf("%s alert %q: %w", doing, id, ErrUnknown)
	case a.State == Resolved:
		return Alert{}, fmt.Errorf("%s alert %q: %w", doing, id, ErrOver)
	}
	a, action := f(a)
	if err := b.keep(ctx, by, action, a); err != nil {
		return Alert{}, err
	}
	return a, nil
}

// told notes what an outlet was told.
func (b *Book) told(ctx context.Context, id, outlet, what string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.all[id]
	if !ok {
		return nil // it was dropped meanwhile
	}
	a.Told = maps.Clone(a.Told)
	if a.Told == nil {
		a.Told = map[string]string{}
	}
	a.Told[outlet] = what
	return b.keep(ctx, b.by, "", a)
}

// keep records an alert; action names the audit entry, empty for none. The caller holds mu.
func (b *Book) keep(ctx context.Context, by quarantine.Actor, action string, a Alert) error {
	text, err := json.Marshal(a)
	if err == nil {
		err = b.store.Put(ctx, prefix+a.ID, text)
	}
	if err != nil {
		return fmt.Errorf("keeping alert %s: %w", a.ID, err)
	}
	b.all[a.ID] = a
	if action == "" {
		return nil
	}
	if err := b.audit(ctx, by, action, a); err != nil {
		return fmt.Errorf("recording alert %s: %w", a.ID, err)
	}
	return nil
}

func (b *Book) drop(ctx context.Context, id string) error {
	if err := b.store.Delete(ctx, prefix+id); err != nil {
		return fmt.Errorf("dropping alert %s: %w", id, err)
	}
	delete(b.all, id)
	return nil
}

// room makes place for one more alert, and says whether there is any. The caller holds mu.
func (b *Book) room(ctx context.Context) bool {
	if len(b.all) < most {
		return true
	}
	oldest := ""
	for id, a := range b.all {
		if a.State == Resolved && (oldest == "" || a.Resolution.At.Before(b.all[oldest].Resolution.At)) {
			oldest = id
		}
	}
	return oldest != "" && b.drop(ctx, oldest) == nil
}

// List returns all alerts, open ones first, the worst and then the newest of them first.
func (b *Book) List() []Alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Collect(maps.Values(b.all))
	slices.SortFunc(out, func(x, y Alert) int {
		return cmp.Or(
			cmp.Compare(bit(x.State == Resolved), bit(y.State == Resolved)),
			cmp.Compare(y.Severity.rank(), x.Severity.rank()),
			y.Since.Compare(x.Since),
			cmp.Compare(x.ID, y.ID),
		)
	})
	return out
}

// Get returns one alert.
func (b *Book) Get(id string) (Alert, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.all[id]
	if !ok {
		return Alert{}, fmt.Errorf("finding alert %q: %w", id, ErrUnknown)
	}
	return a, nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
