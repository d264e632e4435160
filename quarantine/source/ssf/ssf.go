// Package ssf receives Shared Signals (OpenID Shared Signals Framework 1.0): Security Event
// Tokens that transmitters push (RFC 8935) or hand out when asked (RFC 8936), with CAEP and
// RISC events in them. It turns them into reports and changes for a Gate, and decides
// nothing. Each stream is a source of kind "ssf", by the name of the source.
package ssf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/door"
	"lazaret/quarantine/source/set"
)

// Store keeps what streams need. Values are JSON of this package's own.
type Store interface {
	// Streams returns the settings of all streams, by name.
	Streams(ctx context.Context) (map[string]json.RawMessage, error)
	// Secret returns one of a stream's secrets; empty without an error: there is none.
	Secret(ctx context.Context, stream string, s Secret) (string, error)
	// Accounts returns what is kept of a stream's accounts, and its revision; nil and 0
	// without an error: nothing yet.
	Accounts(ctx context.Context, stream string) (json.RawMessage, int64, error)
	// PutAccounts replaces it if it still has the revision.
	PutAccounts(ctx context.Context, by quarantine.Actor, stream string, v json.RawMessage, revision int64) error
}

// Config is what a Receiver is made of.
type Config struct {
	Store   Store          // required
	Gate    source.Gate    // required
	Ledger  *source.Ledger // required
	Auditor source.Auditor // required
	Dir     string         // required: directory of its own, for the tokens that were seen

	Proxy func(*http.Request) (*url.URL, error) // optional: the way out for HTTPS
	Log   *slog.Logger                          // optional: discards
	Now   func() time.Time                      // optional: time.Now
}

// Receiver receives the tokens of all streams.
type Receiver struct {
	cfg       Config
	nudge     chan struct{} // capacity 1: settings changed
	strangers *pace         // entries about those whom no signature vouches for
	door      door.Door     // of pushes that are being read

	mu      sync.Mutex
	loaded  bool
	streams map[string]*stream
	memory  map[string]*memory
}

// memory is what outlives a change of a stream's settings.
type memory struct {
	turn    chan struct{} // capacity 1: held while a token takes effect, one after the other
	seen    *seen
	state   state
	entries *pace // about tokens that the transmitter signed
}

// stream is one transmitter's stream, with its settings as they are now.
type stream struct {
	*memory
	name     string
	raw      string
	settings Settings
	client   *client
	keys     *keyring
	fault    error // what is wrong with the settings

	headerMu sync.Mutex // guards the two below
	header   string     // Authorization
	headerAt time.Time  // when it was read

	cancel context.CancelFunc // ends its polls
	done   chan struct{}      // closed when they ended
}

// ErrUnknownStream reports a stream that has no settings.
var ErrUnknownStream = errors.New("no such stream")

// ErrNotReady reports that the settings have not been read yet.
var ErrNotReady = errors.New("the settings have not been read yet")

// ErrTransmitter reports that a transmitter did not answer, or not as it should.
var ErrTransmitter = errors.New("the transmitter did not do as it was asked")

