package manage

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

// Peer is a device at the other end of a TLS connection, which it opened with its present
// certificate.
type Peer struct {
	Record  quarantine.Record
	Leaf    *x509.Certificate
	Binding []byte // agentapi.BindingLabel of the connection
	Address string
}

// actor is the device as the one who asks.
func (p Peer) actor() quarantine.Actor {
	return quarantine.Actor{Kind: "device", Name: string(p.Record.ID), Address: p.Address}
}

// idle is how long a session may be silent.
const idle = 5 * time.Minute

// session is a management session of one device. A session is on one TLS connection alone.
type session struct {
	hello   agentapi.Hello
	welcome agentapi.Welcome
	binding []byte
	key     crypto.PublicKey // of the certificate that it was opened with
	spki    []byte
	number  uint64 // of the last message
	heard   time.Time
	given   map[string]bool // commands that it has brought
	unknown bool            // it told of a command that is not known, and the audit log has that
}

// belongs says whether a message that names the session came on its connection.
func (s *session) belongs(p Peer, name []byte, now time.Time) bool {
	return s != nil && bytes.Equal(s.welcome.Session, name) && len(p.Binding) == agentapi.BindingLength && bytes.Equal(s.binding, p.Binding) &&
		bytes.Equal(s.spki, p.Leaf.RawSubjectPublicKeyInfo) && now.Sub(s.heard) < idle
}

