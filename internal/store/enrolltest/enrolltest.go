// Package enrolltest is the conformance suite of enroll.Store: what a desk may rely on,
// whoever keeps the records.
package enrolltest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/enroll"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

var by = quarantine.Actor{Kind: "administrator", Name: "root", Address: "192.0.2.1"}

// Run tries every promise of enroll.Store on fresh, empty stores.
func Run(t *testing.T, open func(t *testing.T) enroll.Store) {
	for name, test := range map[string]func(*testing.T, enroll.Store){
		"OTP":            otps,
		"OTPConflict":    conflict,
		"Issue":          issue,
		"IssueOnce":      once,
		"IssueRefused":   refused,
		"IssueTaken":     taken,
		"IssueFull":      full,
		"IssueAgain":     again,
		"Renewed":        renewed,
		"UnknownDevices": unknown,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// OTP returns a pending OTP for tests; n makes everything in it unique.
func OTP(n int) enroll.OTP {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return enroll.OTP{
		Reference: fmt.Sprintf("REF%05d", n), User: fmt.Sprintf("user%d@example.org", n), Profile: "staff",
		Secret: []byte("sealed"), By: by, Created: now, Expires: now.Add(time.Hour), State: enroll.Pending,
	}
}

// Record returns a quarantined device without a seat; n makes everything in it unique.
func Record(n int) quarantine.Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return quarantine.Record{
		Device: quarantine.Device{
			ID: quarantine.ID(fmt.Sprintf("device-%05d", n)), Name: fmt.Sprintf("laptop-%05d", n),
			Owner: fmt.Sprintf("user%d@example.org", n), Key: Key(n), Pool: "quarantine", Stage: quarantine.Quarantined, Since: now,
		},
		Profile:     "staff",
		Certificate: quarantine.Certificate{Serial: fmt.Sprintf("%x", n), NotBefore: now, NotAfter: now.Add(time.Hour), SPKI: SPKI(n)},
		Proven:      true,
	}
}

// Key returns the n-th WireGuard key.
func Key(n int) tunnel.Key { return sha256.Sum256(fmt.Append(nil, "wireguard", n)) }

// SPKI returns the n-th certificate key's sum.
func SPKI(n int) [32]byte { return sha256.Sum256(fmt.Append(nil, "certificate", n)) }

// Create records an OTP and returns it as stored.
func Create(t testing.TB, s enroll.Store, o enroll.OTP) enroll.OTP {
	t.Helper()
	if err := s.CreateOTP(t.Context(), by, o); err != nil {
		t.Fatal(err)
	}
	got, err := s.OTP(t.Context(), o.Reference)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Issuance puts an OTP and a record together, with an answer as the desk makes it.
func Issuance(o enroll.OTP, r quarantine.Record) enroll.Issuance {
	o.Answer = enroll.Answer{
		Device: r.ID, SPKI: r.Certificate.SPKI, WireGuard: r.Key,
		Transaction: []byte("transaction"), Certificate: []byte("certificate"), Issued: time.Now().UTC().Truncate(time.Millisecond),
	}
	return enroll.Issuance{By: quarantine.Actor{Kind: "otp", Name: o.Reference}, OTP: o, Record: r, LastSeat: 1000}
}

// Enroll creates OTP n and issues device n on it.
func Enroll(t testing.TB, s enroll.Store, n int) quarantine.Record {
	t.Helper()
	r, err := s.Issue(t.Context(), Issuance(Create(t, s, OTP(n)), Record(n)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func otps(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	if _, err := s.OTP(ctx, "NOBODY00"); !errors.Is(err, enroll.ErrNoOTP) {
		t.Errorf("unknown reference: %v, want ErrNoOTP", err)
	}
	want := []enroll.OTP{OTP(3), OTP(1), OTP(2)} // oldest first is not by name
	for i := range want {
		want[i].Created = want[i].Created.Add(time.Duration(i) * time.Minute)
		got := Create(t, s, want[i])
		if got.Revision == 0 {
			t.Error("stored without a revision")
		}
		want[i].Revision = got.Revision
		if d := cmp.Diff(want[i], got); d != "" {
			t.Errorf("read back (-want +got):\n%s", d)
		}
	}
	if err := s.CreateOTP(ctx, by, OTP(1)); !errors.Is(err, enroll.ErrExists) {
		t.Errorf("same reference again: %v, want ErrExists", err)
	}
	got, err := s.OTPs(ctx)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("listed (-want +got):\n%s%v", d, err)
	}
}

func conflict(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	first := Create(t, s, OTP(1))
	other := Create(t, s, OTP(2))
	cancelled := first
	cancelled.State, cancelled.Secret = enroll.Cancelled, nil
	if err := s.UpdateOTP(ctx, by, "otp.cancel", cancelled); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateOTP(ctx, by, "otp.expire", first); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("update of what was read before: %v, want ErrConflict", err)
	}
	got, err := s.OTP(ctx, first.Reference)
	if err != nil || got.State != enroll.Cancelled || got.Secret != nil || got.Revision <= first.Revision {
		t.Errorf("after cancel: %+v, %v", got, err)
	}
	if got, _ := s.OTP(ctx, other.Reference); !cmp.Equal(got, other) {
		t.Error("cancelling one touched another")
	}
	if err := s.CreateOTP(ctx, by, OTP(1)); !errors.Is(err, enroll.ErrExists) {
		t.Errorf("a cancelled reference again: %v, want ErrExists", err)
	}
	if _, err := s.Issue(ctx, Issuance(first, Record(1))); !errors.Is(err, enroll.ErrUsed) {
		t.Errorf("issue on a cancelled OTP: %v, want ErrUsed", err)
	}
}

func issue(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	o := Create(t, s, OTP(1))
	in := Issuance(o, Record(1))
	got, err := s.Issue(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	want := in.Record
	want.Seat, want.Revision = 1, got.Revision
	if d := cmp.Diff(want, got); d != "" || got.Revision == 0 {
		t.Errorf("issued (-want +got):\n%s", d)
	}
	for name, find := range map[string]func() (quarantine.Record, error){
		"Device":      func() (quarantine.Record, error) { return s.Device(ctx, want.ID) },
		"ByKey":       func() (quarantine.Record, error) { return s.ByKey(ctx, want.Certificate.SPKI) },
		"ByWireGuard": func() (quarantine.Record, error) { return s.ByWireGuard(ctx, want.Key) },
	} {
		found, err := find()
		if d := cmp.Diff(want, found); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
	stored, err := s.OTP(ctx, o.Reference)
	o.State, o.Answer, o.Revision = enroll.Issued, in.OTP.Answer, stored.Revision
	if d := cmp.Diff(o, stored); d != "" || err != nil {
		t.Errorf("the OTP afterwards: %v (-want +got):\n%s", err, d)
	}
	if second := Enroll(t, s, 2); second.Seat != 2 {
		t.Errorf("the second device got seat %d", second.Seat)
	}
}

// once lets a hundred clients try one OTP with keys of their own.
func once(t *testing.T, s enroll.Store) {
	o := Create(t, s, OTP(1))
	const n = 100
	errs := make([]error, n)
	won := make([]quarantine.Record, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			won[i], errs[i] = s.Issue(t.Context(), Issuance(o, Record(i)))
		})
	}
	close(start)
	wg.Wait()
	winners := 0
	for i, err := range errs {
		switch {
		case err == nil:
			winners++
			if got, err := s.Device(t.Context(), won[i].ID); err != nil || !cmp.Equal(got, won[i]) {
				t.Errorf("the winner's record: %+v, %v", got, err)
			}
		case !errors.Is(err, enroll.ErrUsed):
			t.Errorf("a loser got %v, want ErrUsed", err)
		default:
			if _, err := s.Device(t.Context(), Record(i).ID); !errors.Is(err, quarantine.ErrUnknownDevice) {
				t.Errorf("a loser left a device: %v", err)
			}
		}
	}
	if winners != 1 {
		t.Errorf("%d devices from one OTP", winners)
	}
	if next := Enroll(t, s, n); next.Seat != 2 {
		t.Errorf("the next device got seat %d: losers took seats", next.Seat)
	}
}

func refused(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	expired := OTP(1)
	expired.Created, expired.Expires = expired.Created.Add(-2*time.Hour), expired.Expires.Add(-2*time.Hour)
	if _, err := s.Issue(ctx, Issuance(Create(t, s, expired), Record(1))); !errors.Is(err, enroll.ErrExpired) {
		t.Errorf("expired: %v, want ErrExpired", err)
	}
	if _, err := s.Issue(ctx, Issuance(OTP(2), Record(2))); !errors.Is(err, enroll.ErrNoOTP) {
		t.Errorf("unknown: %v, want ErrNoOTP", err)
	}
	zero := OTP(3)
	zero.State = ""
	if _, err := s.Issue(ctx, Issuance(Create(t, s, zero), Record(3))); !errors.Is(err, enroll.ErrUsed) {
		t.Errorf("the empty state: %v, want ErrUsed", err)
	}
	// One that changed since it was read is not what the desk decided on.
	read := Create(t, s, OTP(4))
	changed := read
	changed.Serial = "C02XYZ"
	if err := s.UpdateOTP(ctx, by, "otp.edit", changed); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Issue(ctx, Issuance(read, Record(4))); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("changed meanwhile: %v, want ErrConflict", err)
	}
	for n := 1; n <= 4; n++ {
		if _, err := s.Device(ctx, Record(n).ID); !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("a refused issue left device %d: %v", n, err)
		}
	}
}

func taken(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	Enroll(t, s, 1)
	for what, change := range map[string]func(*quarantine.Record){
		"WireGuard key":   func(r *quarantine.Record) { r.Key = Key(1) },
		"certificate key": func(r *quarantine.Record) { r.Certificate.SPKI = SPKI(1) },
		"name":            func(r *quarantine.Record) { r.Name = Record(1).Name },
	} {
		r := Record(2)
		change(&r)
		o := OTP(2)
		o.Reference = "REF-" + what
		o = Create(t, s, o)
		_, err := s.Issue(ctx, Issuance(o, r))
		var taken *enroll.TakenError
		if !errors.As(err, &taken) || taken.What != what {
			t.Errorf("%s: %v", what, err)
		}
		if now, _ := s.OTP(ctx, o.Reference); now.State != enroll.Pending {
			t.Errorf("%s: the OTP is %s", what, now.State)
		}
		if _, err := s.Device(ctx, r.ID); !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("%s: a device was left: %v", what, err)
		}
		if owner, err := s.ByWireGuard(ctx, Key(1)); err != nil || owner.ID != Record(1).ID {
			t.Errorf("%s: the key's owner is now %s, %v", what, owner.ID, err)
		}
	}
	if next := Enroll(t, s, 3); next.Seat != 2 {
		t.Errorf("the next device got seat %d: refused ones took seats", next.Seat)
	}
}

