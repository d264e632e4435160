package store

import (
	"context"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// notePrefix is where notes lie.
const notePrefix = "note/"

// Notes keeps how far the gateway itself got with something: a cursor, the numbers of what
// was taken already. Nothing in it is anybody's decision or secret, so that the audit log
// does not tell of it, and what follows the audit log does not wake itself.
type Notes struct{ s *Store }

// Notes returns the gateway's notes.
func (s *Store) Notes() Notes { return Notes{s} }

// Put keeps a note, replacing what has the name.
func (n Notes) Put(ctx context.Context, name string, value []byte) error {
	err := checkName("note", name)
	if err == nil {
		_, err = n.s.client.Put(ctx, notePrefix+name, string(value))
	}
	if err != nil {
		return fmt.Errorf("keeping note %q: %w", name, err)
	}
	return nil
}

// List returns the notes whose names begin with prefix, by name.
func (n Notes) List(ctx context.Context, prefix string) (map[string][]byte, error) {
	out := map[string][]byte{}
	_, err := n.s.scan(ctx, notePrefix+prefix, 0, func(kv *mvccpb.KeyValue) error {
		out[string(kv.Key[len(notePrefix):])] = kv.Value
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing notes: %w", err)
	}
	return out, nil
}

// Delete forgets notes; one that does not exist is no error.
func (n Notes) Delete(ctx context.Context, names ...string) error {
	for some := range slices.Chunk(names, mostOps) {
		var ch change
		for _, name := range some {
			ch.delete(notePrefix + name)
		}
		if _, _, err := n.s.commit(ctx, ch); err != nil {
			return fmt.Errorf("forgetting notes: %w", err)
		}
	}
	return nil
}
