package store

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// Secrets keeps what nobody may read from the disk: private keys of the issuing CAs, of
// the CMP responder, of listeners. Each is sealed under the ring and bound to its name
// before it reaches etcd.
type Secrets struct{ s *Store }

// Secrets returns the organization's secrets.
func (s *Store) Secrets() *Secrets { return &Secrets{s} }

// Put keeps a secret, replacing what has the name.
func (x *Secrets) Put(ctx context.Context, name string, plaintext []byte) error {
	if err := x.write(ctx, name, plaintext, change{}); err != nil {
		return fmt.Errorf("keeping secret %q: %w", name, err)
	}
	return nil
}

// Create keeps a secret unless one has the name already (enroll.ErrExists).
func (x *Secrets) Create(ctx context.Context, name string, plaintext []byte) error {
	var ch change
	ch.require(absent(secretPrefix + name))
	err := x.write(ctx, name, plaintext, ch)
	if err != nil {
		return fmt.Errorf("keeping secret %q: %w", name, err)
	}
	return nil
}

func (x *Secrets) write(ctx context.Context, name string, plaintext []byte, ch change) error {
	if err := checkName("secret", name); err != nil {
		return err
	}
	sealed, err := x.s.cfg.Ring.Seal(secretPrefix+name, plaintext)
	if err != nil {
		return err
	}
	ch.put(secretPrefix+name, string(sealed))
	ch.entry = audit.Entry{Actor: actor(x.s.self()), Action: "secret.put", Subject: name}
	_, ok, err := x.s.commit(ctx, ch)
	if err == nil && !ok {
		err = enroll.ErrExists
	}
	return err
}

// Get returns a secret, or ErrNotFound.
func (x *Secrets) Get(ctx context.Context, name string) ([]byte, error) {
	kv, err := x.s.get(ctx, secretPrefix+name)
	if err == nil && kv == nil {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", name, err)
	}
	plaintext, err := x.s.cfg.Ring.Open(secretPrefix+name, kv.Value)
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", name, err)
	}
	return plaintext, nil
}

// Names lists the secrets' names.
func (x *Secrets) Names(ctx context.Context) ([]string, error) {
	var names []string
	_, err := x.s.scan(ctx, secretPrefix, 0, func(kv *mvccpb.KeyValue) error {
		names = append(names, string(kv.Key[len(secretPrefix):]))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	return names, nil
}

// Delete forgets a secret; ErrNotFound. Its sealed form leaves the disk with compaction.
func (x *Secrets) Delete(ctx context.Context, name string) error {
	kv, err := x.s.get(ctx, secretPrefix+name)
	if err == nil && kv == nil {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("forgetting secret %q: %w", name, err)
	}
	ch := change{entry: audit.Entry{Actor: actor(x.s.self()), Action: "secret.delete", Subject: name}}
	ch.require(unchanged(secretPrefix+name, kv.ModRevision))
	ch.delete(secretPrefix + name)
	_, ok, err := x.s.commit(ctx, ch)
	if err == nil && !ok {
		err = quarantine.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("forgetting secret %q: %w", name, err)
	}
	return nil
}
