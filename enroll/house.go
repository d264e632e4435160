package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"lazaret/quarantine"
)

// keeper is who keeps house, for the audit log.
var keeper = quarantine.Actor{Kind: "gateway", Name: "housekeeping"}

// Run keeps house until ctx ends: marks expired OTPs, erases secrets that are over,
// and revokes devices that were issued a certificate and never heard of again. A round
// that fails is logged, and tried again with the next. It returns nil when ctx ended.
func (d *Desk) Run(ctx context.Context) error {
	tick := time.NewTicker(d.cfg.Sweep)
	defer tick.Stop()
	d.keeps.Store(true)
	defer d.keeps.Store(false)
	for sweep := true; ; {
		if sweep {
			d.summarize(ctx, d.now())
			if err := d.sweep(ctx); err != nil && ctx.Err() == nil {
				d.cfg.Log.Error("keeping house of one-time passwords", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case c := <-d.later:
			if err := d.takeNow(ctx, *c); err != nil && ctx.Err() == nil {
				d.cfg.Log.Warn("recording a confirmation", "error", err)
			}
			sweep = false
		case <-tick.C:
			sweep = true
		}
	}
}

// confirmation is a certConf that was checked.
type confirmation struct {
	by  quarantine.Actor
	otp OTP // as read, Issued or Confirmed
	at  time.Time
}

// take takes a confirmation in, behind the answer where Run keeps house. The device has its
// certificate by then, so nothing it needs rests on this write: what a crash loses is made
// good the first time the device is seen, and a repeated certConf is answered all the same.
func (d *Desk) take(ctx context.Context, c confirmation) error {
	if d.keeps.Load() {
		select {
		case d.later <- &c:
			return nil
		default: // a burst: this one waits
		}
	}
	return d.takeNow(ctx, c)
}

func (d *Desk) takeNow(ctx context.Context, c confirmation) error {
	o := c.otp
	if o.State == Issued {
		o.State, o.Answer.Confirmed = Confirmed, c.at
		if err := d.cfg.Store.UpdateOTP(ctx, c.by, "otp.confirm", o); err != nil {
			return fmt.Errorf("confirming by one-time password %s: %w", o.Reference, err)
		}
	}
	if err := d.confirmed(ctx, c.by, o); err != nil && ctx.Err() == nil {
		// A gate that has not heard of the device yet, for one. The next sweep sees to it.
		d.cfg.Log.Info("telling the gate of a confirmed device: left to the next sweep", "device", o.Answer.Device, "error", err)
	}
	return nil
}

// sweep is one round. One OTP's failure does not keep the others from their turn.
func (d *Desk) sweep(ctx context.Context) error {
	all, err := d.cfg.Store.OTPs(ctx)
	if err != nil {
		return fmt.Errorf("listing one-time passwords: %w", err)
	}
	var errs []error
	for _, o := range all {
		if ctx.Err() != nil {
			break
		}
		// A conflict means that somebody used it this moment; the next round sees to it.
		if err := d.tidy(ctx, o); err != nil && !errors.Is(err, quarantine.ErrConflict) {
			errs = append(errs, fmt.Errorf("one-time password %s: %w", o.Reference, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Desk) tidy(ctx context.Context, o OTP) error {
	now := d.now()
	switch o.State {
	case Pending:
		if now.Before(o.Expires) {
			return nil
		}
		o.State, o.Secret = Expired, nil
		return d.cfg.Store.UpdateOTP(ctx, keeper, "otp.expire", o)
	case Issued:
		if !now.Before(o.Answer.Issued.Add(ConfirmIn)) {
			return d.unconfirmed(ctx, o)
		}
	}
	if len(o.Secret) == 0 {
		return nil
	}
	if o.State == Confirmed {
		if err := d.confirmed(ctx, keeper, o); err != nil { // the gate did not know when the device confirmed
			return err
		}
	}
	if (o.State == Issued || o.State == Confirmed) && now.Before(o.Answer.Issued.Add(d.cfg.RepeatFor)) {
		return nil
	}
	o.Secret = nil
	return d.cfg.Store.UpdateOTP(ctx, keeper, "otp.erase", o)
}

// unconfirmed ends an issuance that nobody confirmed in time: the device is revoked,
// unless it was seen, or has moved on to another certificate.
func (d *Desk) unconfirmed(ctx context.Context, o OTP) error {
	r, err := d.cfg.Store.Device(ctx, o.Answer.Device)
	gone := errors.Is(err, quarantine.ErrUnknownDevice)
	if err != nil && !gone {
		return fmt.Errorf("reading device %s: %w", o.Answer.Device, err)
	}
	o.Secret = nil
	if !gone && r.Confirmed && r.Certificate.Sum == sha256.Sum256(o.Answer.Certificate) {
		o.State = Confirmed
		return d.cfg.Store.UpdateOTP(ctx, keeper, "otp.confirm", o)
	}
	if !gone && r.Stage != quarantine.Revoked && r.Certificate.Sum == sha256.Sum256(o.Answer.Certificate) {
		why := fmt.Sprintf("its enrollment was not confirmed within %.0f hours, and it was never seen", ConfirmIn.Hours())
		if _, err := d.cfg.Gate.Revoke(ctx, keeper, r.ID, why); err != nil && !settled(err) {
			return fmt.Errorf("revoking device %s: %w", r.ID, err)
		}
	}
	o.State = Expired
	return d.cfg.Store.UpdateOTP(ctx, keeper, "otp.expire", o)
}

// confirmed tells the gate that a device has the certificate that o yielded, unless the
// device has moved on to another one since: that one is not confirmed by an old OTP.
func (d *Desk) confirmed(ctx context.Context, by quarantine.Actor, o OTP) error {
	r, err := d.cfg.Store.Device(ctx, o.Answer.Device)
	if errors.Is(err, quarantine.ErrUnknownDevice) || err == nil && (r.Confirmed || r.Stage == quarantine.Revoked) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading device %s: %w", o.Answer.Device, err)
	}
	if r.Certificate.Sum != sha256.Sum256(o.Answer.Certificate) {
		return nil
	}
	if _, err := d.cfg.Gate.Confirm(ctx, by, r.ID); err != nil && !settled(err) {
		return fmt.Errorf("confirming device %s: %w", r.ID, err)
	}
	return nil
}
