package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

var epochStart time.Time

// record writes a change of a device and returns the record with its new revision.
func record(t testing.TB, s *Store, kind quarantine.Kind, r quarantine.Record) quarantine.Record {
	t.Helper()
	rev, err := s.Record(t.Context(), quarantine.Change{Kind: kind, Device: r.ID, By: admin, At: time.Now(), Why: "test"}, r)
	if err != nil {
		t.Fatal(err)
	}
	r.Revision = rev
	return r
}

// revoke frees a device's seat.
func revoke(t testing.TB, s *Store, r quarantine.Record) quarantine.Record {
	t.Helper()
	r.Stage, r.Revocation = quarantine.Revoked, quarantine.Decision{By: admin, At: time.Now().UTC()}
	return record(t, s, quarantine.Revoke, r)
}

func confirm(t testing.TB, s *Store) {
	t.Helper()
	now, err := s.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Confirm(t.Context(), now); err != nil {
		t.Fatal(err)
	}
}

func TestRecordCompares(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	first := enrolltest.Enroll(t, s, 1)
	next := first
	next.Stage, next.Reason = quarantine.Routed, "compliant"
	second := record(t, s, quarantine.Reported, next)
	if second.Revision <= first.Revision {
		t.Errorf("revision went from %d to %d", first.Revision, second.Revision)
	}
	if _, err := s.Record(ctx, quarantine.Change{Kind: quarantine.Hold}, next); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("record of an older state: %v, want ErrConflict", err)
	}
	if _, err := s.Record(ctx, quarantine.Change{}, enrolltest.Record(9)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("record of nobody: %v", err)
	}
	moved := second
	moved.Seat = 9
	if _, err := s.Record(ctx, quarantine.Change{}, moved); !errors.Is(err, ErrInvalid) {
		t.Errorf("record with another seat: %v", err)
	}
	gone := revoke(t, s, second)
	gone.Stage = quarantine.Quarantined
	if _, err := s.Record(ctx, quarantine.Change{Kind: quarantine.Approve}, gone); !errors.Is(err, quarantine.ErrFinal) {
		t.Errorf("a revoked device came back: %v", err)
	}
}

// Of a hundred records on one state, one wins.
func TestRecordRace(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	r := enrolltest.Enroll(t, s, 1)
	errs := make(chan error, 100)
	for i := range 100 {
		go func() {
			next := r
			next.Reason = fmt.Sprint(i)
			_, err := s.Record(context.Background(), quarantine.Change{Kind: quarantine.Reported}, next)
			errs <- err
		}()
	}
	won := 0
	for range 100 {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, quarantine.ErrConflict):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	enrolltest.Enroll(t, s, 2)
	r := enrolltest.Enroll(t, s, 1)
	old := r.Key
	r.Next = enrolltest.Key(11)
	r = record(t, s, quarantine.Renew, r)
	r.Key, r.Next = r.Next, tunnel.Key{}
	r = record(t, s, quarantine.Rotate, r)
	if _, err := s.ByWireGuard(ctx, old); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("the old key finds a device: %v", err)
	}
	if got, err := s.ByWireGuard(ctx, enrolltest.Key(11)); err != nil || got.ID != r.ID {
		t.Errorf("the new key finds %s, %v", got.ID, err)
	}
	r.Next = enrolltest.Key(2)
	var taken *enroll.TakenError
	if _, err := s.Record(ctx, quarantine.Change{Kind: quarantine.Renew}, r); !errors.As(err, &taken) || taken.What != "WireGuard key" {
		t.Errorf("another's key as next: %v", err)
	}
}

