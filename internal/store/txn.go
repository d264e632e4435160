package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// change is one transaction: what must hold, what is written, and its audit entry, or the
// entries of several things written together.
type change struct {
	compares []clientv3.Cmp
	ops      []clientv3.Op
	state    bool // the gate must see it: writes markKey
	entry    audit.Entry
	entries  []audit.Entry
}

func (c *change) require(cmp ...clientv3.Cmp) { c.compares = append(c.compares, cmp...) }
func (c *change) put(key, value string)       { c.ops = append(c.ops, clientv3.OpPut(key, value)) }
func (c *change) delete(key string)           { c.ops = append(c.ops, clientv3.OpDelete(key)) }

// mostOps is etcd's limit of one transaction.
const mostOps = 128

// commit runs a change. It returns the revision, and false where a comparison failed
// and nothing was written. After an error the change may have been written or not.
func (s *Store) commit(ctx context.Context, c change) (int64, bool, error) {
	if c.entry.Action != "" {
		c.entries = append(c.entries, c.entry)
	}
	for _, e := range c.entries {
		key, value := s.outboxEntry(e)
		c.put(key, value)
	}
	if c.state {
		c.put(markKey, "1")
	}
	if len(c.ops) > mostOps || len(c.compares) > mostOps {
		return 0, false, fmt.Errorf("transaction of %d operations, at most %d", len(c.ops), mostOps)
	}
	action := ""
	if len(c.entries) > 0 {
		action = c.entries[0].Action
	}
	s.cfg.hook("before commit " + action)
	r, err := s.client.Txn(ctx).If(c.compares...).Then(c.ops...).Commit()
	if err != nil {
		return 0, false, err
	}
	if r.Succeeded {
		s.cfg.hook("after commit " + action)
	}
	return r.Header.Revision, r.Succeeded, nil
}

// outboxEntry completes an entry and returns the key and value that keep it until it
// is chained. Its revision is the one the key is created at.
func (s *Store) outboxEntry(e audit.Entry) (key, value string) {
	var id [12]byte
	rand.Read(id[:])
	e.Version, e.ID, e.Revision = 1, hex.EncodeToString(id[:]), 0
	if e.Time.IsZero() {
		e.Time = s.cfg.Clock()
	}
	e.Time = e.Time.UTC()
	if y := e.Time.Year(); y < 0 || y > 9999 { // no JSON form
		e.Time = s.cfg.Clock().UTC()
	}
	return outboxPrefix + e.ID, mustJSON(e)
}

// Audit records something that changed nothing here: a refusal, a sign-in. ID, Revision
// and Version are filled in, and Time if it is zero. It is ErrReserve for a stranger's doing
// while the disk is nearly full: nobody without a credential fills it up, and changes,
// tightenings among them, are still recorded.
func (s *Store) Audit(ctx context.Context, e audit.Entry) error {
	if e.Action == "" {
		return fmt.Errorf("recording audit entry: no action: %w", ErrInvalid)
	}
	if e.Actor.Kind == "stranger" {
		if free, err := s.free(); err != nil || free < s.cfg.Reserve {
			return fmt.Errorf("recording audit entry %s: %w", e.Action, errors.Join(ErrReserve, err))
		}
	}
	if _, _, err := s.commit(ctx, change{entry: e}); err != nil {
		return fmt.Errorf("recording audit entry %s: %w", e.Action, err)
	}
	return nil
}

func actor(a quarantine.Actor) audit.Actor {
	return audit.Actor{Kind: a.Kind, Name: a.Name, Address: a.Address}
}

// self is this gateway as an actor.
func (s *Store) self() quarantine.Actor {
	return quarantine.Actor{Kind: "gateway", Name: s.cfg.Gateway}
}

// readOp reads a key or range that the transaction built on it compares again, so that a
// stale read costs a retry and nothing else.
func readOp(key string, opts ...clientv3.OpOption) clientv3.Op {
	return clientv3.OpGet(key, append(opts, clientv3.WithSerializable())...)
}

// read gets several keys or ranges at one revision.
func (s *Store) read(ctx context.Context, ops ...clientv3.Op) ([][]*mvccpb.KeyValue, error) {
	r, err := s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	out := make([][]*mvccpb.KeyValue, len(ops))
	for i, resp := range r.Responses {
		out[i] = resp.GetResponseRange().Kvs
	}
	return out, nil
}

// get returns one key, or nil. The only member of its cluster has applied whatever it
// answered, so a serializable read shows every write that has returned and costs no round
// of consensus; whoever writes on the strength of it compares revisions anyway. Once there
// are other members, reads that admit somebody must be linearizable again.
func (s *Store) get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	r, err := s.client.Get(ctx, key, clientv3.WithSerializable())
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0], nil
}

// page is how many keys one read returns at most.
const page = 4000

// scan calls f for every key of a prefix, in order, all at one revision (zero: now),
// and returns that revision.
func (s *Store) scan(ctx context.Context, prefix string, revision int64, f func(*mvccpb.KeyValue) error, more ...clientv3.OpOption) (int64, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithSerializable()} // see get
		if revision > 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		opts = append(opts, more...)
		r, err := s.client.Get(ctx, from, opts...)
		if err != nil {
			return revision, fmt.Errorf("reading %s: %w", prefix, err)
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			if err := f(kv); err != nil {
				return revision, fmt.Errorf("reading %s: %w", kv.Key, err)
			}
		}
		if !r.More {
			return revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

func isCompacted(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) }

// clockTolerance is how far the clock may be behind the highest time ever stored where
// something is signed: gateways of a cluster differ a little.
const clockTolerance = 2 * time.Minute

// signing is now for whatever is signed: ErrClock also where the clock is behind mark.
func (s *Store) signing(mark time.Time) (time.Time, error) {
	if clock := s.cfg.Clock(); mark.Sub(clock) > clockTolerance {
		return time.Time{}, clockError(clock, mark)
	}
	return s.now(mark)
}

func clockError(clock, mark time.Time) error {
	return fmt.Errorf("%w (clock %s, stored %s)", ErrClock, clock.UTC().Format(time.RFC3339), mark.Format(time.RFC3339))
}

// now is the later of the clock and mark, the highest time ever stored. It is ErrClock
// when the clock is further ahead of the mark than the configured bound.
func (s *Store) now(mark time.Time) (time.Time, error) {
	clock := s.cfg.Clock()
	if ahead := clock.Sub(mark); ahead > s.cfg.MaxJump {
		return time.Time{}, clockError(clock, mark)
	}
	if clock.After(mark) {
		return clock.UTC(), nil
	}
	return mark, nil
}
