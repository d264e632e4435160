package webhook

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Notes keeps what the handler took, across restarts; the daemon's is the store's.
type Notes interface {
	Put(ctx context.Context, name string, value []byte) error
	List(ctx context.Context, prefix string) (map[string][]byte, error)
	Delete(ctx context.Context, names ...string) error
}

// A message is taken once. Its id is remembered for as long as its time stamp would be
// taken, in memory and, before the sender has its answer, in the notes: several at once
// share a write. A crash between the gate's answer and that write forgets the id of a
// message that nobody was told of; repeated, it says of its devices what the gate knows
// already, since a report is newer than another by the source's own time and number.

const (
	seenPrefix  = "webhook/seen/"
	seenVersion = 1
	seenEntry   = 16 + 16 + 8 + 8 // bytes of one in a note
	maxSeen     = 1 << 15         // of one source: 54 a second with the widest window
	grace       = time.Minute     // beyond the window, for a clock that steps back a little
)

// entry is one message that was taken, or is about to be.
type entry struct {
	key    [16]byte // of source and id
	body   [16]byte
	stamp  int64 // highest that it came with, Unix seconds
	until  int64 // kept so long
	source string
	busy   bool
}

// standing says what is known of a message.
type standing int

const (
	fresh    standing = iota // not seen, and now reserved
	repeated                 // taken before; the sender tries again, with a new time stamp
	replayed                 // these very bytes came before
	other                    // the id came before with another body
	underway                 // the same is being worked on
	tooMany                  // more ids than are remembered
	unknown                  // it may have come before the notes were lost
)

type seen struct {
	notes Notes
	blind int64 // what is stamped up to then may have been taken: a note of it cannot be read

	mu     sync.Mutex
	all    map[[16]byte]*entry
	count  map[string]int   // by source, of those of this run
	chunks map[string]int64 // notes, and when the last of what they hold is over
	swept  int64

	writing sync.Mutex // held while a note is written
	waiting []*write   // under mu
}

// write is an entry on its way into the notes.
type write struct {
	entry
	done bool
	err  error
}

func sum16(parts ...[]byte) (out [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	copy(out[:], h.Sum(nil))
	return out
}

// loadSeen reads what earlier runs took. Where a note cannot be read, as one of a later
// version, nothing is taken that may be in it; its sender tries again with a new time stamp.
func loadSeen(ctx context.Context, notes Notes, now time.Time) (*seen, error) {
	s := &seen{notes: notes, all: map[[16]byte]*entry{}, count: map[string]int{}, chunks: map[string]int64{}}
	all, err := notes.List(ctx, seenPrefix)
	if err != nil {
		return nil, fmt.Errorf("reading which webhooks were taken: %w", err)
	}
	for name, value := range all {
		until, err := strconv.ParseInt(strings.Split(strings.TrimPrefix(name, seenPrefix), "-")[0], 10, 64)
		if err != nil || len(value) == 0 || value[0] != seenVersion || len(value)%seenEntry != 1 {
			s.blind = now.Add(MaxWindow).Unix()
			s.chunks[name] = s.blind
			continue
		}
		s.chunks[name] = until
		if until < now.Unix() {
			continue // swept with the next message
		}
		for value = value[1:]; len(value) > 0; value = value[seenEntry:] {
			e := &entry{stamp: int64(binary.BigEndian.Uint64(value[32:])), until: int64(binary.BigEndian.Uint64(value[40:]))}
			copy(e.key[:], value)
			copy(e.body[:], value[16:])
			if old := s.all[e.key]; old == nil || old.stamp < e.stamp {
				s.all[e.key] = e
			}
		}
	}
	return s, nil
}

// begin says what is known of a message, and reserves its id where that is nothing.
func (s *seen) begin(source, id string, stamp time.Time, body []byte, window time.Duration, now time.Time) (*entry, standing) {
	e := &entry{key: sum16([]byte(source), []byte{0}, []byte(id)), body: sum16(body), stamp: stamp.Unix(),
		until: stamp.Add(max(window, MaxWindow) + grace).Unix(), source: source, busy: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now.Unix())
	switch old := s.all[e.key]; {
	case old == nil && e.stamp <= s.blind:
		return nil, unknown
	case old == nil:
	case old.busy:
		return nil, underway
	case old.body != e.body:
		return nil, other
	case e.stamp <= old.stamp:
		return nil, replayed
	default:
		old.stamp, old.until = e.stamp, max(old.until, e.until)
		return old, repeated
	}
	if s.count[source] >= maxSeen {
		return nil, tooMany
	}
	s.all[e.key] = e
	s.count[source]++
	return e, fresh
}

// cancel gives up a reservation: the message was not taken.
func (s *seen) cancel(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(e)
}

// drop forgets an entry. The caller holds mu.
func (s *seen) drop(e *entry) {
	delete(s.all, e.key)
	if e.source == "" {
		return
	}
	if s.count[e.source]--; s.count[e.source] <= 0 {
		delete(s.count, e.source)
	}
}

// sweep forgets what is over, once a second at most. The caller holds mu.
func (s *seen) sweep(now int64) {
	if now == s.swept {
		return
	}
	s.swept = now
	if now%16 != 0 && len(s.all) > 1000 {
		return // a walk through many, now and then
	}
	for _, e := range s.all {
		if e.until < now && !e.busy {
			s.drop(e)
		}
	}
}

// keep makes sure that a message that was taken is known after a restart. Those who come
// while a note is being written share the next one.
func (s *seen) keep(ctx context.Context, e *entry) error {
	s.mu.Lock()
	e.busy = false
	w := &write{entry: *e}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()

	s.writing.Lock()
	defer s.writing.Unlock()
	if w.done {
		return w.err
	}
	s.mu.Lock()
	all := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	err := s.note(ctx, all)
	for _, w := range all {
		w.done, w.err = true, err
	}
	return err
}

// note writes entries, and forgets the notes that are over. The caller holds writing.
func (s *seen) note(ctx context.Context, all []*write) error {
	value := []byte{seenVersion}
	until := int64(0)
	for _, w := range all {
		value = append(append(value, w.key[:]...), w.body[:]...)
		value = binary.BigEndian.AppendUint64(value, uint64(w.stamp))
		value = binary.BigEndian.AppendUint64(value, uint64(w.until))
		until = max(until, w.until)
	}
	name := fmt.Sprintf("%s%012d-%s", seenPrefix, until, strings.ToLower(rand.Text()))
	if err := s.notes.Put(ctx, name, value); err != nil {
		return err
	}
	s.mu.Lock()
	var over []string
	for name, until := range s.chunks {
		if until < s.swept {
			over = append(over, name)
			delete(s.chunks, name)
		}
	}
	s.chunks[name] = until
	s.mu.Unlock()
	if len(over) == 0 {
		return nil
	}
	return s.notes.Delete(ctx, over...)
}
