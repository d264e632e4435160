package webhook

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
)

// Settings keeps what administrators decide; the daemon's is the store's.
type Settings interface {
	// Get returns a value and its revision, or nothing and 0 where there is none.
	Get(ctx context.Context, name string) (json.RawMessage, int64, error)
	// Put writes a value if the stored one still has the revision; 0: there is none yet.
	// Errors wrap quarantine.ErrConflict.
	Put(ctx context.Context, by quarantine.Actor, name string, value json.RawMessage, revision int64) error
	// Delete removes a value; one that is not there is no error.
	Delete(ctx context.Context, by quarantine.Actor, name string) error
}

// Secrets keeps what nobody may read; the daemon's seals them.
type Secrets interface {
	Get(ctx context.Context, name string) ([]byte, error)
	Put(ctx context.Context, name string, plaintext []byte) error
	// Delete removes a secret; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

const (
	// MaxKeys is how many keys a source has at once: an old one, a new one, and one more for
	// a second sender.
	MaxKeys = 3
	// MaxWindow is how far a message's time stamp may be from now, and the default.
	MaxWindow = 5 * time.Minute
	minWindow = 10 * time.Second
)

var (
	// ErrNoKey reports a key that does not exist.
	ErrNoKey = errors.New("no such key")
	// ErrKeys reports keys that cannot be as asked for.
	ErrKeys = errors.New("not possible with these keys")
)

// Key is a key of a source, without its secret.
type Key struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	By      string    `json:"by"`
}

// ring is how the keys of a source are kept: their names, and the window.
type ring struct {
	Version int    `json:"v"`
	Keys    []Key  `json:"keys"`
	Window  string `json:"window,omitempty"`
}

const ringVersion = 1

// Keys keeps the keys of sources: their list in Settings under "webhook/SOURCE", each secret
// in Secrets under "webhook/SOURCE/KEY". A secret that the list does not name is worth nothing.
type Keys struct {
	Settings Settings         // required
	Secrets  Secrets          // required
	Now      func() time.Time // optional: time.Now
}

func settingName(source string) string { return "webhook/" + source }

func secretName(source, key string) string { return "webhook/" + source + "/" + key }

func (k *Keys) load(ctx context.Context, source string) (ring, int64, error) {
	raw, revision, err := k.Settings.Get(ctx, settingName(source))
	if err != nil || raw == nil {
		return ring{Version: ringVersion}, 0, err
	}
	var r ring
	if err := json.Unmarshal(raw, &r); err != nil {
		return ring{}, 0, fmt.Errorf("reading the keys of source %s: %w", source, err)
	}
	if r.Version != ringVersion {
		return ring{}, 0, fmt.Errorf("reading the keys of source %s: they have version %d, this program reads %d", source, r.Version, ringVersion)
	}
	return r, revision, nil
}

func (k *Keys) save(ctx context.Context, by quarantine.Actor, source string, r ring, revision int64) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return k.Settings.Put(ctx, by, settingName(source), raw, revision)
}

// List returns the keys of a source, oldest first, and its window.
func (k *Keys) List(ctx context.Context, source string) ([]Key, time.Duration, error) {
	r, _, err := k.load(ctx, source)
	return r.Keys, r.window(), err
}

func (r ring) window() time.Duration {
	d, err := time.ParseDuration(r.Window)
	if err != nil || d < minWindow || d > MaxWindow {
		return MaxWindow
	}
	return d
}

