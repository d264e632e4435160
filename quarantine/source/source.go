// Package source is where reports come from: what all sources share. Each kind of source
// is a package below it, which turns something from outside into a quarantine.Report and
// hands it to a Gate; none decides anything.
package source

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"lazaret/quarantine"
)

// Gate takes what sources say; *quarantine.Gate is one.
type Gate interface {
	// Reports takes many reports and says, in their order, what became of each.
	Reports(ctx context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result
	// Change takes one fact in, as where a user's session ends.
	Change(ctx context.Context, by quarantine.Actor, c quarantine.Change) (quarantine.Placement, error)
	// Device returns one device by ID or name.
	Device(idOrName string) (quarantine.Record, error)
	// BySerial returns the devices with a hardware serial number.
	BySerial(serial string) []quarantine.Record
	// Devices returns all devices, for listings.
	Devices() []quarantine.Record
}

// Auditor records what was refused; the daemon's is the audit log.
type Auditor interface {
	// Refused records that a source was refused something.
	Refused(ctx context.Context, by quarantine.Actor, device quarantine.ID, why string) error
}

// Actor is a source as the one who asks.
func Actor(name, address string) quarantine.Actor {
	return quarantine.Actor{Kind: "source", Name: name, Address: address}
}

// Health is how a source does, for a status page and for alerts.
type Health struct {
	Source   string                `json:"source"`
	Kind     quarantine.SourceKind `json:"kind"`
	Heard    time.Time             `json:"heard,omitzero"`    // when something of it was last accepted
	Tried    time.Time             `json:"tried,omitzero"`    // last attempt to ask it, or call of it
	Next     time.Time             `json:"next,omitzero"`     // when it is asked again, where it is asked
	Problem  string                `json:"problem,omitempty"` // of the last attempt; empty: it went well
	Failures int                   `json:"failures"`          // attempts that failed in a row
	Accepted uint64                `json:"accepted"`          // reports, since this control plane began
	Refused  uint64                `json:"refused"`
}

// Ledger keeps the health of all sources. Its zero value is ready; it is safe for
// concurrent use.
type Ledger struct {
	mu  sync.Mutex
	all map[string]*Health
}

func (l *Ledger) entry(name string, kind quarantine.SourceKind) *Health {
	if l.all == nil {
		l.all = map[string]*Health{}
	}
	h := l.all[name]
	if h == nil {
		h = &Health{Source: name}
		l.all[name] = h
	}
	h.Kind = kind
	return h
}

// Heard notes that accepted and refused reports came of one attempt that went well.
func (l *Ledger) Heard(name string, kind quarantine.SourceKind, at time.Time, accepted, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.entry(name, kind)
	h.Heard, h.Tried, h.Problem, h.Failures = at, at, "", 0
	h.Accepted += uint64(accepted)
	h.Refused += uint64(refused)
}

// Failed notes that an attempt failed, or that a call was refused as a whole.
func (l *Ledger) Failed(name string, kind quarantine.SourceKind, at time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.entry(name, kind)
	h.Tried, h.Problem = at, err.Error()
	h.Failures++
}

// Noted notes accepted and refused reports of an attempt that went well but for a problem,
// which did not keep the others from being taken.
func (l *Ledger) Noted(name string, kind quarantine.SourceKind, at time.Time, accepted, refused int, problem string) {
	l.Heard(name, kind, at, accepted, refused)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry(name, kind).Problem = problem
}

// Counted adds to what was accepted and refused, as of an attempt that failed half way.
func (l *Ledger) Counted(name string, kind quarantine.SourceKind, accepted, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.entry(name, kind)
	h.Accepted += uint64(accepted)
	h.Refused += uint64(refused)
}

// Next notes when a source is asked again.
func (l *Ledger) Next(name string, kind quarantine.SourceKind, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry(name, kind).Next = at
}

// Forget drops a source that is no more.
func (l *Ledger) Forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, name)
}

// List returns the health of every source that was heard of, by name.
func (l *Ledger) List() []Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Health, 0, len(l.all))
	for _, h := range l.all {
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b Health) int { return strings.Compare(a.Source, b.Source) })
	return out
}
