package store

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"lazaret/enroll"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// second returns another gateway's view of the same etcd.
func second(s *Store) *Store {
	c := s.cfg
	c.Gateway = "gw2"
	return &Store{cfg: c, etcd: s.etcd, client: s.client, chained: map[string]bool{}}
}

// before runs f once, just before s commits a change of that action.
func before(s *Store, action string, f func()) {
	done := false
	s.cfg.hook = func(step string) {
		if step == "before commit "+action && !done {
			done = true
			f()
		}
	}
}

// Two gateways decide on the same state; the slower one must notice at its commit.
func TestGatewaysCollide(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	other := second(s)
	seedPools(t, s)
	ctx := t.Context()

	o := enrolltest.Create(t, s, enrolltest.OTP(1))
	before(s, "device.enroll", func() {
		if _, err := other.Issue(ctx, enrolltest.Issuance(o, enrolltest.Record(1))); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Issue(ctx, enrolltest.Issuance(o, enrolltest.Record(100))); !errors.Is(err, enroll.ErrUsed) {
		t.Errorf("the same OTP at two gateways: %v, want ErrUsed", err)
	}
	if _, err := s.Device(ctx, enrolltest.Record(100).ID); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("a second device: %v", err)
	}

	// Different OTPs: both enroll, on different seats.
	before(s, "device.enroll", func() { enrolltest.Enroll(t, other, 2) })
	if r := enrolltest.Enroll(t, s, 3); r.Seat != 3 {
		t.Errorf("seat %d, want 3", r.Seat)
	}

	// The same WireGuard key, then the same name: the faster one has it.
	for n, change := range map[int]func(*quarantine.Record, int){
		10: func(r *quarantine.Record, n int) { r.Key = enrolltest.Key(n) },
		20: func(r *quarantine.Record, n int) { r.Name = enrolltest.Record(n).Name },
		30: func(r *quarantine.Record, n int) { r.Certificate.SPKI = enrolltest.SPKI(n) },
	} {
		before(s, "device.enroll", func() { enrolltest.Enroll(t, other, n) })
		r := enrolltest.Record(n + 1)
		change(&r, n)
		var taken *enroll.TakenError
		if _, err := s.Issue(ctx, enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(n+1)), r)); !errors.As(err, &taken) {
			t.Errorf("the same value at two gateways (%d): %v, want a TakenError", n, err)
		}
	}
}

// Two devices renew to one WireGuard key at two gateways: one keeps what it had.
func TestRenewalsCollide(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	other := second(s)
	a, b := enrolltest.Enroll(t, s, 1), enrolltest.Enroll(t, s, 2)
	a.Next, b.Next = enrolltest.Key(50), enrolltest.Key(50)
	before(s, "device.renew", func() { record(t, other, quarantine.Renew, b) })
	if _, err := s.Record(t.Context(), quarantine.Change{Kind: quarantine.Renew}, a); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("the slower one got %v, want ErrConflict", err)
	}
	if got, err := s.ByWireGuard(t.Context(), enrolltest.Key(50)); err != nil || got.ID != b.ID {
		t.Errorf("the key belongs to %s, %v; want %s", got.ID, err, b.ID)
	}
}

// A pool may shrink only when no seat beyond it was given meanwhile.
func TestPoolAndSeatCollide(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	other := second(s)
	seedPools(t, s)
	for n := 1; n <= 13; n++ {
		enrolltest.Enroll(t, s, n)
	}
	staff, err := s.PoolTable().Get(t.Context(), "staff")
	if err != nil {
		t.Fatal(err)
	}
	staff.Value.IPv4 = netip.MustParsePrefix("10.81.0.0/28") // room for 13
	before(s, "pool.put", func() { enrolltest.Enroll(t, other, 14) })
	if _, err := s.PoolTable().Put(t.Context(), admin, staff); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("shrunk below seat 14: %v, want ErrConflict", err)
	}
	// And the other way round: the seat that no longer fits is not given.
	staff.Value.IPv4 = netip.MustParsePrefix("10.81.0.0/27") // room for 29
	for n := 15; n <= 29; n++ {
		enrolltest.Enroll(t, s, n)
	}
	before(s, "device.enroll", func() {
		if _, err := other.PoolTable().Put(t.Context(), admin, staff); err != nil {
			t.Error(err)
		}
	})
	_, err = s.Issue(t.Context(), enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(30)), enrolltest.Record(30)))
	if !errors.Is(err, enroll.ErrFull) {
		t.Errorf("seat 30 in a pool that just shrank: %v, want ErrFull", err)
	}
}

// An OTP expires for a gateway whose clock is behind, once another has stored a later time.
func TestGatewaysShareTheTime(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	ahead := second(s)
	clock := s.cfg.Clock
	ahead.cfg.Clock = func() time.Time { return clock().Add(2 * time.Hour) }
	o := enrolltest.Create(t, s, enrolltest.OTP(1)) // an hour
	before(s, "device.enroll", func() {
		if err := ahead.tick(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Issue(t.Context(), enrolltest.Issuance(o, enrolltest.Record(1))); !errors.Is(err, enroll.ErrExpired) {
		t.Errorf("issued by the slower clock: %v, want ErrExpired", err)
	}
}
