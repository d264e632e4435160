// Package manage is the gateway's half of management sessions (D2): it authenticates a
// device above TLS, hands it the commands that wait for it, keeps what became of them, and
// makes wake-ups (D3, O3). Whether a device is to be wiped is in its record, which others
// decide about; what a command does is the device's to know.
package manage

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

var (
	// ErrSession reports a message that does not belong to a session of this device, on
	// this connection, at this place: the device begins anew.
	ErrSession = errors.New("not of a management session on this connection")
	// ErrFull reports a device with as many commands waiting as it may have.
	ErrFull = errors.New("too many commands wait for this device")
	// ErrNotFound reports a command, or a stored value, that does not exist.
	ErrNotFound = errors.New("no such command")
	// ErrBegun reports a command that can be cancelled no more.
	ErrBegun = errors.New("the device has the command already")
	// ErrInvalid reports an order that no command can be made of.
	ErrInvalid = errors.New("no command can be made of it")
)

// Item is a stored value and its revision.
type Item struct {
	Name     string
	Value    []byte
	Revision int64
}

// Store keeps named values.
type Store interface {
	// List returns all whose name begins so.
	List(ctx context.Context, prefix string) ([]Item, error)
	// Get returns one; errors wrap ErrNotFound.
	Get(ctx context.Context, name string) (Item, error)
	// Put writes it where the stored one still has its revision (0: there is none yet);
	// errors wrap quarantine.ErrConflict.
	Put(ctx context.Context, by quarantine.Actor, it Item) (Item, error)
	// Delete forgets one.
	Delete(ctx context.Context, by quarantine.Actor, name string) error
}

// Gate places devices; *quarantine.Gate is one.
type Gate interface {
	Change(ctx context.Context, by quarantine.Actor, c quarantine.Change) (quarantine.Placement, error)
	Device(idOrName string) (quarantine.Record, error)
	Devices() []quarantine.Record
}

// Event is a line for the audit log.
type Event struct {
	By     quarantine.Actor
	Action string // "command.issue", "command.cancel" or "command.result"
	Device quarantine.ID
	ID     string // of the command
	Detail map[string]string
}

// Announcement is a command that was issued: what others need to wake the device by a way
// of their own, or to do the same by theirs.
type Announcement struct {
	Device  quarantine.ID
	Command string // id
	Kind    string
	Why     string
	By      quarantine.Actor
	At      time.Time
	Wake    string // the wake-up, for `lazaret wake`; good for a few minutes
}

// Waker carries wake-ups, as to an MDM. It must not wait for anybody.
type Waker interface {
	Wake(ctx context.Context, a Announcement)
}

// Config is what a Manager needs. Every field is required unless marked.
type Config struct {
	Store  Store
	Gate   Gate
	Audit  func(ctx context.Context, e Event) error
	Signer func() (key crypto.Signer, chain []*x509.Certificate) // the present one, leaf first
	Name   string                                                // of the gateway
	Now    func() time.Time                                      // optional: time.Now
	Log    *slog.Logger
}

// Manager is safe for concurrent use.
type Manager struct {
	Config

	mu     sync.Mutex // guards what follows; never held while an entry's is waited for
	all    map[quarantine.ID]*entry
	wakers []Waker

	wiped chan *wiped // devices to be revoked in a moment
}

// wiped is a device that told of its wipe.
type wiped struct {
	device  quarantine.ID
	command Command
	at      time.Time
}

// farewell is how long a device that is being wiped keeps its peer after its word of it was
// taken: without one it would never know that it was.
const farewell = 3 * time.Second

// entry is what is known of one device here.
type entry struct {
	id quarantine.ID

	mu      sync.Mutex // held during its store's writes, so that they come one after the other
	book    book
	rev     int64    // of the stored book; 0: there is none
	last    uint64   // number of the last session, or above it
	pending *session // greeted, not proven
	live    *session
	counter uint64        // of the last wake-up
	woken   time.Time     // when the device was last woken by its long poll
	changed chan struct{} // closed when something new waits; nil: nobody asked
}