// Hello greets a device. Nothing that was known before changes until the device proves
// itself: whoever cannot sign as the device disturbs no session of it.
func (m *Manager) Hello(_ context.Context, p Peer, h agentapi.Hello) (agentapi.Welcome, error) {
	if err := h.Check(); err != nil {
		return agentapi.Welcome{}, fmt.Errorf("%w: %w", ErrSession, err)
	}
	if h.Device != string(p.Record.ID) || len(p.Binding) != agentapi.BindingLength {
		return agentapi.Welcome{}, fmt.Errorf("%w: a hello of another device", ErrSession)
	}
	e := m.entry(p.Record.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	if h.Sequence > e.last+farthest {
		return agentapi.Welcome{}, fmt.Errorf("%w: number %d is too far from %d", ErrSession, h.Sequence, e.last)
	}
	key, chain := m.Signer()
	w := agentapi.Welcome{Version: 1, Session: random(16), Nonce: random(32), Sequence: h.Sequence, Executed: e.book.Executed}
	if h.Sequence <= e.last {
		w.Resync, w.Sequence = true, e.last
	}
	for _, c := range chain {
		w.Chain = append(w.Chain, c.Raw)
	}
	if err := w.Sign(key, p.Binding, h); err != nil {
		return agentapi.Welcome{}, fmt.Errorf("greeting device %s: %w", e.id, err)
	}
	if !w.Resync {
		e.pending = &session{hello: h, welcome: w, binding: bytes.Clone(p.Binding), key: p.Leaf.PublicKey,
			spki: p.Leaf.RawSubjectPublicKeyInfo, heard: m.Now(), given: map[string]bool{}}
	}
	return w, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Exchange takes one message of a session: it files the results in it, and answers with
// the commands that wait.
func (m *Manager) Exchange(ctx context.Context, p Peer, x agentapi.Exchange) (agentapi.Orders, error) {
	if err := x.Check(); err != nil {
		return agentapi.Orders{}, fmt.Errorf("%w: %w", ErrSession, err)
	}
	e := m.entry(p.Record.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := m.enter(ctx, e, p, x)
	if err != nil {
		return agentapi.Orders{}, err
	}
	out := agentapi.Orders{Number: x.Number}
	var results []agentapi.Result
	for _, signed := range x.Results {
		r, err := agentapi.OpenResult(signed, s.key, string(e.id), s.welcome.Session)
		if err != nil {
			return agentapi.Orders{}, fmt.Errorf("%w: %w", ErrSession, err)
		}
		if !e.book.knows(r.Sequence) {
			return agentapi.Orders{}, fmt.Errorf("%w: a result of command number %d, and the last was %d", ErrSession, r.Sequence, e.book.Next)
		}
		results = append(results, r)
		out.Taken = append(out.Taken, r.Command)
	}
	if err := m.file(ctx, e, s, p, results); err != nil {
		return agentapi.Orders{}, err
	}
	out.Commands, err = m.give(ctx, e, s, p)
	return out, err
}

// enter finds the message's session. The first message proves the device, and takes the
// place of a session before. The caller holds the entry's lock.
func (m *Manager) enter(ctx context.Context, e *entry, p Peer, x agentapi.Exchange) (*session, error) {
	now := m.Now()
	if s := e.live; s.belongs(p, x.Session, now) {
		if x.Number != s.number+1 {
			e.live = nil
			return nil, fmt.Errorf("%w: message %d after %d", ErrSession, x.Number, s.number)
		}
		s.number, s.heard = x.Number, now
		return s, nil
	}
	s := e.pending
	if !s.belongs(p, x.Session, now) || x.Number != 1 {
		return nil, ErrSession
	}
	e.pending = nil // one try
	if err := s.welcome.CheckProof(s.key, x.Proof, s.binding, s.hello, x.Executed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSession, err)
	}
	if s.hello.Sequence <= e.last {
		return nil, fmt.Errorf("%w: its number was used meanwhile", ErrSession)
	}
	if !e.book.knows(x.Executed) {
		return nil, fmt.Errorf("%w: it has begun command number %d, and the last was %d", ErrSession, x.Executed, e.book.Next)
	}
	next := e.book.clone()
	if s.hello.Sequence > e.book.Reserved || next.meet(x.Executed) {
		err := m.save(ctx, e, m.self(), func(b *book) error {
			b.meet(x.Executed)
			if s.hello.Sequence > b.Reserved {
				b.Reserved = s.hello.Sequence + ahead
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	e.last, e.live, s.number, s.heard = max(e.last, s.hello.Sequence), s, 1, now
	return s, nil
}

// file keeps results. Of commands that are not known the audit log has one entry a session:
// a device can invent as many as it likes. The caller holds the entry's lock.
func (m *Manager) file(ctx context.Context, e *entry, s *session, p Peer, results []agentapi.Result) error {
	if len(results) == 0 {
		return nil
	}
	type filed struct {
		Command
		news bool
	}
	var all []filed
	err := m.save(ctx, e, m.self(), func(b *book) error {
		all = nil
		for _, r := range results {
			c, news := b.take(r, m.Now())
			all = append(all, filed{c, news})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, f := range all {
		if !f.news {
			if s.unknown || e.book.find(f.ID) != nil {
				continue // told before
			}
			s.unknown = true
		}
		detail := map[string]string{"kind": f.Kind, "state": results[i].State, "detail": f.Detail}
		if err := m.Audit(ctx, Event{By: p.actor(), Action: "command.result", Device: e.id, ID: f.ID, Detail: detail}); err != nil {
			m.Log.Error("a command's result is not in the audit log", "device", e.id, "command", f.ID, "err", err)
		}
		m.Log.Info("command answered", "device", e.id, "command", f.ID, "kind", f.Kind, "state", results[i].State, "detail", f.Detail)
		if f.news && f.Kind == agentapi.Wipe && f.State == Done {
			select {
			case m.wiped <- &wiped{e.id, f.Command, m.Now()}:
			default: // the sweep finds it
			}
		}
	}
	return nil
}

// give returns the commands that wait and that this session has not brought yet. The
// caller holds the entry's lock.
func (m *Manager) give(ctx context.Context, e *entry, s *session, p Peer) ([]agentapi.Signed, error) {
	now := m.Now()
	var ids []string
	fresh := false
	for _, c := range e.book.Commands {
		if c.open(now) && !s.given[c.ID] {
			ids = append(ids, c.ID)
			fresh = fresh || c.State == Queued
		}
	}
	if fresh { // noted before the device has it: it can be taken back no more
		err := m.save(ctx, e, m.self(), func(b *book) error {
			for _, id := range ids {
				if c := b.find(id); c != nil && c.State == Queued {
					c.State, c.Sent = Sent, now
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var out []agentapi.Signed
	for _, id := range ids {
		c := e.book.find(id)
		if c == nil || !c.open(now) {
			continue
		}
		signed, err := m.signed(e, s, *c)
		if err != nil {
			return nil, err
		}
		s.given[id] = true
		out = append(out, signed)
	}
	return out, nil
}