// New makes a Receiver; Run starts it.
func New(c Config) (*Receiver, error) {
	for what, missing := range map[string]bool{"store": c.Store == nil, "gate": c.Gate == nil, "ledger": c.Ledger == nil,
		"auditor": c.Auditor == nil, "directory": c.Dir == ""} {
		if missing {
			return nil, errors.New("making the receiver of shared signals: no " + what)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Receiver{cfg: c, door: door.Door{Total: doorTotal, Each: doorEach}, nudge: make(chan struct{}, 1), strangers: &pace{now: c.Now},
		streams: map[string]*stream{}, memory: map[string]*memory{}}, nil
}

// reloadEvery is how soon a change of settings by another gateway is noticed.
const reloadEvery = 10 * time.Second

// Run follows the settings and polls, until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	defer r.stop()
	t := time.NewTicker(reloadEvery)
	defer t.Stop()
	for {
		if err := r.reload(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("reading the settings of shared signals", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-r.nudge:
		}
	}
}

// Changed says that settings or secrets changed. It does not wait.
func (r *Receiver) Changed() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// reload makes the streams what the settings say. One that did not change goes on.
func (r *Receiver) reload(ctx context.Context) error {
	all, err := r.cfg.Store.Streams(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	var ended []*stream
	for name, st := range r.streams {
		if raw, ok := all[name]; !ok || string(raw) != st.raw {
			delete(r.streams, name)
			ended = append(ended, st)
			if !ok {
				r.cfg.Ledger.Forget(name)
			}
		}
	}
	for name, raw := range all {
		if r.streams[name] != nil {
			continue
		}
		st, err := r.open(name, raw)
		if err != nil {
			r.mu.Unlock()
			return err
		}
		r.streams[name] = st
		r.start(ctx, st)
	}
	r.loaded = true
	r.mu.Unlock()
	for _, st := range ended {
		st.end()
	}
	return nil
}

// open makes a stream. Settings that are wrong make one that refuses everything. The caller
// holds mu.
func (r *Receiver) open(name string, raw json.RawMessage) (*stream, error) {
	m := r.memory[name]
	if m == nil {
		s, err := openSeen(filepath.Join(r.cfg.Dir, url.PathEscape(name)+".seen"), maxSeen)
		if err != nil {
			return nil, fmt.Errorf("opening stream %s: %w", name, err)
		}
		m = &memory{turn: make(chan struct{}, 1), seen: s, entries: &pace{now: r.cfg.Now}}
		r.memory[name] = m
	}
	st := &stream{memory: m, name: name, raw: string(raw), done: make(chan struct{})}
	st.settings, st.fault = ParseSettings(raw)
	if st.fault != nil {
		r.cfg.Log.Error("a stream's settings are wrong", "stream", name, "err", st.fault)
		r.cfg.Ledger.Failed(name, quarantine.SourceSSF, r.cfg.Now(), st.fault)
	}
	st.client = newClient(st.settings, r.cfg.Proxy, func(ctx context.Context, s Secret) (string, error) {
		return r.cfg.Store.Secret(ctx, name, s)
	})
	st.keys = &keyring{client: st.client, now: r.cfg.Now, locate: st.jwksURI, failed: func(err error) {
		r.cfg.Log.Warn("fetching a stream's keys", "stream", name, "err", err)
		r.cfg.Ledger.Failed(name, quarantine.SourceSSF, r.cfg.Now(), err)
	}}
	if len(st.settings.JWKS) > 0 && st.fault == nil {
		st.keys.given, st.fault = set.ParseKeys(st.settings.JWKS)
	}
	return st, nil
}

// start runs what a stream does by itself. The caller holds mu.
func (r *Receiver) start(ctx context.Context, st *stream) {
	ctx, st.cancel = context.WithCancel(ctx)
	st.keys.life = ctx
	go func() {
		defer close(st.done)
		var parts sync.WaitGroup
		if st.fault == nil && st.settings.Delivery == Poll {
			parts.Go(func() { r.poll(ctx, st) })
		}
		if st.fault == nil && st.settings.Manage {
			parts.Go(func() { r.manage(ctx, st) })
		}
		parts.Wait()
	}()
}

// end stops what a stream does by itself, and waits for it.
func (st *stream) end() {
	st.cancel()
	<-st.done
	st.keys.end()
	st.client.close()
}

func (r *Receiver) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, st := range r.streams {
		st.end()
		delete(r.streams, name)
	}
	r.loaded = false
	for _, m := range r.memory {
		m.seen.stop()
	}
}

// stream returns one by name.
func (r *Receiver) stream(name string) (*stream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch st := r.streams[name]; {
	case st != nil:
		return st, nil
	case !r.loaded:
		return nil, ErrNotReady
	default:
		return nil, ErrUnknownStream
	}
}