// Add makes a key and returns it with its secret, which nobody is told again. Errors: ErrKeys
// where there are MaxKeys already, quarantine.ErrConflict.
func (k *Keys) Add(ctx context.Context, by quarantine.Actor, source string) (Key, Secret, error) {
	r, revision, err := k.load(ctx, source)
	if err != nil {
		return Key{}, Secret{}, err
	}
	if len(r.Keys) >= MaxKeys {
		return Key{}, Secret{}, fmt.Errorf("source %s has %d keys: %w: remove one first", source, len(r.Keys), ErrKeys)
	}
	var id [4]byte
	rand.Read(id[:])
	key, secret := Key{ID: fmt.Sprintf("k%x", id), Created: k.now(), By: by.Name}, NewSecret()
	if err := k.Secrets.Put(ctx, secretName(source, key.ID), []byte(secret.String())); err != nil {
		return Key{}, Secret{}, fmt.Errorf("adding a key to source %s: %w", source, err)
	}
	r.Keys = append(r.Keys, key)
	if err := k.save(ctx, by, source, r, revision); err != nil {
		return Key{}, Secret{}, errors.Join(fmt.Errorf("adding a key to source %s: %w", source, err), k.Secrets.Delete(ctx, secretName(source, key.ID)))
	}
	return key, secret, nil
}

func (k *Keys) now() time.Time {
	if k.Now == nil {
		return time.Now().UTC()
	}
	return k.Now().UTC()
}

// Remove takes a key away: it signs nothing from the next message on. ErrNoKey.
func (k *Keys) Remove(ctx context.Context, by quarantine.Actor, source, id string) error {
	r, revision, err := k.load(ctx, source)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(r.Keys, func(key Key) bool { return key.ID == id })
	if n < 0 {
		return fmt.Errorf("removing key %.40q of source %s: %w", id, source, ErrNoKey)
	}
	r.Keys = slices.Delete(r.Keys, n, n+1)
	if err := k.save(ctx, by, source, r, revision); err != nil {
		return fmt.Errorf("removing key %s of source %s: %w", id, source, err)
	}
	if err := k.Secrets.Delete(ctx, secretName(source, id)); err != nil {
		return fmt.Errorf("removing key %s of source %s: %w", id, source, err)
	}
	return nil
}

// SetWindow bounds how far a message's time stamp may be from now: 10 s to 5 min. ErrKeys.
func (k *Keys) SetWindow(ctx context.Context, by quarantine.Actor, source string, window time.Duration) error {
	if window < minWindow || window > MaxWindow {
		return fmt.Errorf("a window of %s: %w: want %s to %s", window, ErrKeys, minWindow, MaxWindow)
	}
	r, revision, err := k.load(ctx, source)
	if err != nil {
		return err
	}
	r.Window = window.String()
	if err := k.save(ctx, by, source, r, revision); err != nil {
		return fmt.Errorf("setting the window of source %s: %w", source, err)
	}
	return nil
}

// Forget removes all that is kept of a source that is no more, so that another of its name
// does not begin with its keys.
func (k *Keys) Forget(ctx context.Context, by quarantine.Actor, source string) error {
	r, revision, err := k.load(ctx, source)
	if err != nil || revision == 0 {
		return err
	}
	var faults []error
	for _, key := range r.Keys {
		faults = append(faults, k.Secrets.Delete(ctx, secretName(source, key.ID)))
	}
	if err := errors.Join(faults...); err != nil { // the list stays, so that it is done again
		return fmt.Errorf("forgetting the keys of source %s: %w", source, err)
	}
	if err := k.Settings.Delete(ctx, by, settingName(source)); err != nil {
		return fmt.Errorf("forgetting the keys of source %s: %w", source, err)
	}
	return nil
}

// secrets are those that a source's messages may be signed with, and its window. A secret
// that cannot be read is an error: nothing is taken on a guess.
func (k *Keys) secrets(ctx context.Context, source string) ([]Secret, time.Duration, error) {
	r, _, err := k.load(ctx, source)
	if err != nil {
		return nil, 0, err
	}
	var out []Secret
	for _, key := range r.Keys {
		text, err := k.Secrets.Get(ctx, secretName(source, key.ID))
		if err != nil {
			return nil, 0, err
		}
		s, err := ParseSecret(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, 0, fmt.Errorf("reading key %s of source %s: %w", key.ID, source, err)
		}
		out = append(out, s)
	}
	return out, r.window(), nil
}
