package manage

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

// Order is a command to be.
type Order struct {
	Kind string
	Why  string
	Args map[string]string
	Life time.Duration // optional: Life
}

// Issue makes a command for a device. A wipe is a decision about the device too: its record
// says so from then on, and the command follows from that.
func (m *Manager) Issue(ctx context.Context, by quarantine.Actor, id quarantine.ID, o Order) (Command, error) {
	life := cmp.Or(o.Life, Life)
	switch {
	case !slices.Contains(agentapi.Kinds, o.Kind):
		return Command{}, fmt.Errorf("%w: there is no kind %.40q", ErrInvalid, o.Kind)
	case life < time.Second || life > MaxLife:
		return Command{}, fmt.Errorf("%w: a life of %s; 1 second to %s are possible", ErrInvalid, life, MaxLife)
	case len(o.Why) > 1000:
		return Command{}, fmt.Errorf("%w: the reason is longer than 1000 bytes", ErrInvalid)
	}
	if err := agentapi.CheckArgs(o.Kind, o.Args); err != nil {
		return Command{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	r, err := m.Gate.Device(string(id))
	if err != nil {
		return Command{}, err
	}
	if r.Revocation.Set() {
		return Command{}, quarantine.ErrFinal
	}
	if o.Kind == agentapi.Wipe {
		change := quarantine.Change{Kind: quarantine.Wipe, Device: r.ID, By: by, At: m.Now(), Why: o.Why}
		if _, err := m.Gate.Change(ctx, by, change); err != nil && !errors.Is(err, quarantine.ErrNotEnforced) {
			return Command{}, err
		}
		if r, err = m.Gate.Device(string(id)); err != nil {
			return Command{}, err
		}
		return m.follow(ctx, r)
	}
	return m.add(ctx, by, r.ID, Command{Kind: o.Kind, Args: o.Args, Why: o.Why}, life)
}

// add queues a command, tells the audit log and whoever wakes devices.
func (m *Manager) add(ctx context.Context, by quarantine.Actor, id quarantine.ID, c Command, life time.Duration) (Command, error) {
	e := m.entry(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.addLocked(ctx, e, by, c, life)
}

func (m *Manager) addLocked(ctx context.Context, e *entry, by quarantine.Actor, c Command, life time.Duration) (Command, error) {
	now := m.Now().UTC().Truncate(time.Millisecond)
	c.ID, c.By, c.Issued, c.Expires, c.State = "c-"+hex.EncodeToString(random(12)), by, now, now.Add(life), Queued
	token, err := m.wakeup(e)
	if err != nil {
		return Command{}, fmt.Errorf("issuing a command: %w", err)
	}
	// Who follows the log can wake the device: a wake-up is no secret, and soon worth nothing.
	detail := map[string]string{"kind": c.Kind, "why": c.Why, "expires": c.Expires.Format(time.RFC3339), "wake": token}
	// The log comes first: an entry without a command can be explained, a command without an
	// entry cannot.
	if err := m.Audit(ctx, Event{By: by, Action: "command.issue", Device: e.id, ID: c.ID, Detail: detail}); err != nil {
		return Command{}, fmt.Errorf("issuing a command: %w", err)
	}
	err = m.save(ctx, e, by, func(b *book) error {
		b.expire(now)
		return b.add(c)
	})
	if err != nil {
		return Command{}, fmt.Errorf("issuing a command: %w", err)
	}
	c = *e.book.find(c.ID)
	e.woken = time.Time{}
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
	m.mu.Lock()
	wakers := slices.Clone(m.wakers)
	m.mu.Unlock()
	for _, w := range wakers {
		w.Wake(ctx, Announcement{Device: e.id, Command: c.ID, Kind: c.Kind, Why: c.Why, By: by, At: now, Wake: token})
	}
	return c, nil
}

// List returns a device's commands, oldest first.
func (m *Manager) List(id quarantine.ID) []Command {
	e := m.entry(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.book.clone()
	b.expire(m.Now())
	return b.Commands
}

// Cancel takes a command back that the device does not have yet. One that the device's
// record orders is taken back there.
func (m *Manager) Cancel(ctx context.Context, by quarantine.Actor, id quarantine.ID, command string) (Command, error) {
	e := m.entry(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	var out Command
	err := m.save(ctx, e, by, func(b *book) error {
		b.expire(m.Now())
		c := b.find(command)
		switch {
		case c == nil:
			return ErrNotFound
		case c.Standing && c.State == Queued:
			return fmt.Errorf("%w: the device's record orders it: take the order back (unwipe)", ErrInvalid)
		case c.State != Queued:
			return fmt.Errorf("%w: it is %s", ErrBegun, c.State)
		}
		c.State, c.Answered, c.Detail = Cancelled, m.Now(), "by "+by.Name
		out = *c
		return nil
	})
	if err != nil {
		return Command{}, err
	}
	if err := m.Audit(ctx, Event{By: by, Action: "command.cancel", Device: id, ID: command, Detail: map[string]string{"kind": out.Kind}}); err != nil {
		m.Log.Error("a cancelled command is not in the audit log", "device", id, "command", command, "err", err)
	}
	return out, nil
}

// again is how long a standing order that failed rests before it is given anew.
const again = 10 * time.Minute

// Follow makes what the device's record orders a command, or takes the command back. It
// does nothing where that is so already.
func (m *Manager) Follow(ctx context.Context, r quarantine.Record) error {
	_, err := m.follow(ctx, r)
	return err
}

func (m *Manager) follow(ctx context.Context, r quarantine.Record) (Command, error) {
	if !r.Wipe.Set() && !m.knows(r.ID) || r.Revocation.Set() {
		return Command{}, nil
	}
	e := m.entry(r.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := m.Now()
	var last *Command
	for i := range e.book.Commands {
		if c := &e.book.Commands[i]; c.Standing && c.Kind == agentapi.Wipe {
			last = c
		}
	}
	if !r.Wipe.Set() {
		if last == nil || !last.open(now) { // one that was sent may not have arrived: it is not given again
			return Command{}, nil
		}
		return Command{}, m.save(ctx, e, m.self(), func(b *book) error {
			c := b.find(last.ID)
			c.State, c.Answered, c.Detail = Cancelled, now, "the order was taken back"
			return nil
		})
	}
	if last != nil {
		current := !last.Issued.Before(r.Wipe.At.Truncate(time.Millisecond))
		switch {
		case last.open(now), last.State == Begun:
			return *last, nil
		case last.State == Done && current:
			if now.Sub(last.Answered) > 2*farewell { // the gate may not have taken it then
				m.retire(ctx, e.id, *last)
			}
			return *last, nil
		case current && now.Sub(later(last.Answered, last.Issued)) < again:
			return *last, nil
		}
	}
	return m.addLocked(ctx, e, r.Wipe.By, Command{Kind: agentapi.Wipe, Why: r.Wipe.Why, Standing: true}, MaxLife)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// knows says whether there is anything of a device here.
func (m *Manager) knows(id quarantine.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[id] != nil
}

// retire revokes a device that has wiped itself: its certificate is nobody's any more. The
// one who ordered the wipe is the one who revokes.
func (m *Manager) retire(ctx context.Context, id quarantine.ID, c Command) {
	change := quarantine.Change{Kind: quarantine.Revoke, Device: id, By: c.By, At: m.Now(), Why: "wiped: command " + c.ID}
	if _, err := m.Gate.Change(ctx, c.By, change); err != nil && !errors.Is(err, quarantine.ErrNotEnforced) && !errors.Is(err, quarantine.ErrFinal) {
		m.Log.Error("revoking a device that was wiped; it is tried again", "device", id, "err", err)
	}
}

// MarshalJSON keeps an empty list of commands a list.
func (b book) MarshalJSON() ([]byte, error) {
	type plain book
	if b.Commands == nil {
		b.Commands = []Command{}
	}
	return json.Marshal(plain(b))
}
