package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"lazaret/enroll"
	"lazaret/firewall"
	"lazaret/quarantine"
)

// PoolTable keeps pools. Saving one checks it together with all others and against the
// highest seat ever given (ErrInvalid), and gives a full pool its mark. The quarantine
// pool comes first and cannot be deleted; neither can a pool that a profile names (ErrInUse).
func (s *Store) PoolTable() *Table[quarantine.Pool] {
	return &Table[quarantine.Pool]{s: s, noun: "pool", prefix: poolPrefix, state: true, put: s.putPool, drop: s.dropPool}
}

func (s *Store) putPool(ctx context.Context, old, it *Item[quarantine.Pool], ch *change) error {
	if it.Value.Name == "" {
		it.Value.Name = it.Name
	}
	highest, err := s.counter(ctx, seatKey, ch)
	if err != nil {
		return err
	}
	if err := s.serializePools(ctx, ch); err != nil {
		return err
	}
	switch {
	case old != nil && old.Value.Quarantine != it.Value.Quarantine:
		return fmt.Errorf("a pool does not become the quarantine pool, or cease to be it: %w", ErrInvalid)
	case old != nil && it.Value.Mark == 0:
		it.Value.Mark = old.Value.Mark
	case old != nil && it.Value.Mark != old.Value.Mark:
		return fmt.Errorf("pool has mark %d for ever, not %d: %w", old.Value.Mark, it.Value.Mark, ErrInvalid)
	case old == nil && it.Value.Mark != 0:
		return fmt.Errorf("marks are given by the store, leave it zero: %w", ErrInvalid)
	case old == nil && !it.Value.Quarantine:
		if it.Value.Mark, err = s.nextMark(ctx, ch); err != nil {
			return err
		}
	}
	pools, err := s.Pools(ctx)
	if err != nil {
		return err
	}
	pools[it.Name] = it.Value
	if err := quarantine.CheckPools(pools, quarantine.Seat(highest)); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// serializePools lets one change of a pool happen at a time, and none between the
// choice of a seat and its commit.
func (s *Store) serializePools(ctx context.Context, ch *change) error {
	if _, err := s.counter(ctx, poolsKey, ch); err != nil {
		return err
	}
	ch.put(poolsKey, "1")
	return nil
}

func (s *Store) nextMark(ctx context.Context, ch *change) (firewall.Mark, error) {
	n, err := s.counter(ctx, markNumberKey, ch)
	if err != nil {
		return 0, err
	}
	if n >= math.MaxUint32 {
		return 0, fmt.Errorf("no firewall mark left: %w", ErrInvalid)
	}
	ch.put(markNumberKey, encodeNumber(n+1))
	return firewall.Mark(n + 1), nil
}

func (s *Store) dropPool(ctx context.Context, old Item[quarantine.Pool], ch *change) error {
	if old.Value.Quarantine {
		return fmt.Errorf("it is the quarantine pool: %w", ErrInUse)
	}
	if err := s.serializePools(ctx, ch); err != nil {
		return err
	}
	profiles, err := s.ProfileTable().List(ctx)
	if err != nil {
		return err
	}
	for _, p := range profiles {
		if p.Value.Pool == old.Name {
			return fmt.Errorf("profile %q releases into it: %w", p.Name, ErrInUse)
		}
	}
	return nil
}

// ProfileTable keeps enrollment profiles. A profile names a pool that exists, and not
// the quarantine pool (ErrInvalid).
func (s *Store) ProfileTable() *Table[quarantine.Profile] {
	return &Table[quarantine.Profile]{s: s, noun: "profile", prefix: profilePrefix, state: true,
		put: func(ctx context.Context, _, it *Item[quarantine.Profile], ch *change) error {
			if it.Value.Name == "" {
				it.Value.Name = it.Name
			}
			if it.Value.Name != it.Name {
				return fmt.Errorf("profile %q cannot be kept as %q: %w", it.Value.Name, it.Name, ErrInvalid)
			}
			pool, err := s.PoolTable().Get(ctx, it.Value.Pool)
			if errors.Is(err, ErrNotFound) {
				return fmt.Errorf("there is no pool %q: %w", it.Value.Pool, ErrInvalid)
			}
			if err != nil {
				return err
			}
			if pool.Value.Quarantine {
				return fmt.Errorf("pool %q is the quarantine pool, which is nothing to be released into: %w", it.Value.Pool, ErrInvalid)
			}
			_, err = s.counter(ctx, poolsKey, ch)
			return err
		},
	}
}

// SourceTable keeps compliance sources. A source is of a known kind and is not the agent's
// own (ErrInvalid).
func (s *Store) SourceTable() *Table[quarantine.Source] {
	return &Table[quarantine.Source]{s: s, noun: "source", prefix: sourcePrefix, state: true,
		put: func(_ context.Context, _, it *Item[quarantine.Source], _ *change) error {
			if it.Value.Name == "" {
				it.Value.Name = it.Name
			}
			if it.Value.Name != it.Name {
				return fmt.Errorf("source %q cannot be kept as %q: %w", it.Value.Name, it.Name, ErrInvalid)
			}
			if err := it.Value.Check(); err != nil {
				return fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			return nil
		},
	}
}

// Settings keeps named values of others' shape. The audit log names them, and does not
// show what is in them.
func (s *Store) Settings() *Table[json.RawMessage] {
	return &Table[json.RawMessage]{s: s, noun: "setting", prefix: settingPrefix,
		describe: func(v json.RawMessage) map[string]string { return nil }}
}

// Pools returns every pool by name.
func (s *Store) Pools(ctx context.Context) (map[string]quarantine.Pool, error) {
	items, err := s.PoolTable().List(ctx)
	return byName(items), err
}

// Profile returns one profile; enroll.ErrNoProfile.
func (s *Store) Profile(ctx context.Context, name string) (quarantine.Profile, error) {
	it, err := s.ProfileTable().Get(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return quarantine.Profile{}, enroll.ErrNoProfile
	}
	return it.Value, err
}

// PutPool saves a pool, whatever was there.
func (s *Store) PutPool(ctx context.Context, by quarantine.Actor, p quarantine.Pool) error {
	_, err := s.PoolTable().Put(ctx, by, Item[quarantine.Pool]{p.Name, p, Any})
	return err
}

// DeletePool deletes a pool; ErrNotFound, ErrInUse.
func (s *Store) DeletePool(ctx context.Context, by quarantine.Actor, name string) error {
	return s.PoolTable().Delete(ctx, by, name, Any)
}

// PutProfile saves a profile, whatever was there.
func (s *Store) PutProfile(ctx context.Context, by quarantine.Actor, p quarantine.Profile) error {
	_, err := s.ProfileTable().Put(ctx, by, Item[quarantine.Profile]{p.Name, p, Any})
	return err
}

// DeleteProfile deletes a profile; ErrNotFound.
func (s *Store) DeleteProfile(ctx context.Context, by quarantine.Actor, name string) error {
	return s.ProfileTable().Delete(ctx, by, name, Any)
}

// PutSource saves a source, whatever was there.
func (s *Store) PutSource(ctx context.Context, by quarantine.Actor, src quarantine.Source) error {
	_, err := s.SourceTable().Put(ctx, by, Item[quarantine.Source]{src.Name, src, Any})
	return err
}

// DeleteSource deletes a source; ErrNotFound.
func (s *Store) DeleteSource(ctx context.Context, by quarantine.Actor, name string) error {
	return s.SourceTable().Delete(ctx, by, name, Any)
}
