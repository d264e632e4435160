package tunnel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// userspaceBatch keeps one batch well under a megabyte of text.
const userspaceBatch = 1000

func (b *inProcess) apply(changes []PeerChange) Failures {
	return inBatches(changes, userspaceBatch, func(batch []PeerChange) error {
		w := writer{b: b}
		for _, c := range batch {
			if err := w.change(c); err != nil {
				return errors.Join(err, w.flush())
			}
		}
		return w.flush()
	})
}

// writer writes changes as text of the configuration protocol, in order, for one shard
// at a time. It knows what was set, so that a change of one address touches that address
// alone: replacing a peer's addresses as a whole would lose the packets between "none"
// and "all".
type writer struct {
	b    *inProcess
	to   *shard
	text strings.Builder
}

// at makes s the shard that is written to. What was written for another goes there
// first: an address that moves is taken away before it is given.
func (w *writer) at(s *shard) error {
	if w.to == s {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.to = s
	return nil
}

// flush has the shard take what was written. If it does not, some of it happened and
// some not: then what the shard holds is read back.
func (w *writer) flush() error {
	if w.text.Len() == 0 {
		return nil
	}
	err := w.to.set(w.text.String())
	w.text.Reset()
	if err != nil {
		return errors.Join(err, w.b.reread(w.to))
	}
	return nil
}

func (w *writer) peer(k Key) { w.line("public_key", hex.EncodeToString(k[:])) }

func (w *writer) line(name string, value any) { fmt.Fprintf(&w.text, "%s=%v\n", name, value) }

// change appends the lines that make c and notes them as made.
func (w *writer) change(c PeerChange) error {
	d := w.b.dir
	old, known := d.member[c.Peer.Key]
	if c.Remove {
		if !known {
			return nil
		}
		return w.remove(old)
	}
	if err := w.b.routable(c.Peer); err != nil {
		return err
	}
	to := old.shard
	if !known {
		var err error
		if to, err = w.b.room(); err != nil {
			return err
		}
	}
	if err := w.takeFromOthers(c.Peer, to); err != nil {
		return err
	}
	if err := w.at(to); err != nil {
		return err
	}
	w.give(c.Peer, old, known)
	return nil
}

// routable refuses what only one device could route: which of two prefixes is longer
// does not show across shards.
func (b *inProcess) routable(p Peer) error {
	for _, a := range p.AllowedIPs {
		if b.hub != nil && !a.IsSingleIP() {
			return fmt.Errorf("%w: allowed address %s of %s is no whole address", ErrPeer, a, p.Key)
		}
	}
	return nil
}

func (w *writer) remove(m member) error {
	if err := w.at(m.shard); err != nil {
		return err
	}
	w.peer(m.Key)
	w.line("remove", true)
	d := w.b.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range m.AllowedIPs {
		if d.owner[a] == m.Key {
			delete(d.owner, a)
		}
	}
	delete(d.member, m.Key)
	m.shard.count--
	return nil
}

// takeFromOthers takes p's addresses from peers of other shards than to, and returns
// when they have lost them. Within a shard an address moves by being given.
func (w *writer) takeFromOthers(p Peer, to *shard) error {
	d := w.b.dir
	for _, a := range p.AllowedIPs {
		holder, held := d.owner[a]
		if !held || holder == p.Key || d.member[holder].shard == to {
			continue
		}
		if err := w.at(d.member[holder].shard); err != nil {
			return err
		}
		w.peer(holder)
		w.line("allowed_ip", "-"+a.String())
		d.mu.Lock()
		delete(d.owner, a)
		d.mu.Unlock()
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

// give writes what makes p of old, and notes it.
func (w *writer) give(p Peer, old member, known bool) {
	d := w.b.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	w.peer(p.Key)
	if !known {
		w.line("replace_allowed_ips", true)
		old.shard = w.to
		w.to.count++
	}
	for _, a := range old.AllowedIPs {
		if d.owner[a] == p.Key && !slices.Contains(p.AllowedIPs, a) {
			w.line("allowed_ip", "-"+a.String())
			delete(d.owner, a)
		}
	}
	for _, a := range p.AllowedIPs {
		if !known || d.owner[a] != p.Key {
			w.line("allowed_ip", a)
			d.owner[a] = p.Key
		}
	}
	if p.Endpoint.IsValid() {
		w.line("endpoint", p.Endpoint)
	}
	w.line("persistent_keepalive_interval", int(p.KeepAlive.Seconds()))
	p.AllowedIPs = slices.Clone(p.AllowedIPs)
	d.member[p.Key] = member{p, old.shard}
}

// reread makes the directory say what the shard holds.
func (b *inProcess) reread(s *shard) error {
	have, err := s.peers()
	if err != nil {
		return fmt.Errorf("reading back what was set: %w", err)
	}
	d := b.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, m := range d.member {
		if m.shard != s {
			continue
		}
		for _, a := range m.AllowedIPs {
			if d.owner[a] == k {
				delete(d.owner, a)
			}
		}
		delete(d.member, k)
	}
	for _, p := range have {
		d.member[p.Key] = member{p.Peer, s}
		for _, a := range p.AllowedIPs {
			d.owner[a] = p.Key
		}
	}
	s.count = len(have)
	return nil
}
