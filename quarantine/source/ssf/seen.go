package ssf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lazaret/internal/durable"
	"lazaret/quarantine/source/set"
)

// maxSeen is how many tokens of a stream are remembered. When there are more, the oldest go,
// and whatever is not younger than they are is refused from then on.
const maxSeen = 100_000

// entrySize is iat in seconds, the hashes of jti and token, and a checksum.
const entrySize = 8 + 16 + 16 + 4

type entry struct {
	at      int64 // iat, Unix seconds
	id, sum [16]byte
}

// seen remembers the tokens of a stream that were taken in, across restarts, so that each
// counts once. A token needs to be remembered only while its iat would still be accepted.
type seen struct {
	path string
	most int

	mu    sync.Mutex
	file  *os.File
	index map[[16]byte]entry // by id
	floor int64              // tokens of this second and before are refused
	lines int                // entries in the file
}

// openSeen reads what a file remembers; an entry that was not written whole is dropped.
func openSeen(path string, most int) (*seen, error) {
	s := &seen{path: path, most: most, index: map[[16]byte]entry{}}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading what was seen: %w", err)
	}
	for len(b) >= entrySize {
		if e, ok := decodeEntry(b[:entrySize]); !ok {
			break
		} else if e.id == ([16]byte{}) {
			s.floor = max(s.floor, e.at)
		} else {
			s.index[e.id] = e
		}
		b = b[entrySize:]
	}
	if err := s.rewrite(); err != nil {
		return nil, err
	}
	return s, nil
}

func short(text string) (out [16]byte) {
	sum := sha256.Sum256([]byte(text))
	copy(out[:], sum[:])
	return out
}

func entryOf(t set.Token) entry {
	e := entry{at: t.IssuedAt.Unix(), id: short(t.ID)}
	copy(e.sum[:], t.Sum[:])
	return e
}

func (e entry) encode() []byte {
	b := make([]byte, 0, entrySize)
	b = binary.BigEndian.AppendUint64(b, uint64(e.at))
	b = append(b, e.id[:]...)
	b = append(b, e.sum[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodeEntry(b []byte) (e entry, ok bool) {
	e.at = int64(binary.BigEndian.Uint64(b))
	copy(e.id[:], b[8:])
	copy(e.sum[:], b[24:])
	return e, crc32.ChecksumIEEE(b[:40]) == binary.BigEndian.Uint32(b[40:])
}

// check reports whether the token was taken in before. Another token under its jti, and one
// from before what is remembered, are refused.
func (s *seen) check(t set.Token) (before bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := entryOf(t)
	old, ok := s.index[e.id]
	switch {
	case ok && old.sum != e.sum:
		return false, set.Refuse(set.InvalidRequest, "jti was used for another token")
	case ok:
		return true, nil
	case e.at <= s.floor:
		return false, set.Refuse(set.InvalidRequest, "iat is from before the tokens that are remembered")
	}
	return false, nil
}

// add remembers a token, safe from a crash when it returns without an error. oldest is the
// iat before which no token is accepted any more.
func (s *seen) add(t set.Token, oldest time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		if err := s.rewrite(); err != nil {
			return err
		}
	}
	e := entryOf(t)
	_, err := s.file.Write(e.encode())
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.close() // what stands at its end is not known
		return fmt.Errorf("remembering a token: %w", err)
	}
	s.index[e.id] = e
	s.lines++
	if len(s.index) > s.most {
		s.shrink(oldest.Unix())
	}
	if s.lines > 2*len(s.index)+1024 || s.lines > 2*s.most {
		s.shrink(oldest.Unix())
		if err := s.rewrite(); err != nil {
			return err
		}
	}
	return nil
}

// shrink forgets what is too old to be accepted, and where that is not enough, the oldest
// tenth, which raises the floor. The caller holds mu.
func (s *seen) shrink(oldest int64) {
	for id, e := range s.index {
		if e.at < oldest {
			delete(s.index, id)
		}
	}
	if len(s.index) <= s.most {
		return
	}
	ages := make([]int64, 0, len(s.index))
	for _, e := range s.index {
		ages = append(ages, e.at)
	}
	slices.Sort(ages)
	s.floor = max(s.floor, ages[len(ages)-s.most*9/10-1])
	for id, e := range s.index {
		if e.at <= s.floor {
			delete(s.index, id)
		}
	}
	// The floor must outlive a crash, too: the file is written anew with it.
	s.lines = 2*s.most + 1
}

// rewrite replaces the file by what is remembered. The caller holds mu, or is alone.
func (s *seen) rewrite() error {
	s.close()
	var b bytes.Buffer
	if s.floor > 0 {
		b.Write(entry{at: s.floor}.encode())
	}
	for _, e := range s.index {
		b.Write(e.encode())
	}
	if err := replaceFile(s.path, b.Bytes()); err != nil {
		return fmt.Errorf("writing what was seen: %w", err)
	}
	f, err := os.OpenFile(s.path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing what was seen: %w", err)
	}
	s.file, s.lines = f, len(s.index)
	return nil
}

func (s *seen) close() {
	if s.file != nil {
		_ = s.file.Close() // every write was synced
		s.file = nil
	}
}

// stop closes the file.
func (s *seen) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close()
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Write(path, b, 0o600)
}
