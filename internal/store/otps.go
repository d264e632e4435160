package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// CreateOTP implements enroll.Store. A clock too far ahead of the stored time makes no
// OTP (ErrClock), since its expiry would mean nothing once the clock is right.
func (s *Store) CreateOTP(ctx context.Context, by quarantine.Actor, o enroll.OTP) error {
	if err := checkName("reference", o.Reference); err != nil {
		return fmt.Errorf("creating one-time password: %w", err)
	}
	if _, err := s.Time(ctx); err != nil {
		return fmt.Errorf("creating one-time password %s: %w", o.Reference, err)
	}
	value, err := encodeOTP(o)
	if err != nil {
		return fmt.Errorf("creating one-time password: %w", err)
	}
	ch := change{entry: otpEntry(by, "otp.create", o)}
	ch.require(absent(referencePrefix+o.Reference), absent(otpPrefix+o.Reference))
	ch.put(referencePrefix+o.Reference, "1")
	ch.put(otpPrefix+o.Reference, value)
	_, ok, err := s.commit(ctx, ch)
	if err == nil && !ok {
		err = enroll.ErrExists
	}
	if err != nil {
		return fmt.Errorf("creating one-time password %s: %w", o.Reference, err)
	}
	return nil
}

// OTP implements enroll.Store.
func (s *Store) OTP(ctx context.Context, reference string) (enroll.OTP, error) {
	kv, err := s.get(ctx, otpPrefix+reference)
	if err != nil {
		return enroll.OTP{}, fmt.Errorf("reading one-time password: %w", err)
	}
	if kv == nil {
		return enroll.OTP{}, enroll.ErrNoOTP
	}
	return decodeOTP(kv)
}

// OTPs implements enroll.Store: oldest first, in the order they were recorded.
func (s *Store) OTPs(ctx context.Context) ([]enroll.OTP, error) {
	type numbered struct {
		created int64
		otp     enroll.OTP
	}
	var all []numbered
	_, err := s.scan(ctx, otpPrefix, 0, func(kv *mvccpb.KeyValue) error {
		o, err := decodeOTP(kv)
		all = append(all, numbered{kv.CreateRevision, o})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing one-time passwords: %w", err)
	}
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(a.created, b.created) })
	out := make([]enroll.OTP, len(all))
	for i, n := range all {
		out[i] = n.otp
	}
	return out, nil
}

// UpdateOTP implements enroll.Store; enroll.ErrNoOTP if there is none.
func (s *Store) UpdateOTP(ctx context.Context, by quarantine.Actor, action string, o enroll.OTP) error {
	value, err := encodeOTP(o)
	if err != nil {
		return fmt.Errorf("recording %s: %w", action, err)
	}
	if action == "" {
		return fmt.Errorf("recording one-time password %s: no action for the audit log: %w", o.Reference, ErrInvalid)
	}
	if o.Revision <= 0 { // a revision of zero would compare equal with nothing there
		if _, err := s.OTP(ctx, o.Reference); err != nil {
			return fmt.Errorf("recording %s of %s: %w", action, o.Reference, err)
		}
		return fmt.Errorf("recording %s of %s: %w", action, o.Reference, quarantine.ErrConflict)
	}
	key := otpPrefix + o.Reference
	update := change{entry: otpEntry(by, action, o)}
	update.require(unchanged(key, o.Revision))
	update.put(key, value)
	ch, with, err := s.withDevice(ctx, o, update)
	if err != nil {
		return fmt.Errorf("recording %s of %s: %w", action, o.Reference, err)
	}
	_, ok, err := s.commit(ctx, ch)
	if err == nil && !ok && with { // the device moved meanwhile: it is confirmed on its own
		_, ok, err = s.commit(ctx, update)
	}
	if err == nil && !ok {
		err = quarantine.ErrConflict
		if kv, e := s.get(ctx, key); e == nil && kv == nil {
			err = enroll.ErrNoOTP
		}
	}
	if err != nil {
		return fmt.Errorf("recording %s of %s: %w", action, o.Reference, err)
	}
	return nil
}

