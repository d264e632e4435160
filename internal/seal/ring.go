package seal

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lazaret/internal/durable"
)

// Ring holds the keys that wrap data keys. New values are sealed under the newest key;
// older ones open what they sealed until it is rewrapped. A Ring is safe for concurrent use.
type Ring struct {
	mu   sync.RWMutex
	keys []ringKey // oldest first, never empty
	path string    // node's key; "" for a ring that is not kept
	node [keySize]byte
}

type ringKey struct {
	ID  ID
	Key [keySize]byte
}

// New returns a ring with one fresh key that is not kept on disk.
func New() *Ring {
	return &Ring{keys: []ringKey{newKey()}}
}

func newKey() ringKey {
	var k ringKey
	rand.Read(k.ID[:])
	rand.Read(k.Key[:])
	return k
}

// LoadOrCreate loads the node's key from path (32 bytes, mode 0600) and the ring from
// path + ".ring", which is sealed under it, and makes what is missing. A ring whose
// node key is gone is refused, and so is a node key that others may read.
func LoadOrCreate(path string) (*Ring, error) {
	r := &Ring{path: path}
	// What crashes left holds keys; the second form is an earlier version's.
	_ = durable.Sweep(filepath.Dir(path), time.Hour, filepath.Base(path)+".new", filepath.Base(ringPath(path))+".new") // the next start tries again
	node, err := loadNodeKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(ringPath(path)); err == nil {
			return nil, fmt.Errorf("loading key ring: %s exists but the node's key %s is gone; put it back from a backup", ringPath(path), path)
		}
		rand.Read(r.node[:])
		if err := writeFile(path, r.node[:]); err != nil {
			return nil, fmt.Errorf("making the node's key: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("loading the node's key: %w", err)
	default:
		r.node = node
	}
	sealed, err := os.ReadFile(ringPath(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.keys = []ringKey{newKey()}
		return r, r.save()
	case err != nil:
		return nil, fmt.Errorf("loading key ring: %w", err)
	}
	if err := r.unmarshal(sealed); err != nil {
		return nil, fmt.Errorf("opening key ring %s: %w", ringPath(path), err)
	}
	return r, nil
}

// Add makes a new key, under which everything is sealed from now on, and keeps the
// ring. Values under older keys are moved by Rewrap.
func (r *Ring) Add() (ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := newKey()
	r.keys = append(r.keys, k)
	if err := r.save(); err != nil {
		r.keys = r.keys[:len(r.keys)-1]
		return ID{}, err
	}
	return k.ID, nil
}

// Drop forgets a key that wraps nothing any more. The newest key stays.
func (r *Ring) Drop(id ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.keys, func(k ringKey) bool { return k.ID == id })
	if i < 0 {
		return fmt.Errorf("dropping key %s: %w", id, ErrKey)
	}
	if i == len(r.keys)-1 {
		return fmt.Errorf("dropping key %s: it is the newest; add one first", id)
	}
	before := slices.Clone(r.keys)
	r.keys = slices.Delete(r.keys, i, i+1)
	if err := r.save(); err != nil {
		r.keys = before
		return err
	}
	return nil
}

// Keys returns the ids of all keys, oldest first.
func (r *Ring) Keys() []ID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ids := make([]ID, len(r.keys))
	for i, k := range r.keys {
		ids[i] = k.ID
	}
	return ids
}

// Rewrap moves a value under the newest key. The sealed plaintext is opened and sealed
// anew, since its key id is authenticated with it.
func (r *Ring) Rewrap(context string, sealed []byte) ([]byte, error) {
	id, err := KeyOf(sealed)
	if err != nil {
		return nil, err
	}
	if newest, _ := r.primary(); newest == id {
		return sealed, nil
	}
	plaintext, err := r.Open(context, sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	return r.Seal(context, plaintext)
}

func (r *Ring) primary() (ID, [keySize]byte) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k := r.keys[len(r.keys)-1]
	return k.ID, k.Key
}

func (r *Ring) key(id ID) ([keySize]byte, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range r.keys {
		if k.ID == id {
			return k.Key, true
		}
	}
	return [keySize]byte{}, false
}

// storedRing is the plaintext of the ring's file.
type storedRing struct {
	V    int `json:"v"`
	Keys []struct {
		ID  []byte `json:"id"`
		Key []byte `json:"key"`
	} `json:"keys"`
}

const ringContext = "lazaret key ring"

func (r *Ring) nodeRing() *Ring { return &Ring{keys: []ringKey{{Key: r.node}}} }

// save writes the ring's file anew; the caller holds r.mu or is the only user.
func (r *Ring) save() error {
	if r.path == "" {
		return nil
	}
	s := storedRing{V: version1}
	for _, k := range r.keys {
		s.Keys = append(s.Keys, struct {
			ID  []byte `json:"id"`
			Key []byte `json:"key"`
		}{k.ID[:], k.Key[:]})
	}
	plaintext, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("saving key ring: %w", err)
	}
	defer clear(plaintext)
	sealed, err := r.nodeRing().Seal(ringContext, plaintext)
	if err != nil {
		return fmt.Errorf("saving key ring: %w", err)
	}
	if err := writeFile(ringPath(r.path), sealed); err != nil {
		return fmt.Errorf("saving key ring: %w", err)
	}
	return nil
}

func (r *Ring) unmarshal(sealed []byte) error {
	plaintext, err := r.nodeRing().Open(ringContext, sealed)
	if err != nil {
		return err
	}
	defer clear(plaintext)
	var s storedRing
	if err := json.Unmarshal(plaintext, &s); err != nil {
		return fmt.Errorf("%w: %v", ErrFormat, err)
	}
	if s.V != version1 || len(s.Keys) == 0 {
		return fmt.Errorf("%w: ring version %d with %d keys", ErrFormat, s.V, len(s.Keys))
	}
	for _, k := range s.Keys {
		if len(k.ID) != idSize || len(k.Key) != keySize {
			return fmt.Errorf("%w: key of %d bytes", ErrFormat, len(k.Key))
		}
		r.keys = append(r.keys, ringKey{ID(k.ID), [keySize]byte(k.Key)})
	}
	return nil
}

func ringPath(path string) string { return path + ".ring" }

func loadNodeKey(path string) (key [keySize]byte, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return key, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return key, fmt.Errorf("%s has mode %04o: others may read it; set 0600 and rotate the ring", path, mode)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return key, err
	}
	defer clear(b)
	if len(b) != keySize {
		return key, fmt.Errorf("%s holds %d bytes, want %d", path, len(b), keySize)
	}
	return [keySize]byte(b), nil
}

// writeFile replaces path with mode 0600, whole or not at all, also through a crash.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Write(path, b, 0o600)
}