// New reads what is stored.
func New(ctx context.Context, c Config) (*Manager, error) {
	if c.Store == nil || c.Gate == nil || c.Audit == nil || c.Signer == nil || c.Name == "" || c.Log == nil {
		return nil, errors.New("making the command desk: store, gate, audit log, signer, name or log missing")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m := &Manager{Config: c, all: map[quarantine.ID]*entry{}, wiped: make(chan *wiped, 1024)}
	items, err := c.Store.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("reading commands: %w", err)
	}
	for _, it := range items {
		e := m.entry(quarantine.ID(it.Name[len(prefix):]))
		if err := e.load(it); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Announce has a Waker told of every command that is issued from now on.
func (m *Manager) Announce(w Waker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakers = append(m.wakers, w)
}

// entry returns the device's, made if need be.
func (m *Manager) entry(id quarantine.ID) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.all[id]
	if e == nil {
		e = &entry{id: id, book: book{Version: 1}}
		m.all[id] = e
	}
	return e
}

func (m *Manager) self() quarantine.Actor { return quarantine.Actor{Kind: "gateway", Name: m.Name} }

// sweepEvery is how often Run looks after what time and others change.
const sweepEvery = time.Minute

// Run lets commands expire, takes those of revoked devices back, and brings about what the
// records of devices order, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var leaving []*wiped
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			m.sweep(ctx)
		case w := <-m.wiped:
			leaving = append(leaving, w)
			if due == nil {
				due = time.After(farewell)
			}
		case <-due:
			due = nil
			for len(leaving) > 0 && due == nil {
				if left := leaving[0].at.Add(farewell).Sub(m.Now()); left > 0 {
					due = time.After(left)
					break
				}
				m.retire(ctx, leaving[0].device, leaving[0].command)
				leaving = leaving[1:]
			}
		}
	}
}

func (m *Manager) sweep(ctx context.Context) {
	for _, r := range m.Gate.Devices() {
		if r.Wipe.Set() && ctx.Err() == nil {
			if err := m.Follow(ctx, r); err != nil {
				m.Log.Error("following a device's order", "device", r.ID, "err", err)
			}
		}
	}
	m.mu.Lock()
	var some []*entry
	for _, e := range m.all {
		some = append(some, e)
	}
	m.mu.Unlock()
	for _, e := range some {
		if ctx.Err() != nil {
			return
		}
		if err := m.tidy(ctx, e); err != nil && ctx.Err() == nil {
			m.Log.Error("looking after a device's commands", "device", e.id, "err", err)
		}
	}
}

// keepRevoked is how long the commands of a revoked device are shown. What became of each
// stays in the audit log.
const keepRevoked = 24 * time.Hour

// tidy ends what is over: expired commands, and all of a device that is revoked or gone.
// Nothing is kept of one that is gone, or was revoked a while ago.
func (m *Manager) tidy(ctx context.Context, e *entry) error {
	r, err := m.Gate.Device(string(e.id))
	gone := errors.Is(err, quarantine.ErrUnknownDevice)
	if err != nil && !gone {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := m.Now()
	if gone || r.Revocation.Set() && now.Sub(r.Revocation.At) >= keepRevoked {
		m.mu.Lock()
		delete(m.all, e.id)
		m.mu.Unlock()
		if e.rev == 0 {
			return nil
		}
		e.rev = 0
		return m.Store.Delete(ctx, m.self(), prefix+string(e.id))
	}
	if !e.book.due(now) && !(r.Revocation.Set() && e.book.waiting(now)) {
		return nil
	}
	return m.save(ctx, e, m.self(), func(b *book) error {
		if r.Revocation.Set() {
			b.endAll(Cancelled, "the device is revoked", now)
		}
		b.expire(now)
		return nil
	})
}

// signed makes a signed command of a book's.
func (m *Manager) signed(e *entry, s *session, c Command) (agentapi.Signed, error) {
	key, _ := m.Signer()
	return agentapi.Command{
		Version: 1, ID: c.ID, Device: string(e.id), Session: s.welcome.Session, Sequence: c.Sequence, Kind: c.Kind,
		Issued: c.Issued, Expires: c.Expires, Args: c.Args,
	}.Sign(key)
}