// withDevice adds the device to the transaction that confirms its OTP, so that the two
// cost one write; with is false where there is nothing to add. A device that has moved on
// to another certificate is not confirmed by an old OTP.
func (s *Store) withDevice(ctx context.Context, o enroll.OTP, update change) (ch change, with bool, err error) {
	if o.State != enroll.Confirmed || o.Answer.Device == "" {
		return update, false, nil
	}
	r, err := s.Device(ctx, o.Answer.Device)
	if errors.Is(err, quarantine.ErrUnknownDevice) {
		return update, false, nil
	}
	if err != nil || r.Confirmed || r.Stage == quarantine.Revoked || r.Certificate.Sum != sha256.Sum256(o.Answer.Certificate) {
		return update, false, err
	}
	r.Confirmed = true
	value, err := encodeRecord(r)
	if err != nil {
		return update, false, err
	}
	ch = change{state: true, entry: update.entry, compares: slices.Clone(update.compares), ops: slices.Clone(update.ops)}
	ch.entry.Device = string(r.ID)
	ch.require(unchanged(deviceKey(r.ID), r.Revision))
	ch.put(deviceKey(r.ID), value)
	return ch, true, nil
}

func otpEntry(by quarantine.Actor, action string, o enroll.OTP) audit.Entry {
	d := map[string]string{"state": string(o.State)}
	for k, v := range map[string]string{
		"user": o.User, "name": o.Name, "serial": o.Serial, "platform": o.Platform,
		"ownership": o.Ownership, "profile": o.Profile,
	} {
		if v != "" {
			d[k] = v
		}
	}
	if !o.Expires.IsZero() {
		d["expires"] = o.Expires.UTC().Format(time.RFC3339)
	}
	device := o.Device
	if device == "" {
		device = o.Answer.Device
	}
	return audit.Entry{Actor: actor(by), Action: action, Device: string(device), Subject: o.Reference, Detail: d}
}

// Time is the later of the clock and the highest time ever stored. It is ErrClock while
// the clock is too far ahead of it.
func (s *Store) Time(ctx context.Context) (time.Time, error) {
	mark, err := s.mark(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return s.now(mark)
}

// SigningTime implements enroll.Store.
func (s *Store) SigningTime(ctx context.Context) (time.Time, error) {
	mark, err := s.mark(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return s.signing(mark)
}

// mark reads the highest time ever stored.
func (s *Store) mark(ctx context.Context) (time.Time, error) {
	kv, err := s.get(ctx, timeKey)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading stored time: %w", err)
	}
	if kv == nil {
		return time.Time{}, fmt.Errorf("reading stored time: %w", ErrNotFound)
	}
	return decodeTime(kv.Value)
}

// notLater makes a transaction fail where a time later than now was stored meanwhile,
// and stores now.
func (c *change) notLater(now time.Time) {
	c.require(clientv3.Compare(clientv3.Value(timeKey), "<", encodeTime(now.Add(1))))
	c.put(timeKey, encodeTime(now))
}

// tick moves the stored time forward, so that a restart with an older clock is noticed.
func (s *Store) tick(ctx context.Context) error {
	now, err := s.Time(ctx)
	if err != nil {
		return err
	}
	var ch change
	ch.notLater(now)
	_, _, err = s.commit(ctx, ch) // where it is refused, a later time stands already
	return err
}

// ResetClock sets the stored time to the clock, counts a new epoch, and first cancels
// every pending OTP: their expiry was decided under another time.
func (s *Store) ResetClock(ctx context.Context, by quarantine.Actor) error {
	otps, err := s.OTPs(ctx)
	if err != nil {
		return fmt.Errorf("resetting clock: %w", err)
	}
	for _, o := range otps {
		if o.State != enroll.Pending {
			continue
		}
		o.State, o.Secret = enroll.Cancelled, nil
		if err := s.UpdateOTP(ctx, by, "otp.cancel", o); err != nil {
			return fmt.Errorf("resetting clock: %w", err)
		}
	}
	before, err := s.mark(ctx)
	if err != nil {
		return fmt.Errorf("resetting clock: %w", err)
	}
	kv, err := s.get(ctx, epochKey)
	if err != nil || kv == nil {
		return fmt.Errorf("resetting clock: reading epoch: %w", cmp.Or(err, ErrNotFound))
	}
	epoch, err := decodeNumber(kv.Value)
	if err != nil {
		return fmt.Errorf("resetting clock: %w", err)
	}
	now := s.cfg.Clock().UTC()
	ch := change{entry: audit.Entry{Time: now, Actor: actor(by), Action: "clock.reset", Detail: map[string]string{
		"from": before.Format(time.RFC3339), "to": now.Format(time.RFC3339), "epoch": encodeNumber(epoch + 1),
	}}}
	ch.require(unchanged(epochKey, kv.ModRevision))
	ch.put(epochKey, encodeNumber(epoch+1))
	ch.put(timeKey, encodeTime(now))
	_, ok, err := s.commit(ctx, ch)
	if err == nil && !ok {
		err = quarantine.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("resetting clock: %w", err)
	}
	return nil
}
