package store

import (
	"context"
	"encoding/json"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// Any as the revision of a Put or Delete stands for whatever is there, or nothing.
const Any int64 = -1

// Item is a named value and the revision at which it was last written.
type Item[T any] struct {
	Name     string
	Value    T
	Revision int64
}

// Table is one kind of named value. A write of one name touches no other.
type Table[T any] struct {
	s      *Store
	noun   string // in audit entries and errors
	prefix string
	state  bool // the gate must see changes

	// put and drop complete a transaction: further comparisons, indexes, a value that
	// the store fills in. old is nil where there is none. Either may be nil.
	put  func(ctx context.Context, old *Item[T], it *Item[T], ch *change) error
	drop func(ctx context.Context, old Item[T], ch *change) error
	// describe adds to the audit entry of a Put; nil: the value as JSON.
	describe func(T) map[string]string
}

// List returns all, by name, at one revision.
func (t *Table[T]) List(ctx context.Context) ([]Item[T], error) {
	items, _, err := t.at(ctx, 0)
	return items, err
}

// ListPrefix returns those whose names begin with prefix, by name, at one revision. Nothing
// else is read.
func (t *Table[T]) ListPrefix(ctx context.Context, prefix string) ([]Item[T], error) {
	items, _, err := t.under(ctx, prefix, 0)
	return items, err
}

// Names returns the names that begin with prefix, in order. Values are not read.
func (t *Table[T]) Names(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	_, err := t.s.scan(ctx, t.prefix+prefix, 0, func(kv *mvccpb.KeyValue) error {
		names = append(names, string(kv.Key[len(t.prefix):]))
		return nil
	}, clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("listing names of %ss: %w", t.noun, err)
	}
	return names, nil
}

// at lists the table as it was at a revision (zero: now), which it returns.
func (t *Table[T]) at(ctx context.Context, revision int64) ([]Item[T], int64, error) {
	return t.under(ctx, "", revision)
}

// under is at for names that begin with prefix.
func (t *Table[T]) under(ctx context.Context, prefix string, revision int64) ([]Item[T], int64, error) {
	var items []Item[T]
	revision, err := t.s.scan(ctx, t.prefix+prefix, revision, func(kv *mvccpb.KeyValue) error {
		it, err := t.item(kv)
		items = append(items, it)
		return err
	})
	if err != nil {
		return nil, revision, fmt.Errorf("listing %ss: %w", t.noun, err)
	}
	return items, revision, nil
}

func (t *Table[T]) item(kv *mvccpb.KeyValue) (Item[T], error) {
	value, err := decodeValue[T](kv)
	return Item[T]{string(kv.Key[len(t.prefix):]), value, kv.ModRevision}, err
}

// Get returns one, or ErrNotFound.
func (t *Table[T]) Get(ctx context.Context, name string) (Item[T], error) {
	it, err := t.find(ctx, name)
	if err == nil && it == nil {
		err = ErrNotFound
	}
	if err != nil {
		return Item[T]{}, fmt.Errorf("reading %s %q: %w", t.noun, name, err)
	}
	return *it, nil
}

func (t *Table[T]) find(ctx context.Context, name string) (*Item[T], error) {
	kv, err := t.s.get(ctx, t.prefix+name)
	if err != nil || kv == nil {
		return nil, err
	}
	it, err := t.item(kv)
	return &it, err
}

// Put writes it.Value where the stored one still has it.Revision, and returns it as
// stored. Revision 0: there must be none yet, else enroll.ErrExists; Any: whatever is
// there. Other errors: quarantine.ErrConflict, ErrNotFound, ErrInvalid.
func (t *Table[T]) Put(ctx context.Context, by quarantine.Actor, it Item[T]) (Item[T], error) {
	stored, err := t.tryPut(ctx, by, it)
	if err != nil {
		return Item[T]{}, fmt.Errorf("saving %s %q: %w", t.noun, it.Name, err)
	}
	return stored, nil
}

func (t *Table[T]) tryPut(ctx context.Context, by quarantine.Actor, it Item[T]) (Item[T], error) {
	if err := checkName(t.noun, it.Name); err != nil {
		return it, err
	}
	old, err := t.find(ctx, it.Name)
	if err != nil {
		return it, err
	}
	ch := change{state: t.state, entry: audit.Entry{Actor: actor(by), Action: t.noun + ".put", Subject: it.Name}}
	key := t.prefix + it.Name
	switch {
	case old == nil && it.Revision > 0:
		return it, ErrNotFound
	case old != nil && it.Revision == 0:
		return it, enroll.ErrExists
	case old != nil && it.Revision > 0 && it.Revision != old.Revision:
		return it, quarantine.ErrConflict
	case old == nil:
		ch.require(absent(key))
	default:
		ch.require(unchanged(key, old.Revision))
	}
	if t.put != nil {
		if err := t.put(ctx, old, &it, &ch); err != nil {
			return it, err
		}
	}
	value, err := json.Marshal(it.Value)
	if err != nil {
		return it, fmt.Errorf("encoding: %w", err)
	}
	ch.put(key, mustJSON(storedValue{recordVersion, value}))
	ch.entry.Detail = map[string]string{"value": string(value)}
	if t.describe != nil {
		ch.entry.Detail = t.describe(it.Value)
	}
	rev, ok, err := t.s.commit(ctx, ch)
	if err != nil {
		return it, err
	}
	if !ok {
		return it, quarantine.ErrConflict
	}
	it.Revision = rev
	return it, nil
}

// Delete removes one if it still has the revision (Any: whichever), and nothing else.
// Errors: ErrNotFound, quarantine.ErrConflict, ErrInUse.
func (t *Table[T]) Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	if err := t.tryDelete(ctx, by, name, revision); err != nil {
		return fmt.Errorf("deleting %s %q: %w", t.noun, name, err)
	}
	return nil
}

func (t *Table[T]) tryDelete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	old, err := t.find(ctx, name)
	if err != nil {
		return err
	}
	if old == nil {
		return ErrNotFound
	}
	if revision != Any && revision != old.Revision {
		return quarantine.ErrConflict
	}
	ch := change{state: t.state, entry: audit.Entry{Actor: actor(by), Action: t.noun + ".delete", Subject: name}}
	ch.require(unchanged(t.prefix+name, old.Revision))
	ch.delete(t.prefix + name)
	if t.drop != nil {
		if err := t.drop(ctx, *old, &ch); err != nil {
			return err
		}
	}
	_, ok, err := t.s.commit(ctx, ch)
	if err == nil && !ok {
		err = quarantine.ErrConflict
	}
	return err
}

// byName turns a list into what a Snapshot holds.
func byName[T any](items []Item[T]) map[string]T {
	out := make(map[string]T, len(items))
	for _, it := range items {
		out[it.Name] = it.Value
	}
	return out
}

// counter reads a number and makes the transaction fail if it changes meanwhile.
func (s *Store) counter(ctx context.Context, key string, ch *change) (uint64, error) {
	kv, err := s.get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", key, err)
	}
	if kv == nil {
		return 0, fmt.Errorf("reading %s: %w", key, ErrNotFound)
	}
	ch.require(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision))
	return decodeNumber(kv.Value)
}
