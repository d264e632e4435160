package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"lazaret/internal/audit"
	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// Settings keeps what administrators decide.
type Settings interface {
	// List returns the values whose names begin with prefix.
	List(ctx context.Context, prefix string) (map[string]json.RawMessage, error)
	// Get returns a value and its revision, or nothing and 0 where there is none.
	Get(ctx context.Context, name string) (json.RawMessage, int64, error)
	// Put writes a value if the stored one still has the revision; 0: there is none yet.
	Put(ctx context.Context, by quarantine.Actor, name string, value json.RawMessage, revision int64) error
	// Delete removes a value; one that is not there is no error.
	Delete(ctx context.Context, by quarantine.Actor, name string) error
}

// Secrets keeps what nobody may read.
type Secrets interface {
	// Get returns a secret, or nothing where there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	Put(ctx context.Context, name string, plaintext []byte) error
	// Delete removes a secret; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

// Notes keeps how far each receiver was told, without a word in the audit log.
type Notes interface {
	Put(ctx context.Context, name string, value []byte) error
	List(ctx context.Context, prefix string) (map[string][]byte, error)
	Delete(ctx context.Context, names ...string) error
}

// Tail follows the audit log.
type Tail interface {
	// Next returns what follows, in order, at most limit entries; it waits for one.
	Next(ctx context.Context, limit int) ([]audit.Numbered, error)
	// More returns what follows and is there already.
	More(ctx context.Context, limit int) ([]audit.Numbered, error)
	Close() error
}

// Config is what a Manager needs. Every field is required unless marked.
type Config struct {
	Settings Settings
	Secrets  Secrets
	Notes    Notes
	Follow   func(after uint64) Tail                   // begins behind an entry of the audit log
	Last     func(ctx context.Context) (uint64, error) // number of its last entry
	Gateway  string
	Issuer   string // https URL of the enrollment listener: iss of tokens
	Log      *slog.Logger

	Proxy    func(*http.Request) (*url.URL, error) // optional: how HTTPS leaves
	Loopback bool                                  // optional: plain http to this machine, for tests
	Now      func() time.Time                      // optional: time.Now
	First    time.Duration                         // optional: pause after the first failure; 5 s, doubled with each
	Longest  time.Duration                         // optional: longest pause; 30 min
	GiveUp   time.Duration                         // optional: until a receiver is parked; 24 h
}

const (
	settingPrefix = "stream/"
	notePrefix    = "stream/"
)

// Manager keeps receivers and tells them.
type Manager struct {
	cfg Config

	changing sync.Mutex // held while receivers change

	mu      sync.Mutex
	ctx     context.Context // of Run; nil: it does not run
	workers map[string]*worker
	polls   map[string]*poller
	sums    map[string]string      // of the tokens of those that run, by name
	toggles map[string][]time.Time // when streams changed their own status, of late
	signer  signer
	signers []*set.Key
}

// New makes a Manager, and the key that signs events where there is none.
func New(ctx context.Context, c Config) (*Manager, error) {
	for what, missing := range map[string]bool{
		"settings": c.Settings == nil, "secrets": c.Secrets == nil, "notes": c.Notes == nil, "audit log": c.Follow == nil || c.Last == nil,
		"gateway": c.Gateway == "", "issuer": c.Issuer == "", "log": c.Log == nil,
	} {
		if missing {
			return nil, errors.New("making streams: no " + what)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		to    *time.Duration
		value time.Duration
	}{{&c.First, 5 * time.Second}, {&c.Longest, 30 * time.Minute}, {&c.GiveUp, 24 * time.Hour}} {
		if *d.to <= 0 {
			*d.to = d.value
		}
	}
	m := &Manager{cfg: c, workers: map[string]*worker{}, polls: map[string]*poller{}, sums: map[string]string{}, toggles: map[string][]time.Time{}}
	return m, m.loadSigner(ctx)
}

// Run tells every receiver until ctx ends. It returns nil then.
func (m *Manager) Run(ctx context.Context) error {
	m.changing.Lock()
	all, err := m.receivers(ctx)
	if err != nil {
		m.changing.Unlock()
		return err
	}
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	for _, r := range all {
		if err := m.start(ctx, r); err != nil {
			m.cfg.Log.Error("starting a stream", "stream", r.Name, "err", err)
		}
	}
	m.changing.Unlock()
	<-ctx.Done()
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	m.ctx = nil
	workers, polls := m.workers, m.polls
	m.workers, m.polls, m.sums = map[string]*worker{}, map[string]*poller{}, map[string]string{}
	m.mu.Unlock()
	for _, w := range workers {
		<-w.done
	}
	for _, p := range polls {
		p.end()
	}
	return nil
}

// receivers reads all that are kept and can be read, by name.
func (m *Manager) receivers(ctx context.Context) ([]Receiver, error) {
	raw, err := m.cfg.Settings.List(ctx, settingPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing streams: %w", err)
	}
	var out []Receiver
	for name, value := range raw {
		r, err := decode(strings.TrimPrefix(name, settingPrefix), value)
		if err != nil { // one that cannot be read stops no other
			m.cfg.Log.Error("a stream is left out", "err", err)
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Receiver) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// start begins to tell a receiver from where it was. The caller holds changing.
func (m *Manager) start(ctx context.Context, r Receiver) error {
	p, err := m.progress(ctx, r.Name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		return nil
	}
	if r.Kind == SSF && r.TokenSum != "" {
		m.sums[r.Name] = r.TokenSum
	}
	if r.asks() {
		m.polls[r.Name] = &poller{m: m, r: r, p: p, noted: p, read: p.Cursor, turn: make(chan struct{}, 1)}
		return nil
	}
	with, err := m.credentials(ctx, r)
	if err != nil {
		return err
	}
	w := &worker{m: m, r: r, with: with, client: newClient(r, m.cfg.Loopback, m.cfg.Proxy), done: make(chan struct{}), kick: make(chan struct{}, 1), p: p, noted: p}
	var running context.Context
	running, w.stop = context.WithCancel(m.ctx)
	m.workers[r.Name] = w
	go w.run(running)
	return nil
}

// end stops telling a receiver. The caller holds changing.
func (m *Manager) end(name string) {
	m.mu.Lock()
	w, p := m.workers[name], m.polls[name]
	delete(m.workers, name)
	delete(m.polls, name)
	m.mu.Unlock()
	if p != nil {
		p.end()
	}
	if w != nil {
		w.stop()
		<-w.done
		w.client.CloseIdleConnections()
	}
}

// progress is how far a receiver was told. One that was not told anything yet begins with
// what comes next.
func (m *Manager) progress(ctx context.Context, name string) (progress, error) {
	all, err := m.cfg.Notes.List(ctx, notePrefix+name)
	if err != nil {
		return progress{}, err
	}
	raw, ok := all[notePrefix+name]
	if !ok {
		last, err := m.cfg.Last(ctx)
		if err != nil {
			return progress{}, err
		}
		p := progress{Version: progressVersion, Cursor: last}
		return p, m.keep(ctx, name, p)
	}
	var p progress
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("reading the progress of stream %s: %w", name, err)
	}
	if p.Version != progressVersion {
		return p, fmt.Errorf("reading the progress of stream %s: it has version %d, this program reads %d", name, p.Version, progressVersion)
	}
	return p, nil
}
