package stream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/webhook"
)

func settingName(name string) string { return settingPrefix + name }

func secretName(name, what string) string { return "stream/" + name + "/" + what }

// pushSecret is the secret that holds the header with which tokens are pushed.
const pushSecret = "push"

// State is a receiver and how it does.
type State struct {
	Receiver
	Health
}

// List returns all receivers, by name.
func (m *Manager) List(ctx context.Context) ([]State, error) {
	all, err := m.receivers(ctx)
	if err != nil {
		return nil, err
	}
	last, err := m.cfg.Last(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]State, len(all))
	for i, r := range all {
		out[i] = State{r, m.health(r.Name, last)}
	}
	return out, nil
}

// health is how a receiver does, where the log ends with last.
func (m *Manager) health(name string, last uint64) Health {
	m.mu.Lock()
	w, p := m.workers[name], m.polls[name]
	m.mu.Unlock()
	h := Health{Name: name}
	switch {
	case w != nil:
		h = w.state()
	case p != nil:
		h = p.state()
	default:
		h.Problem = "it does not run"
	}
	if last > h.Cursor {
		h.Waiting = last - h.Cursor
	}
	return h
}

// load returns a receiver and its revision; ErrNotFound.
func (m *Manager) load(ctx context.Context, name string) (Receiver, int64, error) {
	raw, revision, err := m.cfg.Settings.Get(ctx, settingName(name))
	if err == nil && raw == nil {
		err = ErrNotFound
	}
	if err != nil {
		return Receiver{}, 0, fmt.Errorf("reading stream %.64q: %w", name, err)
	}
	r, err := decode(name, raw)
	return r, revision, err
}

// Add keeps a new receiver and begins to tell it what happens from now on. It returns what
// it is convinced by, which nobody is told again: a webhook's secret, or the token with which
// an SSF receiver asks. push is the header Authorization of an SSF receiver that is pushed to.
// Errors: ErrInvalid, ErrExists.
func (m *Manager) Add(ctx context.Context, by quarantine.Actor, r Receiver, push string) (Receiver, string, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	r.Created, r.By, r.Keys, r.TokenSum, r.StreamID, r.Status = m.cfg.Now().UTC(), by.Name, nil, "", "", ""
	if err := m.fits(ctx, r, push); err != nil {
		return Receiver{}, "", err
	}
	shown := ""
	switch r.Kind {
	case Webhook:
		key, secret, err := m.newKey(ctx, by, r.Name)
		if err != nil {
			return Receiver{}, "", err
		}
		r.Keys, shown = []Key{key}, secret.String()
	case SSF:
		r.StreamID, r.Status = "st_"+strings.ToLower(rand.Text()), Enabled
		shown = newToken(&r)
		if push != "" {
			if err := m.cfg.Secrets.Put(ctx, secretName(r.Name, pushSecret), []byte(push)); err != nil {
				return Receiver{}, "", err
			}
		}
	}
	if err := m.cfg.Notes.Delete(ctx, notePrefix+r.Name); err != nil { // of another of its name
		return Receiver{}, "", err
	}
	if err := m.save(ctx, by, r, 0); err != nil {
		return Receiver{}, "", errors.Join(err, m.forget(ctx, r))
	}
	return r, shown, m.start(ctx, r)
}

// fits checks a new receiver beside the others.
func (m *Manager) fits(ctx context.Context, r Receiver, push string) error {
	if err := r.Check(m.cfg.Loopback); err != nil {
		return err
	}
	if push != "" && (r.Kind != SSF || r.URL == "" || len(push) > 4096 || strings.ContainsFunc(push, func(c rune) bool { return c < ' ' || c > '~' })) {
		return fmt.Errorf("%w: the push credential is one printable line, and for an SSF receiver with a URL", ErrInvalid)
	}
	all, err := m.receivers(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(o Receiver) bool { return o.Name == r.Name }) {
		return fmt.Errorf("adding stream %s: %w", r.Name, ErrExists)
	}
	if len(all) >= MaxReceivers {
		return fmt.Errorf("%w: there are %d streams, and a gateway has %d at most", ErrInvalid, len(all), MaxReceivers)
	}
	return nil
}

// A token is its prefix and what rand.Text gives.
const (
	tokenPrefix = "lzs_"
	tokenLength = len(tokenPrefix) + 26
)

func newToken(r *Receiver) string {
	token := tokenPrefix + strings.ToLower(rand.Text())
	sum := sha256.Sum256([]byte(token))
	r.TokenSum = hex.EncodeToString(sum[:])
	return token
}