func full(t *testing.T, s enroll.Store) {
	for n := 1; n <= 2; n++ {
		i := Issuance(Create(t, s, OTP(n)), Record(n))
		i.LastSeat = 2
		if _, err := s.Issue(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	o := Create(t, s, OTP(3))
	i := Issuance(o, Record(3))
	i.LastSeat = 2
	if _, err := s.Issue(t.Context(), i); !errors.Is(err, enroll.ErrFull) {
		t.Errorf("third device on two seats: %v, want ErrFull", err)
	}
	if now, _ := s.OTP(t.Context(), o.Reference); now.State != enroll.Pending {
		t.Errorf("the OTP is %s after a refusal, want pending", now.State)
	}
	i.LastSeat = 3
	if r, err := s.Issue(t.Context(), i); err != nil || r.Seat != 3 {
		t.Errorf("after the pool grew: seat %d, %v", r.Seat, err)
	}
}

// again enrolls an existing device: same id, same seat, new keys.
func again(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	Enroll(t, s, 1)
	old := Enroll(t, s, 2)
	r := Record(3)
	r.ID, r.Name = old.ID, old.Name
	o := OTP(3)
	o.Device = old.ID
	in := Issuance(Create(t, s, o), r)
	if _, err := s.Issue(ctx, in); err == nil {
		t.Fatal("an existing device was overwritten without being retired")
	}
	in.Retires = &old
	got, err := s.Issue(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != old.ID || got.Seat != old.Seat || got.Revision <= old.Revision {
		t.Errorf("enrolled again as %s with seat %d", got.ID, got.Seat)
	}
	if _, err := s.ByKey(ctx, SPKI(2)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("the retired certificate key still finds a device: %v", err)
	}
	if _, err := s.ByWireGuard(ctx, Key(2)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("the retired WireGuard key still finds a device: %v", err)
	}
	if found, err := s.ByKey(ctx, SPKI(3)); err != nil || found.ID != old.ID {
		t.Errorf("the new key finds %s, %v", found.ID, err)
	}
	// What was read before is not what is there.
	o = OTP(4)
	in = Issuance(Create(t, s, o), r)
	in.Retires = &old
	if _, err := s.Issue(ctx, in); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("retiring an older state: %v, want ErrConflict", err)
	}
	if next := Enroll(t, s, 5); next.Seat != 3 {
		t.Errorf("the next device got seat %d", next.Seat)
	}
}

func renewed(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	Enroll(t, s, 1)
	old := Enroll(t, s, 2)
	if now, err := s.SigningTime(ctx); err != nil || time.Since(now).Abs() > time.Minute {
		t.Errorf("time to sign at: %v, %v; want now", now, err)
	}
	next := old
	next.Certificate = Record(22).Certificate
	next.Next = Key(22)
	c := quarantine.Change{Kind: quarantine.Renew, Device: old.ID, By: by, At: time.Now(), Certificate: &next.Certificate, Next: Key(22).String()}
	rev, err := s.Renewed(ctx, c, next)
	if err != nil {
		t.Fatal(err)
	}
	next.Revision = rev
	for name, find := range map[string]func(context.Context) (quarantine.Record, error){
		"new certificate key":   func(ctx context.Context) (quarantine.Record, error) { return s.ByKey(ctx, SPKI(22)) },
		"current WireGuard key": func(ctx context.Context) (quarantine.Record, error) { return s.ByWireGuard(ctx, Key(2)) },
		"next WireGuard key":    func(ctx context.Context) (quarantine.Record, error) { return s.ByWireGuard(ctx, Key(22)) },
	} {
		if got, err := find(ctx); err != nil || !cmp.Equal(got, next) {
			t.Errorf("by %s: %v\n%s", name, err, cmp.Diff(next, got))
		}
	}
	if _, err := s.ByKey(ctx, SPKI(2)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("the old certificate key still finds a device: %v", err)
	}
	if _, err := s.Renewed(ctx, c, old); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("renewing an older state: %v, want ErrConflict", err)
	}
	var taken *enroll.TakenError
	theft := next
	theft.Next = Key(1)
	if _, err := s.Renewed(ctx, c, theft); !errors.As(err, &taken) {
		t.Errorf("renewing to another's key: %v, want a TakenError", err)
	}
	// A next key is as unique as a current one.
	r := Record(5)
	r.Key = Key(22)
	if _, err := s.Issue(ctx, Issuance(Create(t, s, OTP(5)), r)); !errors.As(err, &taken) {
		t.Errorf("enrolling another's next key: %v, want a TakenError", err)
	}
}

func unknown(t *testing.T, s enroll.Store) {
	ctx := t.Context()
	Enroll(t, s, 1)
	if _, err := s.Device(ctx, "nobody"); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("Device: %v", err)
	}
	if _, err := s.ByKey(ctx, SPKI(9)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("ByKey: %v", err)
	}
	if _, err := s.ByWireGuard(ctx, Key(9)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("ByWireGuard: %v", err)
	}
	if _, err := s.ByWireGuard(ctx, tunnel.Key{}); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("the zero key: %v", err)
	}
	if _, err := s.Renewed(ctx, quarantine.Change{Kind: quarantine.Renew}, Record(9)); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("renewing nobody: %v", err)
	}
}
