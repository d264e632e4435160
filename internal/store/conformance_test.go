package store

import (
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

func TestQuarantineStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		t.Parallel()
		s := fresh(t)
		n := 0
		reference := func() string { n++; return fmt.Sprintf("REF%05d", n) }
		return storetest.Harness{
			Store:   s,
			Put:     func(t testing.TB, r quarantine.Record) quarantine.Record { return enrollAs(t, s, reference(), r) },
			Delete:  func(t testing.TB, id quarantine.ID) { forget(t, s, id) },
			Save:    func(t testing.TB, to storetest.Settings) { save(t, s, to) },
			Touch:   func(t testing.TB) { touch(t, s, reference()) },
			Compact: func(t testing.TB, _ int64) { compact(t, s) },
		}
	})
}

// enrollAs enrolls r, in place of the device of its id if there is one.
func enrollAs(t testing.TB, s *Store, reference string, r quarantine.Record) quarantine.Record {
	t.Helper()
	o := enrolltest.OTP(0)
	o.Reference = reference
	in := enrolltest.Issuance(enrolltest.Create(t, s, o), r)
	if old, err := s.Device(t.Context(), r.ID); err == nil {
		in.Retires = &old
	}
	got, err := s.Issue(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func forget(t testing.TB, s *Store, id quarantine.ID) {
	t.Helper()
	r, err := s.Device(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r = revoke(t, s, r)
	if err := s.Forget(t.Context(), admin, r.ID, r.Revision); err != nil {
		t.Fatal(err)
	}
}

// save makes the settings be exactly to, in an order in which each step is allowed.
func save(t testing.TB, s *Store, to storetest.Settings) {
	t.Helper()
	ctx := t.Context()
	snap, err := s.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range snap.Profiles {
		if _, ok := to.Profiles[name]; !ok {
			step(s.DeleteProfile(ctx, admin, name))
		}
	}
	for _, quarantinePool := range []bool{true, false} {
		for _, p := range to.Pools {
			if p.Quarantine == quarantinePool {
				step(s.PutPool(ctx, admin, p))
			}
		}
	}
	for name := range snap.Pools {
		if _, ok := to.Pools[name]; !ok {
			step(s.DeletePool(ctx, admin, name))
		}
	}
	for _, p := range to.Profiles {
		step(s.PutProfile(ctx, admin, p))
	}
	for name := range snap.Sources {
		if _, ok := to.Sources[name]; !ok {
			step(s.DeleteSource(ctx, admin, name))
		}
	}
	for _, src := range to.Sources {
		step(s.PutSource(ctx, admin, src))
	}
	for name := range snap.Sets {
		if _, ok := to.Sets[name]; !ok {
			step(s.SetTable().Delete(ctx, admin, name, Any))
		}
	}
	for _, set := range to.Sets {
		_, err := s.PutSet(ctx, admin, set)
		step(err)
	}
	_, err = s.PutConduct(ctx, admin, Item[quarantine.Conduct]{Value: to.Conduct, Revision: Any})
	step(err)
}

// touch records an OTP, which does not move the gate's revision, and then moves it by
// nothing at all.
func touch(t testing.TB, s *Store, reference string) {
	t.Helper()
	o := enrolltest.OTP(0)
	o.Reference, o.Created = reference, time.Now()
	enrolltest.Create(t, s, o)
	if _, ok, err := s.commit(t.Context(), change{state: true}); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

// compact forgets all history up to etcd's present revision.
func compact(t testing.TB, s *Store) {
	t.Helper()
	r, err := s.client.Get(t.Context(), markKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}