func (m *Manager) newKey(ctx context.Context, by quarantine.Actor, name string) (Key, webhook.Secret, error) {
	var id [4]byte
	rand.Read(id[:])
	key, secret := Key{fmt.Sprintf("k%x", id), m.cfg.Now().UTC(), by.Name}, webhook.NewSecret()
	if err := m.cfg.Secrets.Put(ctx, secretName(name, key.ID), []byte(secret.String())); err != nil {
		return Key{}, webhook.Secret{}, fmt.Errorf("adding a key to stream %s: %w", name, err)
	}
	return key, secret, nil
}

func (m *Manager) save(ctx context.Context, by quarantine.Actor, r Receiver, revision int64) error {
	raw, err := encode(r)
	if err != nil {
		return err
	}
	if err := m.cfg.Settings.Put(ctx, by, settingName(r.Name), raw, revision); err != nil {
		return fmt.Errorf("saving stream %s: %w", r.Name, err)
	}
	return nil
}

// forget deletes a receiver's secrets.
func (m *Manager) forget(ctx context.Context, r Receiver) error {
	var faults []error
	for _, k := range r.Keys {
		faults = append(faults, m.cfg.Secrets.Delete(ctx, secretName(r.Name, k.ID)))
	}
	return errors.Join(append(faults, m.cfg.Secrets.Delete(ctx, secretName(r.Name, pushSecret)))...)
}

// credentials reads what a receiver is convinced by.
func (m *Manager) credentials(ctx context.Context, r Receiver) (credentials, error) {
	var c credentials
	for _, k := range r.Keys {
		text, err := m.cfg.Secrets.Get(ctx, secretName(r.Name, k.ID))
		if err != nil {
			return c, err
		}
		s, err := webhook.ParseSecret(string(text))
		if err != nil {
			return c, fmt.Errorf("reading key %s of stream %s: %w", k.ID, r.Name, err)
		}
		c.secrets = append(c.secrets, s)
	}
	push, err := m.cfg.Secrets.Get(ctx, secretName(r.Name, pushSecret))
	c.push = string(push)
	return c, err
}

// change alters a receiver, and goes on telling it from where it was.
func (m *Manager) change(ctx context.Context, by quarantine.Actor, name string, alter func(*Receiver) error) (Receiver, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	r, revision, err := m.load(ctx, name)
	if err != nil {
		return r, err
	}
	before := r.Status
	if err := alter(&r); err != nil {
		return r, err
	}
	if err := r.Check(m.cfg.Loopback); err != nil {
		return r, err
	}
	if err := m.save(ctx, by, r, revision); err != nil {
		return r, err
	}
	m.end(name)
	if before == Disabled && r.Status != Disabled { // what came while it was disabled is not kept
		if err := m.cfg.Notes.Delete(ctx, notePrefix+name); err != nil {
			return r, err
		}
	}
	return r, m.start(ctx, r)
}

// Change is what an administrator alters of a receiver; nil: as it is.
type Change struct {
	URL, Audience, CA *string
	Events            *[]string
	Addresses         *bool
	Allow             *[]netip.Prefix
}

// leadsElsewhere reports whether what is sent would reach somebody else, or be read by them.
func leadsElsewhere(was, now Receiver) bool {
	return was.URL != now.URL || was.CA != now.CA || !slices.Equal(was.Allow, now.Allow)
}

// Update alters a receiver. The header Authorization that tokens are pushed with is dropped
// where it would go elsewhere: whoever may say where a secret goes could have it otherwise. A
// receiver that needs one there is removed and added anew.
// Errors: ErrNotFound, ErrInvalid, quarantine.ErrConflict.
func (m *Manager) Update(ctx context.Context, by quarantine.Actor, name string, c Change) (Receiver, error) {
	return m.change(ctx, by, name, func(r *Receiver) error {
		was := *r
		for _, f := range []struct{ to, from *string }{{&r.URL, c.URL}, {&r.Audience, c.Audience}, {&r.CA, c.CA}} {
			if f.from != nil {
				*f.to = *f.from
			}
		}
		if c.Events != nil {
			r.Events = *c.Events
		}
		if c.Addresses != nil {
			r.Addresses = *c.Addresses
		}
		if c.Allow != nil {
			r.Allow = *c.Allow
		}
		if err := r.Check(m.cfg.Loopback); err != nil || !leadsElsewhere(was, *r) {
			return err
		}
		// Before the change is kept, so that an old secret never meets a new server.
		return m.cfg.Secrets.Delete(ctx, secretName(name, pushSecret))
	})
}

// AddKey makes another key for a webhook; messages bear the signatures of both until one is
// removed. It returns the secret, which nobody is told again.
func (m *Manager) AddKey(ctx context.Context, by quarantine.Actor, name string) (Key, string, error) {
	var key Key
	var secret webhook.Secret
	_, err := m.change(ctx, by, name, func(r *Receiver) (err error) {
		if r.Kind != Webhook || len(r.Keys) >= MaxKeys {
			return fmt.Errorf("%w: only a webhook has keys, and %d at most: remove one first", ErrInvalid, MaxKeys)
		}
		if key, secret, err = m.newKey(ctx, by, name); err == nil {
			r.Keys = append(r.Keys, key)
		}
		return err
	})
	if err != nil {
		return Key{}, "", err
	}
	return key, secret.String(), nil
}

