package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/internal/audit"
)

// Tail follows the audit log forwards. One goroutine uses it at a time.
type Tail struct {
	s *Store
	f *audit.Follower
}

// Tail returns a follower that begins behind the entry of a number; 0: with the first. It
// shows what is chained, flushed and acknowledged, so that no crash takes back what it told.
func (a AuditLog) Tail(after uint64) *Tail {
	return &Tail{a.s, audit.Follow(a.s.cfg.AuditDir, after)}
}

// Next returns what follows, in order, at most limit entries. It waits until there is
// something, or ctx ends.
func (t *Tail) Next(ctx context.Context, limit int) ([]audit.Numbered, error) {
	for {
		some, revision, err := t.more(ctx, limit)
		if len(some) > 0 || err != nil {
			return some, err
		}
		if err := t.s.headMoves(ctx, revision); err != nil {
			return nil, fmt.Errorf("following the audit log: %w", err)
		}
	}
}

// More returns what follows and is there already, in order, at most limit entries.
func (t *Tail) More(ctx context.Context, limit int) ([]audit.Numbered, error) {
	some, _, err := t.more(ctx, limit)
	return some, err
}

// more also returns the revision of the head that it read up to.
func (t *Tail) more(ctx context.Context, limit int) ([]audit.Numbered, int64, error) {
	head, revision, err := t.s.storedHead(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("following the audit log: %w", err)
	}
	some, err := t.f.Next(head.Sequence, limit)
	return some, revision, err
}

// Close frees what it holds.
func (t *Tail) Close() error { return t.f.Close() }

// Last is the number of the entry that was acknowledged last; 0: there is none.
func (a AuditLog) Last(ctx context.Context) (uint64, error) {
	head, _, err := a.s.storedHead(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading head of the audit log: %w", err)
	}
	return head.Sequence, nil
}

// storedHead is the acknowledged head and the revision at which it was stored.
func (s *Store) storedHead(ctx context.Context) (audit.Head, int64, error) {
	kv, err := s.get(ctx, headKey)
	if err != nil || kv == nil {
		return audit.Head{}, 0, err
	}
	var stored storedHead
	err = decode(kv.Value, &stored, func() int { return stored.V })
	return stored.Head, kv.ModRevision, err
}

// headMoves waits until the head is stored again after a revision.
func (s *Store) headMoves(ctx context.Context, after int64) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	r, ok := <-s.client.Watch(watching, headKey, clientv3.WithRev(after+1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !ok:
		return errClosed
	case r.CompactRevision != 0: // it has moved, then
		return nil
	}
	return r.Err()
}