// A revoked device gives up name and seat; its keys stay reserved until it is forgotten.
func TestWhatRevocationFrees(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	gone := revoke(t, s, enrolltest.Enroll(t, s, 1))
	if got, err := s.ByKey(ctx, enrolltest.SPKI(1)); err != nil || got.Stage != quarantine.Revoked {
		t.Errorf("by its certificate key: %+v, %v", got, err)
	}
	for n, change := range []func(*quarantine.Record){
		func(r *quarantine.Record) { r.Key = enrolltest.Key(1) },
		func(r *quarantine.Record) { r.Certificate.SPKI = enrolltest.SPKI(1) },
	} {
		r := enrolltest.Record(10 + n)
		change(&r)
		var taken *enroll.TakenError
		if _, err := s.Issue(ctx, enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(10+n)), r)); !errors.As(err, &taken) {
			t.Errorf("a revoked device's key enrolled again: %v", err)
		}
	}
	named := enrolltest.Record(20)
	named.Name = gone.Name
	if _, err := s.Issue(ctx, enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(20)), named)); err != nil {
		t.Errorf("a revoked device's name: %v", err)
	}
	// Written again while revoked, it takes nothing back.
	gone.Reason = "noted"
	gone = record(t, s, quarantine.Reported, gone)
	if found, _ := s.client.Get(ctx, nameKey(gone.Name)); string(found.Kvs[0].Value) != "device-00020" {
		t.Errorf("the name belongs to %s", found.Kvs[0].Value)
	}

	if err := s.Forget(ctx, admin, "device-00020", Any); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("forgetting what was not read: %v", err)
	}
	live, _ := s.Device(ctx, "device-00020")
	if err := s.Forget(ctx, admin, live.ID, live.Revision); !errors.Is(err, ErrInUse) {
		t.Errorf("forgetting a live device: %v", err)
	}
	if err := s.Forget(ctx, admin, gone.ID, gone.Revision); err != nil {
		t.Fatal(err)
	}
	r := enrolltest.Record(30)
	r.Key, r.Certificate.SPKI = enrolltest.Key(1), enrolltest.SPKI(1)
	if _, err := s.Issue(ctx, enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(30)), r)); err != nil {
		t.Errorf("a forgotten device's keys: %v", err)
	}
}

// Whoever enrolled a WireGuard key without proving to hold it keeps nobody from it.
func TestUnprovenKeyYields(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	squatter := enrolltest.Record(1)
	squatter.Proven = false
	got, err := s.Issue(ctx, enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(1)), squatter))
	if err != nil {
		t.Fatal(err)
	}
	owner := enrolltest.Record(2)
	owner.Key = enrolltest.Key(1)
	in := enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(2)), owner)
	if _, err := s.Issue(ctx, in); err == nil {
		t.Fatal("a key was enrolled twice")
	}
	revoke(t, s, got)
	if _, err := s.Issue(ctx, in); err != nil {
		t.Fatalf("after the squatter was revoked: %v", err)
	}
	if found, err := s.ByWireGuard(ctx, enrolltest.Key(1)); err != nil || found.ID != owner.ID {
		t.Errorf("the key finds %s, %v", found.ID, err)
	}
}

func TestSeatsAreGivenAgainOldestFirst(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	c := config(t.TempDir())
	c.Clock = func() time.Time { return time.Now().Add(ahead) }
	s := open(t, c)
	var recs []quarantine.Record
	for n := 1; n <= 5; n++ {
		recs = append(recs, enrolltest.Enroll(t, s, n))
	}
	revoke(t, s, recs[3]) // seat 4
	revoke(t, s, recs[1]) // seat 2
	if r := enrolltest.Enroll(t, s, 6); r.Seat != 6 {
		t.Errorf("seat %d before any gateway confirmed, want 6", r.Seat)
	}
	confirm(t, s)
	revoke(t, s, recs[0]) // seat 1, not confirmed
	if r := enrolltest.Enroll(t, s, 7); r.Seat != 4 {
		t.Errorf("seat %d, want 4: freed first", r.Seat)
	}
	if r := enrolltest.Enroll(t, s, 8); r.Seat != 2 {
		t.Errorf("seat %d, want 2: freed second", r.Seat)
	}
	if r := enrolltest.Enroll(t, s, 9); r.Seat != 7 {
		t.Errorf("seat %d, want 7: seat 1 was freed after the confirmed plan", r.Seat)
	}
	// A second gateway that never confirms holds seats back for a day.
	if _, err := s.client.Put(t.Context(), gatewayPrefix+"gw2", mustJSON(storedGateway{V: 1})); err != nil {
		t.Fatal(err)
	}
	confirm(t, s)
	if r := enrolltest.Enroll(t, s, 10); r.Seat != 8 {
		t.Errorf("seat %d, want 8: gw2 has confirmed nothing", r.Seat)
	}
	otp := enrolltest.OTP(11)
	otp.Expires = otp.Expires.Add(48 * time.Hour)
	otp = enrolltest.Create(t, s, otp)
	ahead = SeatRest + time.Minute
	if r, err := s.Issue(t.Context(), enrolltest.Issuance(otp, enrolltest.Record(11))); err != nil || r.Seat != 1 {
		t.Errorf("seat %d, %v after a day, want 1", r.Seat, err)
	}
}

