package store

import (
	"context"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/quarantine"
)

// A revision, as the gate sees it, is that of a transaction that touched what it
// watches. etcd's own counter also moves with OTPs, audit entries and confirmations,
// and no event would ever show those numbers. So every transaction that touches the
// gate's state also writes markKey; Now and Snapshot answer with the mark's revision,
// which the watch is certain to reach, because it brings an event at exactly it.

// Now implements quarantine.Store: the revision of the last change that Watch shows.
func (s *Store) Now(ctx context.Context) (int64, error) {
	rev, _, err := s.state(ctx)
	return rev, err
}

// state reads the mark linearizably: the gate's revision, and etcd's own at that moment.
func (s *Store) state(ctx context.Context) (mark, own int64, err error) {
	r, err := s.client.Get(ctx, markKey)
	if err != nil {
		return 0, 0, fmt.Errorf("reading revision: %w", err)
	}
	if len(r.Kvs) == 0 {
		return 0, 0, fmt.Errorf("reading revision: %w", ErrNotFound)
	}
	return r.Kvs[0].ModRevision, r.Header.Revision, nil
}

// Snapshot implements quarantine.Store.
func (s *Store) Snapshot(ctx context.Context) (quarantine.Snapshot, error) {
	for {
		snap, err := s.snapshot(ctx)
		if isCompacted(err) && ctx.Err() == nil {
			continue // history went while it was read: begin anew
		}
		if err != nil {
			return quarantine.Snapshot{}, fmt.Errorf("taking snapshot: %w", err)
		}
		return snap, nil
	}
}

func (s *Store) snapshot(ctx context.Context) (quarantine.Snapshot, error) {
	mark, own, err := s.state(ctx)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	reached, err := s.mark(ctx)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	snap := quarantine.Snapshot{Revision: mark, Time: reached, Records: map[quarantine.ID]quarantine.Record{}}
	if _, err = s.scan(ctx, devicePrefix, own, func(kv *mvccpb.KeyValue) error {
		r, err := decodeRecord(kv)
		snap.Records[r.ID] = r
		return err
	}); err != nil {
		return quarantine.Snapshot{}, err
	}
	pools, _, err := s.PoolTable().at(ctx, own)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	profiles, _, err := s.ProfileTable().at(ctx, own)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	sources, _, err := s.SourceTable().at(ctx, own)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	snap.Pools, snap.Profiles, snap.Sources = byName(pools), byName(profiles), byName(sources)
	sets, _, err := s.SetTable().at(ctx, own)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	conduct, _, err := s.conductTable().at(ctx, own)
	if err != nil {
		return quarantine.Snapshot{}, err
	}
	snap.Sets, snap.Conduct = byName(sets), byName(conduct)[conductName]
	return snap, nil
}

// Watch implements quarantine.Store. A revision that was compacted is no loss where
// nothing the gate watches has changed since: then the watch begins with what comes next.
func (s *Store) Watch(ctx context.Context, after int64) <-chan quarantine.Event {
	out := make(chan quarantine.Event)
	go func() {
		defer close(out)
		err := s.watch(ctx, after, func(e quarantine.Event) bool { return send(ctx, out, e) })
		if err != nil && ctx.Err() == nil {
			send(ctx, out, quarantine.Event{Err: fmt.Errorf("watching: %w", err)})
		}
	}()
	return out
}

// send delivers an event unless ctx ends first.
func send(ctx context.Context, out chan<- quarantine.Event, e quarantine.Event) bool {
	select {
	case out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Store) watch(ctx context.Context, after int64, deliver func(quarantine.Event) bool) error {
	mark, own, err := s.state(ctx)
	if err != nil {
		return err
	}
	from := after + 1
	switch {
	case mark <= after:
		from = max(from, own+1)
	case own-after > s.cfg.Behind:
		return quarantine.ErrCompacted // see Config.Behind
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for r := range s.client.Watch(ctx, statePrefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if r.CompactRevision != 0 {
			return quarantine.ErrCompacted
		}
		if err := r.Err(); err != nil {
			return err
		}
		events, err := group(r.Events)
		if err != nil {
			return err
		}
		for _, e := range events {
			if !deliver(e) {
				return nil
			}
		}
	}
	if ctx.Err() == nil {
		return errClosed
	}
	return nil
}

// group makes one Event of each revision; etcd never splits one across answers.
func group(in []*clientv3.Event) ([]quarantine.Event, error) {
	var out []quarantine.Event
	for _, e := range in {
		if len(out) == 0 || out[len(out)-1].Revision != e.Kv.ModRevision {
			out = append(out, quarantine.Event{Revision: e.Kv.ModRevision})
		}
		last := &out[len(out)-1]
		key := string(e.Kv.Key)
		id, device := strings.CutPrefix(key, devicePrefix)
		switch {
		case device && e.Type == mvccpb.DELETE:
			last.Gone = append(last.Gone, quarantine.ID(id))
		case device:
			r, err := decodeRecord(e.Kv)
			if err != nil {
				return nil, fmt.Errorf("device %s: %w", id, err)
			}
			last.Records = append(last.Records, r)
		case key != markKey:
			last.Settings = true
		}
	}
	return out, nil
}
