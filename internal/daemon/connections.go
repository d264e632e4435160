package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/poll"
)

// connections is how sources are asked, as the console shows and changes it.
type connections struct {
	store   *store.Store
	url     string // of the enrollment listener
	changed chan<- struct{}
}

var _ console.Connections = connections{}

const connectionPrefix = "source/" // of settings

// keptConnection is a connection at rest. Settings of one kind mean nothing to another.
type keptConnection struct {
	Kind     quarantine.SourceKind `json:"kind"`
	Settings json.RawMessage       `json:"settings"`
}

// kept returns a source's settings, or nil where there are none for its kind.
func (c connections) kept(ctx context.Context, src quarantine.Source) (json.RawMessage, int64, error) {
	raw, revision, err := settings{c.store}.Get(ctx, connectionPrefix+src.Name)
	if err != nil || raw == nil {
		return nil, revision, err
	}
	var k keptConnection
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, revision, fmt.Errorf("reading settings of source %s: %w", src.Name, err)
	}
	if k.Kind != src.Kind {
		return nil, revision, nil
	}
	return k.Settings, revision, nil
}

// Validity implements console.Connections.
func (c connections) Validity(kind quarantine.SourceKind) (time.Duration, bool) {
	k, ok := products[kind]
	return k.Validity, ok
}

// Connection implements console.Connections.
func (c connections) Connection(ctx context.Context, src quarantine.Source) (api.Connection, error) {
	conf, err := c.read(ctx, src)
	if err != nil {
		return api.Connection{}, err
	}
	out := api.Connection{Source: src.Name, Kind: string(src.Kind), Settings: map[string]any{}, Secrets: slices.Sorted(maps.Keys(conf.secrets)), Revision: conf.revision}
	if out.Secrets == nil {
		out.Secrets = []string{}
	}
	if conf.settings != nil {
		if err := json.Unmarshal(conf.settings, &out.Settings); err != nil {
			return out, fmt.Errorf("reading settings of source %s: %w", src.Name, err)
		}
	}
	if conf.secrets[poll.SecretHook] != "" {
		switch src.Kind {
		case quarantine.SourceFleet:
			out.Webhook = c.url + "/sources/v1/fleet/" + src.Name + "/SECRET"
		case quarantine.SourceJamf:
			out.Webhook = c.url + "/sources/v1/jamf/" + src.Name
		}
	}
	return out, nil
}

// elsewhere are settings that say where a secret is sent, and who may read it there.
var elsewhere = []string{"url", "ca", "login", "tenant"}

// Connect implements console.Connections. Secrets that are not given stay, unless they would
// go to another server: whoever may say where a secret goes could have it otherwise.
func (c connections) Connect(ctx context.Context, by quarantine.Actor, src quarantine.Source, q api.ConnectionRequest) error {
	kind, ok := products[src.Kind]
	if !ok {
		return fmt.Errorf("%w: sources of kind %q are not asked", console.ErrInvalid, src.Kind)
	}
	raw, err := json.Marshal(q.Settings)
	if err != nil {
		return fmt.Errorf("%w: %w", console.ErrInvalid, err)
	}
	was, err := c.read(ctx, src)
	if err != nil {
		return err
	}
	if q.Revision != was.revision {
		return quarantine.ErrConflict
	}
	secrets := map[string]string{}
	if was.settings != nil && !leadsElsewhere(was.settings, raw) {
		maps.Copy(secrets, was.secrets)
	}
	for name, text := range q.Secrets {
		if text == nil || *text == "" {
			delete(secrets, name)
		} else {
			secrets[name] = *text
		}
	}
	if _, err := kind.Make(raw, secrets); err != nil {
		if len(was.secrets) > 0 && leadsElsewhere(was.settings, raw) {
			return fmt.Errorf("%w: %w (another server: its secrets must be given again)", console.ErrInvalid, err)
		}
		return fmt.Errorf("%w: %w", console.ErrInvalid, err)
	}
	value, err := json.Marshal(keptConnection{src.Kind, raw})
	if err != nil {
		return fmt.Errorf("encoding settings: %w", err)
	}
	return c.save(ctx, by, src.Name, value, q.Revision, was.secrets, secrets)
}

// save writes secrets and settings, the settings last: pollers read all anew when they see
// that those have another revision. So an old secret never meets a new server.
func (c connections) save(ctx context.Context, by quarantine.Actor, name string, value []byte, revision int64, was, secrets map[string]string) error {
	keep := c.store.Secrets()
	for secret := range was {
		if _, stays := secrets[secret]; !stays {
			if err := keep.Delete(ctx, secretName(name, secret)); err != nil {
				return err
			}
		}
	}
	for secret, text := range secrets {
		if was[secret] != text {
			if err := keep.Put(ctx, secretName(name, secret), []byte(text)); err != nil {
				return err
			}
		}
	}
	if err := (settings{c.store}).Put(ctx, by, connectionPrefix+name, value, revision); err != nil {
		return err
	}
	c.announce()
	return nil
}

// Changed implements console.Connections.
func (c connections) Changed() { c.announce() }

func (c connections) announce() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// leadsElsewhere reports whether secrets would go to, or be read by, somebody else.
func leadsElsewhere(was, now []byte) bool {
	var a, b map[string]json.RawMessage
	if json.Unmarshal(was, &a) != nil || json.Unmarshal(now, &b) != nil {
		return true
	}
	return slices.ContainsFunc(elsewhere, func(key string) bool { return !bytes.Equal(a[key], b[key]) })
}

// Forget implements console.Connections: a source is gone, and its secrets go with it.
func (c connections) Forget(ctx context.Context, by quarantine.Actor, name string) error {
	if err := (settings{c.store}).Delete(ctx, by, connectionPrefix+name); err != nil {
		return err
	}
	for _, kind := range products {
		for _, secret := range append(append([]string{}, kind.Secrets...), kind.Optional...) {
			if err := (secrets{c.store.Secrets()}).Delete(ctx, secretName(name, secret)); err != nil {
				return err
			}
		}
	}
	c.announce()
	return nil
}

// sourceHealth is the ledger as the console shows it.
func sourceHealth(l *source.Ledger) func() []api.SourceHealth {
	return func() []api.SourceHealth {
		list := l.List()
		out := make([]api.SourceHealth, len(list))
		for i, h := range list {
			out[i] = api.SourceHealth{
				Source: h.Source, Kind: string(h.Kind), Heard: h.Heard, Tried: h.Tried, Next: h.Next, Problem: h.Problem,
				Failures: h.Failures, Accepted: h.Accepted, Refused: h.Refused,
			}
		}
		return out
	}
}
