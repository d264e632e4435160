package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// Entries reach the log in three steps: a transaction puts one into the outbox with its
// change; the chain appends it and flushes; a second transaction stores the new head and
// deletes it from the outbox. Killed after the second step, the entry is found both in
// the outbox and behind the stored head, and its ID says that it is the same.

// storedHead is the audit log's head.
type storedHead struct {
	V    int        `json:"v"`
	Head audit.Head `json:"head"`
}

// chunk is how many outbox entries one transaction takes away.
const chunk = 100

// openChain opens the segments and checks that they reach the stored head. The caller
// holds s.chaining or is the only user.
func (s *Store) openChain(ctx context.Context) error {
	kv, err := s.get(ctx, headKey)
	if err != nil {
		return fmt.Errorf("reading head of the audit log: %w", err)
	}
	var stored storedHead
	if s.headRev = 0; kv != nil {
		if err := decode(kv.Value, &stored, func() int { return stored.V }); err != nil {
			return fmt.Errorf("reading head of the audit log: %w", err)
		}
		s.headRev = kv.ModRevision
	}
	chain, err := audit.Open(audit.Config{
		Dir: s.cfg.AuditDir, Head: stored.Head, SegmentSize: s.cfg.SegmentSize,
		Clock: s.cfg.Clock, Log: s.cfg.Log, AcceptBreak: s.cfg.AcceptAuditBreak,
	})
	if err != nil {
		return err
	}
	s.chain = chain
	clear(s.chained)
	for _, e := range chain.Beyond() {
		s.chained[e.ID] = true
	}
	if s.cfg.AcceptAuditBreak && len(chain.Beyond()) == 0 && chain.Head().Segment > stored.Head.Segment {
		return s.acknowledge(ctx, nil)
	}
	return nil
}

// FlushAudit chains what is waiting, so that the segments hold everything recorded
// before the call.
func (s *Store) FlushAudit(ctx context.Context) error {
	s.chaining.Lock()
	defer s.chaining.Unlock()
	if err := s.chainWaiting(ctx); err != nil {
		if s.chain != nil {
			s.chain.Close()
			s.chain = nil
		}
		return fmt.Errorf("chaining audit entries: %w", err)
	}
	return nil
}

// waiting is an outbox entry.
type waiting struct {
	key   string
	entry audit.Entry
}

func (s *Store) chainWaiting(ctx context.Context) error {
	if s.chain == nil {
		if err := s.openChain(ctx); err != nil {
			return err
		}
	}
	// All of it at one revision: whatever comes later has a higher one, so that the
	// log is in the order of revisions.
	var list []waiting
	if _, err := s.scan(ctx, outboxPrefix, 0, func(kv *mvccpb.KeyValue) error {
		var e audit.Entry
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return err
		}
		e.Revision = kv.CreateRevision
		list = append(list, waiting{string(kv.Key), e})
		return nil
	}); err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b waiting) int { return cmp.Compare(a.entry.Revision, b.entry.Revision) })
	for some := range slices.Chunk(list, chunk) {
		if err := s.chainSome(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) chainSome(ctx context.Context, some []waiting) error {
	var fresh []audit.Entry
	for _, w := range some {
		if !s.chained[w.entry.ID] {
			fresh = append(fresh, w.entry)
		}
	}
	s.cfg.hook("before append")
	if _, err := s.chain.Append(fresh...); err != nil {
		return err
	}
	for _, e := range fresh {
		s.chained[e.ID] = true
	}
	s.cfg.hook("after append")
	return s.acknowledge(ctx, some)
}

// acknowledge stores the chain's head and empties the outbox of what it holds.
func (s *Store) acknowledge(ctx context.Context, some []waiting) error {
	var ch change
	ch.require(unchanged(headKey, s.headRev))
	ch.put(headKey, mustJSON(storedHead{recordVersion, s.chain.Head()}))
	for _, w := range some {
		ch.delete(w.key)
	}
	rev, ok, err := s.commit(ctx, ch)
	if err != nil {
		return fmt.Errorf("storing head: %w", err)
	}
	if !ok {
		return fmt.Errorf("storing head: another program chains into the same log: %w", quarantine.ErrConflict)
	}
	s.headRev = rev
	for _, w := range some {
		delete(s.chained, w.entry.ID)
	}
	s.cfg.hook("after acknowledge")
	return nil
}

// chainLoop chains whenever something reaches the outbox, until ctx ends. A failure is
// logged and tried again after a pause: the entries wait in the outbox.
func (s *Store) chainLoop(ctx context.Context) error {
	const pause = 5 * time.Second
	const gather = 100 * time.Millisecond // entries come in bursts, and the work is beside somebody's request
	var wake clientv3.WatchChan           // nil until the next try
	armed := true
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r, ok := <-wake:
			if !ok || r.Err() != nil {
				wake, armed = nil, true
				retry.Reset(pause)
			} else if !armed {
				armed = true
				retry.Reset(gather)
			}
			continue
		case <-retry.C:
			armed = false
			if wake == nil {
				wake = s.client.Watch(ctx, outboxPrefix, clientv3.WithPrefix(), clientv3.WithFilterDelete())
			}
		}
		if err := s.FlushAudit(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("audit entries wait to be chained", "err", err)
			armed = true
			retry.Reset(pause)
		}
	}
}

// AuditLog reads the audit log back.
type AuditLog struct{ s *Store }

// AuditLog returns the reader of this gateway's audit log.
func (s *Store) AuditLog() AuditLog { return AuditLog{s} }

// List returns entries, newest first: of one device or of all (""), not before since
// (zero: from the beginning), at most limit (zero: all).
func (a AuditLog) List(ctx context.Context, device string, since time.Time, limit int) ([]audit.Entry, error) {
	if err := a.s.FlushAudit(ctx); err != nil {
		return nil, err
	}
	return audit.List(a.s.cfg.AuditDir, audit.Filter{Device: device, Since: since, Limit: limit})
}

// Head returns the head to keep elsewhere, for an offline check.
func (a AuditLog) Head(ctx context.Context) (audit.Head, error) {
	if err := a.s.FlushAudit(ctx); err != nil {
		return audit.Head{}, err
	}
	a.s.chaining.Lock()
	defer a.s.chaining.Unlock()
	if a.s.chain == nil {
		return audit.Head{}, fmt.Errorf("reading head of the audit log: %w", errClosed)
	}
	return a.s.chain.Head(), nil
}

// Export writes all segments as one tar archive, which audit.VerifyTar checks.
func (a AuditLog) Export(ctx context.Context, w io.Writer) error {
	if err := a.s.FlushAudit(ctx); err != nil {
		return err
	}
	return audit.Export(a.s.cfg.AuditDir, w)
}
