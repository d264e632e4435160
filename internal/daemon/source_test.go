package daemon

import (
	"context"
	"errors"
	"testing"

	"lazaret/internal/console"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source/webhook"
)

type brokenSettings struct{ settings }

func (brokenSettings) Delete(context.Context, quarantine.Actor, string) error {
	return errors.New("no")
}

type brokenSecrets struct{ secrets }

func (brokenSecrets) Delete(context.Context, string) error { return errors.New("no") }

// A source does not go without its keys: what cannot be deleted whole stays, to be deleted
// again, and another source of its name begins with none of them. A deletion that means
// another revision deletes nothing.
func TestKeysGoBeforeTheirSource(t *testing.T) {
	s, _ := newStore(t)
	admin := quarantine.Actor{Kind: "administrator", Name: "root"}
	good := hookKeys(s)
	sources := table[quarantine.Source]{s.SourceTable()}
	item := console.Item[quarantine.Source]{Name: "mdm", Value: quarantine.Source{Kind: quarantine.SourceWebhook}}
	it, err := sources.Put(t.Context(), admin, item)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := good.Add(t.Context(), admin, "mdm"); err != nil {
		t.Fatal(err)
	}
	if err := (sourceTable{sources, good}).Delete(t.Context(), admin, "mdm", it.Revision+1); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("deleting another revision: %v", err)
	}
	if keys, _, err := good.List(t.Context(), "mdm"); err != nil || len(keys) != 1 {
		t.Errorf("after a deletion that was refused there are %d keys, %v", len(keys), err)
	}
	for _, bad := range []*webhook.Keys{
		{Settings: brokenSettings{settings{s}}, Secrets: secrets{s.Secrets()}},
		{Settings: settings{s}, Secrets: brokenSecrets{secrets{s.Secrets()}}},
	} {
		if err := (sourceTable{sources, bad}).Delete(t.Context(), admin, "mdm", it.Revision); err == nil {
			t.Error("deleted, but for its keys")
		}
		if _, err := s.SourceTable().Get(t.Context(), "mdm"); err != nil {
			t.Fatalf("the source went before its keys: %v", err)
		}
	}
	if err := (sourceTable{sources, good}).Delete(t.Context(), admin, "mdm", it.Revision); err != nil {
		t.Errorf("deleting again: %v", err)
	}
	if _, err := s.SourceTable().Get(t.Context(), "mdm"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the source is there: %v", err)
	}
	item.Value.MayRelease = true
	if _, err := sources.Put(t.Context(), admin, item); err != nil {
		t.Fatal(err)
	}
	if keys, _, err := good.List(t.Context(), "mdm"); err != nil || len(keys) > 0 {
		t.Errorf("the new source begins with %d keys of the old one, %v", len(keys), err)
	}
}