// A full pool lives on what is freed, and a freed seat beyond the pool is passed over.
func TestFreedSeatsInAFullPool(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	var recs []quarantine.Record
	for n := 1; n <= 3; n++ {
		recs = append(recs, enrolltest.Enroll(t, s, n))
	}
	revoke(t, s, recs[2])
	revoke(t, s, recs[0])
	confirm(t, s)
	in := enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(4)), enrolltest.Record(4))
	in.LastSeat = 2
	if r, err := s.Issue(t.Context(), in); err != nil || r.Seat != 1 {
		t.Errorf("seat %d, %v; want 1: seat 3 has no address", r.Seat, err)
	}
	in = enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(5)), enrolltest.Record(5))
	in.LastSeat = 2
	if _, err := s.Issue(t.Context(), in); !errors.Is(err, enroll.ErrFull) {
		t.Errorf("no seat left: %v, want ErrFull", err)
	}
}

// Devices that come and go at once never share a seat.
func TestSeatsUnderConcurrency(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	const n = 40
	got := make(chan quarantine.Record, n)
	for i := range n {
		otp := enrolltest.Create(t, s, enrolltest.OTP(i))
		go func() {
			r, err := s.Issue(context.Background(), enrolltest.Issuance(otp, enrolltest.Record(i)))
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
	}
	seats := map[quarantine.Seat]bool{}
	for range n {
		seats[(<-got).Seat] = true
	}
	want := map[quarantine.Seat]bool{}
	for i := range n {
		want[quarantine.Seat(i+1)] = true
	}
	if !maps.Equal(seats, want) {
		t.Errorf("%d different seats: %v", len(seats), slices.Sorted(maps.Keys(seats)))
	}
}

func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s, ctx := open(t, c), t.Context()
	r := enrolltest.Enroll(t, s, 1)
	other := enrolltest.Enroll(t, s, 2)
	r.Stage, r.Pool, r.Reason = quarantine.Routed, "staff", "compliant"
	r.Reasons = []quarantine.Reason{{Rule: "release.report", Holds: true, Text: "fleet says compliant"}}
	report := quarantine.Report{Device: r.ID, Source: "fleet", Verdict: quarantine.Compliant, At: time.Now()}
	fleet := quarantine.Actor{Kind: "token", Name: "fleet", Address: "198.51.100.7"}
	rev, err := s.Record(ctx, quarantine.Change{Kind: quarantine.Reported, Device: r.ID, By: fleet, Report: &report}, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Audit(ctx, audit.Entry{Action: "enroll.refused", Actor: audit.Actor{Kind: "stranger", Address: "203.0.113.9"}, Subject: "ABCDEFGH"}); err != nil {
		t.Fatal(err)
	}
	entries, err := s.AuditLog().List(ctx, "", epochStart, 0)
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	last := int64(1 << 62)
	for _, e := range entries {
		actions = append(actions, e.Action)
		if e.Revision >= last {
			t.Errorf("entry %s of revision %d stands behind %d", e.Action, e.Revision, last)
		}
		last = e.Revision
	}
	want := []string{"enroll.refused", "device.report", "device.enroll", "otp.create", "device.enroll", "otp.create"}
	if !slices.Equal(actions, want) {
		t.Errorf("actions %v, want %v", actions, want)
	}
	e := entries[1]
	for key, want := range map[string]string{
		"from": "quarantined", "to": "routed", "pool": "staff", "from pool": "quarantine",
		"rule": "release.report", "reason": "fleet says compliant", "source": "fleet", "verdict": "compliant",
	} {
		if e.Detail[key] != want {
			t.Errorf("detail %s is %q, want %q", key, e.Detail[key], want)
		}
	}
	if e.Revision != rev || e.Device != string(r.ID) || e.Actor != (audit.Actor{Kind: "token", Name: "fleet", Address: "198.51.100.7"}) {
		t.Errorf("entry %+v", e)
	}
	if one, err := s.AuditLog().List(ctx, string(other.ID), epochStart, 0); err != nil || len(one) != 1 {
		t.Errorf("of the other device: %v, %v", one, err)
	}
	head, err := s.AuditLog().Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := audit.Verify(c.AuditDir, head); err != nil || report.Entries != uint64(len(want)) {
		t.Errorf("verify: %+v, %v", report, err)
	}
	if h, err := s.Health(ctx); err != nil || h.Waiting != 0 || h.Alarm != "" {
		t.Errorf("health %+v, %v", h, err)
	}
}

// Nearly at the end of the disk, strangers write nothing more; changes are still recorded.
func TestReserveIsNotForStrangers(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	left := map[string]int64{c.Dir: 1 << 40, c.AuditDir: 1 << 40}
	c.free = func(dir string) (int64, error) { return left[dir], nil }
	s, ctx := open(t, c), t.Context()
	r := enrolltest.Enroll(t, s, 1)
	by := func(kind string) error {
		return s.Audit(ctx, audit.Entry{Action: "enroll.refuse", Actor: audit.Actor{Kind: kind, Address: "203.0.113.9"}})
	}
	if err := by("stranger"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{c.Dir, c.AuditDir} {
		left[dir] = DefaultReserve - 1
		if err := by("stranger"); !errors.Is(err, ErrReserve) {
			t.Errorf("a stranger's entry: %v, want ErrReserve", err)
		}
		if err := by("device"); err != nil {
			t.Errorf("a device's entry: %v", err)
		}
		if h, err := s.Health(ctx); err != nil || !strings.Contains(h.Alarm, "nearly full") {
			t.Errorf("health %+v, %v", h, err)
		}
		left[dir] = 1 << 40
	}
	left[c.Dir] = 0
	tighter := r
	tighter.Stage, tighter.Pool = quarantine.Quarantined, "quarantine"
	report := quarantine.Report{Device: r.ID, Source: "fleet", Verdict: quarantine.NonCompliant, At: time.Now()}
	if _, err := s.Record(ctx, quarantine.Change{Kind: quarantine.Reported, Device: r.ID, By: quarantine.Actor{Kind: "token", Name: "fleet"}, Report: &report}, tighter); err != nil {
		t.Errorf("a tightening on a full disk: %v", err)
	}
	entries, err := s.AuditLog().List(ctx, "", epochStart, 0)
	if err != nil || len(entries) < 1 || entries[0].Action != "device.report" {
		t.Errorf("audit log %+v, %v", entries, err)
	}
	strangers := 0
	for _, e := range entries {
		if e.Actor.Kind == "stranger" {
			strangers++
		}
	}
	if strangers != 1 {
		t.Errorf("%d entries of strangers, want the first alone", strangers)
	}
	if err := by("stranger"); !errors.Is(err, ErrReserve) {
		t.Errorf("a stranger's entry on a full disk: %v", err)
	}
}