// RemoveKey takes a key away, but for the last one. Errors: ErrNotFound, ErrInvalid.
func (m *Manager) RemoveKey(ctx context.Context, by quarantine.Actor, name, id string) error {
	_, err := m.change(ctx, by, name, func(r *Receiver) error {
		n := slices.IndexFunc(r.Keys, func(k Key) bool { return k.ID == id })
		if n < 0 {
			return fmt.Errorf("removing key %.40q: %w", id, ErrNotFound)
		}
		if len(r.Keys) == 1 {
			return fmt.Errorf("%w: nothing would be signed without its last key: add the next one first", ErrInvalid)
		}
		r.Keys = slices.Delete(r.Keys, n, n+1)
		return nil
	})
	if err != nil {
		return err
	}
	return m.cfg.Secrets.Delete(ctx, secretName(name, id))
}

// NewToken gives an SSF receiver another token to ask with; the old one is worth nothing.
func (m *Manager) NewToken(ctx context.Context, by quarantine.Actor, name string) (token string, err error) {
	_, err = m.change(ctx, by, name, func(r *Receiver) error {
		if r.Kind != SSF {
			return fmt.Errorf("%w: only an SSF receiver has a token", ErrInvalid)
		}
		token = newToken(r)
		return nil
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

// Remove forgets a receiver; ErrNotFound.
func (m *Manager) Remove(ctx context.Context, by quarantine.Actor, name string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	r, _, err := m.load(ctx, name)
	if err != nil {
		return err
	}
	if err := m.cfg.Settings.Delete(ctx, by, settingName(name)); err != nil {
		return fmt.Errorf("removing stream %s: %w", name, err)
	}
	m.end(name)
	m.mu.Lock()
	delete(m.sums, name)
	delete(m.toggles, name)
	m.mu.Unlock()
	return errors.Join(m.forget(ctx, r), m.cfg.Notes.Delete(ctx, notePrefix+name))
}

// Resume tells a receiver again that was parked, or at once one that waits for its next attempt.
func (m *Manager) Resume(ctx context.Context, by quarantine.Actor, name string) error {
	if _, _, err := m.load(ctx, name); err != nil {
		return err
	}
	m.cfg.Log.Info("a stream is resumed", "stream", name, "by", by.Name)
	m.mu.Lock()
	w := m.workers[name]
	m.mu.Unlock()
	if w == nil {
		return nil
	}
	w.mu.Lock()
	w.p.Parked, w.p.Since, w.p.Problem = false, time.Time{}, ""
	w.mu.Unlock()
	w.note(ctx)
	w.nudge()
	return nil
}

// Test sends a ping to a receiver at once, past its queue, and says why it did not arrive;
// empty: it did.
func (m *Manager) Test(ctx context.Context, name string) (why string, err error) {
	if _, _, err := m.load(ctx, name); err != nil {
		return "", err
	}
	m.mu.Lock()
	w := m.workers[name]
	m.mu.Unlock()
	if w == nil {
		return "", fmt.Errorf("%w: it is a receiver that asks by itself, or the gateway is starting", ErrInvalid)
	}
	e := Event{Type: "ping", Time: m.cfg.Now().UTC(), Version: eventVersion, ID: "ping_" + strings.ToLower(rand.Text()), Gateway: m.cfg.Gateway}
	if w.r.Kind == SSF {
		e.Type, e.Data.Subject = verification, "test"
	}
	messages, err := w.messages(e)
	if err != nil {
		return "", err
	}
	for _, msg := range messages {
		if err := w.send(ctx, msg); err != nil {
			return err.Error(), nil
		}
	}
	return "", nil
}

// verify has a verification sent to an SSF receiver, in its turn.
func (m *Manager) verify(r Receiver, state string) error {
	e := Event{Type: verification, Time: m.cfg.Now().UTC().Truncate(time.Second), Version: eventVersion, ID: "ver_" + strings.ToLower(rand.Text()), Gateway: m.cfg.Gateway, Data: Data{Subject: state}}
	m.mu.Lock()
	w, p := m.workers[r.Name], m.polls[r.Name]
	m.mu.Unlock()
	switch {
	case w != nil:
		return w.first(e)
	case p != nil:
		return p.first(e)
	}
	return ErrNotFound
}

// mostExtra is how many verifications may wait.
const mostExtra = 8

var errTooMany = errors.New("too many verifications at once")

func (w *worker) first(e Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.extra) >= mostExtra {
		return errTooMany
	}
	w.extra = append(w.extra, e)
	w.nudge()
	return nil
}
