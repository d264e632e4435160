package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source/webhook"
)

// makeHooks takes signed webhooks on the enrollment listener.
func (k *control) makeHooks(ctx context.Context) (part, error) {
	p := part{name: "webhooks"}
	h, err := webhook.New(ctx, webhook.Config{
		Gate: k.gate, Audit: refusals{k.store}, Ledger: k.ledger, Keys: hookKeys(k.store), Notes: k.store.Notes(), Source: k.findSource, Log: k.log,
	})
	if err != nil {
		return p, err
	}
	p.public = map[string]http.Handler{webhook.Pattern: h}
	return p, nil
}

func hookKeys(s *store.Store) *webhook.Keys {
	return &webhook.Keys{Settings: settings{s}, Secrets: secrets{s.Secrets()}}
}

// findSource returns a source as it is kept now; false: there is none.
func (k *control) findSource(ctx context.Context, name string) (quarantine.Source, bool, error) {
	it, err := k.store.SourceTable().Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return quarantine.Source{}, false, nil
	}
	return it.Value, err == nil, err
}

// refusals takes what sources are refused into the audit log.
type refusals struct{ store *store.Store }

func (r refusals) Refused(ctx context.Context, by quarantine.Actor, device quarantine.ID, why string) error {
	return r.store.Audit(ctx, audit.Entry{
		Actor: audit.Actor{Kind: by.Kind, Name: by.Name, Address: by.Address}, Action: "source.refuse",
		Device: string(device), Subject: by.Name, Detail: map[string]string{"why": why},
	})
}

// settings is the store's settings for parts that know no store.
type settings struct{ store *store.Store }

func (s settings) Get(ctx context.Context, name string) (json.RawMessage, int64, error) {
	it, err := s.store.Settings().Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	return it.Value, it.Revision, err
}

func (s settings) Put(ctx context.Context, by quarantine.Actor, name string, value json.RawMessage, revision int64) error {
	_, err := s.store.Settings().Put(ctx, by, store.Item[json.RawMessage]{Name: name, Value: value, Revision: revision})
	return translate(err)
}

func (s settings) Delete(ctx context.Context, by quarantine.Actor, name string) error {
	err := s.store.Settings().Delete(ctx, by, name, store.Any)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// secrets is the store's secrets, of which a missing one may be deleted.
type secrets struct{ *store.Secrets }

func (s secrets) Delete(ctx context.Context, name string) error {
	err := s.Secrets.Delete(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// hooks is the keys of webhooks as the console shows them.
type hooks struct {
	keys *webhook.Keys
	url  string // of the enrollment listener
}

var _ console.Hooks = hooks{}

func (h hooks) Hook(ctx context.Context, source string) (api.Hook, error) {
	keys, window, err := h.keys.List(ctx, source)
	if err != nil {
		return api.Hook{}, err
	}
	out := api.Hook{Source: source, URL: h.url + "/hooks/v1/" + source, Window: window.String(), Keys: []api.HookKey{}}
	for _, k := range keys {
		out.Keys = append(out.Keys, api.HookKey{ID: k.ID, Created: k.Created, By: k.By})
	}
	return out, nil
}

func (h hooks) AddKey(ctx context.Context, by quarantine.Actor, source string) (api.HookKey, error) {
	k, secret, err := h.keys.Add(ctx, by, source)
	if err != nil {
		return api.HookKey{}, hookError(err)
	}
	return api.HookKey{ID: k.ID, Created: k.Created, By: k.By, Secret: secret.String()}, nil
}

func (h hooks) RemoveKey(ctx context.Context, by quarantine.Actor, source, key string) error {
	return hookError(h.keys.Remove(ctx, by, source, key))
}

func (h hooks) SetWindow(ctx context.Context, by quarantine.Actor, source string, window time.Duration) error {
	return hookError(h.keys.SetWindow(ctx, by, source, window))
}

// hookError names the errors of webhook.Keys as the console knows them.
func hookError(err error) error {
	switch {
	case errors.Is(err, webhook.ErrNoKey):
		return fmt.Errorf("%w: %w", err, console.ErrNotFound)
	case errors.Is(err, webhook.ErrKeys):
		return fmt.Errorf("%w: %w", err, console.ErrInvalid)
	}
	return err
}

// sourceTable is the table of sources. With a source its webhook keys go, so that another of its
// name does not begin with them.
type sourceTable struct {
	console.Table[quarantine.Source]
	keys *webhook.Keys
}

// Delete implements console.Table. The keys go first: what fails half way leaves a source that
// nobody speaks for, and is done again.
func (t sourceTable) Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	if err := atRevision(ctx, t.Table, name, revision); err != nil {
		return err
	}
	if err := t.keys.Forget(ctx, by, name); err != nil {
		return err
	}
	return t.Table.Delete(ctx, by, name, revision)
}

// atRevision returns quarantine.ErrConflict where a source that is to be deleted is another
// than was meant; 0: whichever.
func atRevision(ctx context.Context, t console.Table[quarantine.Source], name string, revision int64) error {
	all, err := t.List(ctx)
	if err != nil {
		return err
	}
	for _, it := range all {
		if it.Name == name && revision != 0 && it.Revision != revision {
			return fmt.Errorf("source %s: %w", name, quarantine.ErrConflict)
		}
	}
	return nil
}
