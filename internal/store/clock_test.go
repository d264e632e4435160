package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"lazaret/enroll"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// withClock is a configuration whose clock is off by *ahead.
func withClock(t *testing.T, ahead *time.Duration) Config {
	c := config(t.TempDir())
	c.Clock = func() time.Time { return time.Now().Add(*ahead) }
	return c
}

// An OTP that ran out stays out when the clock is set back, also across a restart.
func TestExpiryOutlivesAClockSetBack(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	c := withClock(t, &ahead)
	s, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	short := enrolltest.Create(t, s, enrolltest.OTP(1)) // an hour
	long := enrolltest.OTP(2)
	long.Expires = long.Expires.Add(5 * time.Hour)
	long = enrolltest.Create(t, s, long)
	ahead = 2 * time.Hour
	if _, err := s.Issue(t.Context(), enrolltest.Issuance(long, enrolltest.Record(2))); err != nil {
		t.Fatal(err)
	}
	ahead = 0
	for range 2 {
		if _, err := s.Issue(t.Context(), enrolltest.Issuance(short, enrolltest.Record(1))); !errors.Is(err, enroll.ErrExpired) {
			t.Errorf("with the clock set back: %v, want ErrExpired", err)
		}
		if now, err := s.Time(t.Context()); err != nil || time.Until(now) < time.Hour {
			t.Errorf("the store's time is %v, %v: it went back", now, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClockTooFarAhead(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	s, ctx := open(t, withClock(t, &ahead)), t.Context()
	otp := enrolltest.OTP(1)
	otp.Expires = otp.Expires.Add(100 * 365 * 24 * time.Hour) // whatever the desk was thinking
	otp = enrolltest.Create(t, s, otp)
	before, err := s.Time(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ahead = DefaultMaxJump + time.Hour
	if _, err := s.Issue(ctx, enrolltest.Issuance(otp, enrolltest.Record(1))); !errors.Is(err, ErrClock) {
		t.Errorf("issued: %v, want ErrClock", err)
	}
	if err := s.CreateOTP(ctx, admin, enrolltest.OTP(2)); !errors.Is(err, ErrClock) {
		t.Errorf("OTP created: %v, want ErrClock", err)
	}
	if err := s.tick(ctx); !errors.Is(err, ErrClock) {
		t.Errorf("time stored: %v, want ErrClock", err)
	}
	if h, err := s.Health(ctx); err != nil || !errors.Is(h.Clock, ErrClock) || h.Alarm == "" {
		t.Errorf("health %+v, %v", h, err)
	}
	ahead = 0
	if now, err := s.Time(ctx); err != nil || now.Sub(before) > time.Minute {
		t.Errorf("the jump was stored: %v, %v", now, err)
	}
	if _, err := s.Issue(ctx, enrolltest.Issuance(otp, enrolltest.Record(1))); err != nil {
		t.Errorf("once the clock was right again: %v", err)
	}
}

// A renewal is bound to the stored time like an issuance: no certificate is recorded by a
// clock far ahead, nor by one behind the highest time ever stored.
func TestRenewalNeedsTheClock(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	s, ctx := open(t, withClock(t, &ahead)), t.Context()
	r := enrolltest.Enroll(t, s, 1)
	otp := enrolltest.OTP(2)
	otp.Expires = otp.Expires.Add(100 * 24 * time.Hour)
	otp = enrolltest.Create(t, s, otp)
	renew := func() error {
		next := r
		next.Certificate.Serial = "2a"
		rev, err := s.Renewed(ctx, quarantine.Change{Kind: quarantine.Renew, Device: r.ID, By: admin, At: time.Now(), Certificate: &next.Certificate}, next)
		if err == nil {
			r, r.Revision = next, rev
		}
		return err
	}
	ahead = DefaultMaxJump + time.Hour
	if err := renew(); !errors.Is(err, ErrClock) {
		t.Errorf("renewed far ahead: %v, want ErrClock", err)
	}
	ahead = time.Hour
	if err := renew(); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Time(ctx); err != nil || time.Until(now) < 59*time.Minute {
		t.Errorf("the renewal did not move the stored time: %v, %v", now, err)
	}
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{{0, ErrClock}, {time.Hour - 2*time.Minute - 5*time.Second, ErrClock}, {time.Hour - 100*time.Second, nil}} {
		ahead = c.ahead
		if err := renew(); !errors.Is(err, c.want) {
			t.Errorf("renewed %v behind: %v, want %v", time.Hour-c.ahead, err, c.want)
		}
		if _, err := s.SigningTime(ctx); !errors.Is(err, c.want) {
			t.Errorf("time to sign at, %v behind: %v, want %v", time.Hour-c.ahead, err, c.want)
		}
	}
	ahead = 0
	if _, err := s.Issue(ctx, enrolltest.Issuance(otp, enrolltest.Record(2))); !errors.Is(err, ErrClock) {
		t.Errorf("issued an hour behind: %v, want ErrClock", err)
	}
	if h, err := s.Health(ctx); err != nil || !errors.Is(h.Clock, ErrClock) {
		t.Errorf("health %+v, %v", h, err)
	}
}

func TestResetClock(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	s, ctx := open(t, withClock(t, &ahead)), t.Context()
	issued := enrolltest.Enroll(t, s, 1)
	pending := enrolltest.Create(t, s, enrolltest.OTP(2))
	ahead = 10 * 24 * time.Hour // within the bound: poisons the mark
	if err := s.tick(ctx); err != nil {
		t.Fatal(err)
	}
	ahead = 0
	if err := s.ResetClock(ctx, admin); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Time(ctx); err != nil || time.Until(now).Abs() > time.Minute {
		t.Errorf("time after the reset %v, %v", now, err)
	}
	if o, _ := s.OTP(ctx, pending.Reference); o.State != enroll.Cancelled || o.Secret != nil {
		t.Errorf("the pending OTP is %s with %d bytes of secret", o.State, len(o.Secret))
	}
	if o, _ := s.OTP(ctx, "REF00001"); o.State != enroll.Issued {
		t.Errorf("the issued OTP is %s", o.State)
	}
	if _, err := s.Device(ctx, issued.ID); err != nil {
		t.Error(err)
	}
	entries, err := s.AuditLog().List(ctx, "", epochStart, 1)
	if err != nil || len(entries) != 1 || entries[0].Action != "clock.reset" || entries[0].Detail["epoch"] != "2" || entries[0].Actor.Name != "root" {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

// Times compare as bytes in a transaction, so their order must be that of the text.
func TestEncodedTimesSort(t *testing.T) {
	times := []time.Time{
		{}, time.Unix(0, 0), time.Unix(0, 1), time.Unix(9, 999_999_999), time.Unix(10, 0),
		time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for i, a := range times[1:] {
		before, text := encodeTime(times[i]), encodeTime(a)
		if before > text || len(before) != len(text) {
			t.Errorf("%v is %s, %v is %s", times[i], before, a, text)
		}
		if a.Unix() >= 0 {
			if back, err := decodeTime([]byte(text)); err != nil || !back.Equal(a) {
				t.Errorf("%v came back as %v, %v", a, back, err)
			}
		}
	}
}
