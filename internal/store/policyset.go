package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"lazaret/quarantine"
)

// conductName is the name under which the one Conduct is kept.
const conductName = "conduct"

// mostSetBytes bounds a policy set as it is stored: it also stands in the audit entry of the
// same transaction.
const mostSetBytes = 256 << 10

// SetTable keeps policy sets. The store gives each save a Version that is higher than every
// one that a set of that name ever had, also before it was deleted. A set must have a form
// (PolicySet.Check) and pass Config.CheckSet; in strict mode one that is assigned must be
// marked stig; there are no more than quarantine.MaxSets (ErrInvalid).
func (s *Store) SetTable() *Table[quarantine.PolicySet] {
	return &Table[quarantine.PolicySet]{s: s, noun: "set", prefix: setPrefix, state: true, put: s.putSet,
		drop: func(ctx context.Context, _ Item[quarantine.PolicySet], ch *change) error {
			return s.serializeSets(ctx, ch)
		}}
}

func (s *Store) putSet(ctx context.Context, old, it *Item[quarantine.PolicySet], ch *change) error {
	if it.Value.Name == "" {
		it.Value.Name = it.Name
	}
	if it.Value.Name != it.Name {
		return fmt.Errorf("set %q cannot be kept as %q: %w", it.Value.Name, it.Name, ErrInvalid)
	}
	if err := s.serializeSets(ctx, ch); err != nil {
		return err
	}
	if old == nil {
		if err := s.roomForSet(ctx); err != nil {
			return err
		}
	}
	conduct, err := s.Conduct(ctx)
	if err != nil {
		return err
	}
	if err := s.checkSet(it.Value, conduct.Value.Strict); err != nil {
		return err
	}
	b, err := json.Marshal(it.Value)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	if len(b) > mostSetBytes {
		return fmt.Errorf("the set takes %d bytes, at most %d: %w", len(b), mostSetBytes, ErrInvalid)
	}
	it.Value.Version, err = s.nextVersion(ctx, it.Name, ch)
	return err
}

// roomForSet refuses one set more than decisions are made by. Whoever asks changes the sets
// alone (serializeSets).
func (s *Store) roomForSet(ctx context.Context) error {
	r, err := s.client.Get(ctx, setPrefix, countOnly()...)
	if err != nil {
		return fmt.Errorf("counting policy sets: %w", err)
	}
	if r.Count >= quarantine.MaxSets {
		return fmt.Errorf("there are %d policy sets, and no more can be: delete one, or add the rules to another: %w", r.Count, ErrInvalid)
	}
	return nil
}

// checkSet refuses a set that cannot stand.
func (s *Store) checkSet(set quarantine.PolicySet, strict bool) error {
	if err := set.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if strict && set.Assigned && !set.STIG {
		return fmt.Errorf("set %q is not marked stig, and strict mode lets no other be assigned: %w", set.Name, ErrInvalid)
	}
	if err := s.cfg.CheckSet(set, strict); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// serializeSets lets one change of a set or of the conduct happen at a time: what each may
// be depends on the other.
func (s *Store) serializeSets(ctx context.Context, ch *change) error {
	if _, err := s.counter(ctx, setsKey, ch); err != nil {
		return err
	}
	ch.put(setsKey, "1")
	return nil
}

func (s *Store) nextVersion(ctx context.Context, name string, ch *change) (int64, error) {
	key := versionPrefix + name
	n, err := s.counter(ctx, key, ch)
	if errors.Is(err, ErrNotFound) {
		ch.require(absent(key))
		n, err = 0, nil
	}
	if err != nil {
		return 0, err
	}
	ch.put(key, encodeNumber(n+1))
	return int64(n + 1), nil
}

func (s *Store) conductTable() *Table[quarantine.Conduct] {
	return &Table[quarantine.Conduct]{s: s, noun: "conduct", prefix: conductPrefix, state: true,
		put: func(ctx context.Context, _, it *Item[quarantine.Conduct], ch *change) error {
			if err := it.Value.Check(); err != nil {
				return fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			if err := s.serializeSets(ctx, ch); err != nil {
				return err
			}
			if !it.Value.Strict {
				return nil
			}
			sets, err := s.SetTable().List(ctx)
			if err != nil {
				return err
			}
			for _, set := range sets {
				if !set.Value.Assigned {
					continue
				}
				if err := s.checkSet(set.Value, true); err != nil {
					return fmt.Errorf("turning strict mode on: %w", err)
				}
			}
			return nil
		},
	}
}

// Conduct returns how the organization treats its devices; the zero Conduct, with revision
// 0, where it was never saved.
func (s *Store) Conduct(ctx context.Context) (Item[quarantine.Conduct], error) {
	it, err := s.conductTable().Get(ctx, conductName)
	if errors.Is(err, ErrNotFound) {
		return Item[quarantine.Conduct]{Name: conductName}, nil
	}
	return it, err
}

// PutConduct saves it, as a Table's Put does; its name does not matter. Errors: ErrInvalid
// (also where strict mode is turned on while a set is assigned that it does not allow),
// quarantine.ErrConflict, enroll.ErrExists.
func (s *Store) PutConduct(ctx context.Context, by quarantine.Actor, it Item[quarantine.Conduct]) (Item[quarantine.Conduct], error) {
	it.Name = conductName
	return s.conductTable().Put(ctx, by, it)
}

// PutSet saves a policy set, whatever was there, and returns it with its version.
func (s *Store) PutSet(ctx context.Context, by quarantine.Actor, set quarantine.PolicySet) (quarantine.PolicySet, error) {
	it, err := s.SetTable().Put(ctx, by, Item[quarantine.PolicySet]{set.Name, set, Any})
	return it.Value, err
}
