package enroll

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lazaret/enroll/code"
	"lazaret/quarantine"
)

// Request asks for an OTP.
type Request struct {
	User   string        // required: whose device it will be
	Device quarantine.ID // existing device of that user to enroll again, or empty
	Name   string        // device name wanted, or empty: drawn from user, platform and reference
	// Constraints, empty for none: a device that says otherwise of itself is refused.
	// Serial and Ownership are also what the device's record says, and the only word on
	// them that counts; the record's Platform is this one, else what the device says.
	Serial    string
	Platform  string
	Ownership string
	Profile   string        // required
	Life      time.Duration // zero: DefaultLife; above MaxLife is refused (G6)
}

// ErrRequest is what every RequestError is.
var ErrRequest = errors.New("the request for a one-time password cannot stand")

// RequestError says which field of a Request cannot stand, and why.
type RequestError struct {
	Field string // "user", "life", as the API names it
	Why   string
}

func (e *RequestError) Error() string { return e.Field + " " + e.Why }

// Is makes a RequestError an ErrRequest.
func (e *RequestError) Is(target error) bool { return target == ErrRequest }

const (
	maxText      = 128 // bytes of a user, serial, platform or ownership
	maxName      = 63
	maxRedraws   = 8 // of a reference; a second one is already unheard of
	maxNameTries = 50
)

// CreateOTP records an OTP and returns its code, which is shown once and kept nowhere,
// and the OTP without its secret. Errors: *RequestError, ErrNoProfile,
// quarantine.ErrUnknownDevice, quarantine.ErrFinal, and those of the store.
func (d *Desk) CreateOTP(ctx context.Context, by quarantine.Actor, r Request) (code.Code, OTP, error) {
	o, err := d.admit(ctx, r)
	if err != nil {
		return code.Code{}, OTP{}, fmt.Errorf("creating a one-time password: %w", err)
	}
	o.By = by
	for range maxRedraws {
		c, err := code.Draw(rand.Reader)
		if err != nil {
			return code.Code{}, OTP{}, fmt.Errorf("creating a one-time password: %w", err)
		}
		o.Reference = c.Reference
		o.Secret, err = d.cfg.Sealer.Seal(SecretContext(o), []byte(c.Secret))
		if err != nil {
			return code.Code{}, OTP{}, fmt.Errorf("sealing one-time password %s: %w", o.Reference, err)
		}
		switch err = d.cfg.Store.CreateOTP(ctx, by, o); {
		case err == nil:
			o.Secret = nil
			return c, o, nil
		case !errors.Is(err, ErrExists):
			return code.Code{}, OTP{}, fmt.Errorf("recording one-time password %s: %w", o.Reference, err)
		}
	}
	return code.Code{}, OTP{}, fmt.Errorf("creating a one-time password: %w, %d times in a row", ErrExists, maxRedraws)
}

// admit turns a Request that can stand into an OTP without reference and secret.
func (d *Desk) admit(ctx context.Context, r Request) (OTP, error) {
	if r.User == "" {
		return OTP{}, &RequestError{"user", "is empty"}
	}
	for _, f := range []struct{ field, text string }{
		{"user", r.User}, {"serial", r.Serial}, {"platform", r.Platform}, {"ownership", r.Ownership},
	} {
		if !plain(f.text) {
			return OTP{}, &RequestError{f.field, fmt.Sprintf("is longer than %d bytes, or has characters that cannot be printed", maxText)}
		}
	}
	if likeID(r.Name) {
		return OTP{}, &RequestError{"name", "has the form of a device's ID, and would stand for another device"}
	}
	if r.Name != "" && !nameable(r.Name) {
		return OTP{}, &RequestError{"name", fmt.Sprintf("must be 1 to %d letters, digits, dots, dashes or underscores, and begin with a letter or digit", maxName)}
	}
	life, err := lifetime(r.Life)
	if err != nil {
		return OTP{}, err
	}
	p, err := d.cfg.Organization.Profile(ctx, r.Profile)
	if err != nil {
		return OTP{}, fmt.Errorf("profile %q: %w", r.Profile, err)
	}
	if err := fits(p, r); err != nil {
		return OTP{}, err
	}
	if err := d.again(ctx, r); err != nil {
		return OTP{}, err
	}
	now := d.now()
	return OTP{
		User: r.User, Device: r.Device, Name: r.Name, Serial: r.Serial, Platform: r.Platform, Ownership: r.Ownership,
		Profile: r.Profile, Created: now, Expires: now.Add(life), State: Pending,
	}, nil
}

// lifetime is never cut short in silence: who asks for more is told.
func lifetime(asked time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return DefaultLife, nil
	case asked < 0:
		return 0, &RequestError{"life", "is negative"}
	case asked > MaxLife:
		return 0, &RequestError{"life", fmt.Sprintf("is %s, and a one-time password never lives longer than 7 days (168h)", asked)}
	}
	return asked, nil
}

// fits checks an OTP's constraints against its profile's.
func fits(p quarantine.Profile, r Request) error {
	switch {
	case p.NeedSerial && r.Serial == "":
		return &RequestError{"serial", fmt.Sprintf("is empty, and profile %q needs a hardware serial number", p.Name)}
	case len(p.Ownerships) > 0 && r.Ownership == "": // a device is not asked whose it is
		return &RequestError{"ownership", fmt.Sprintf("is empty, and profile %q admits only %s", p.Name, strings.Join(p.Ownerships, ", "))}
	case r.Platform != "" && !listed(p.Platforms, r.Platform):
		return &RequestError{"platform", fmt.Sprintf("is %q, and profile %q admits %s", r.Platform, p.Name, strings.Join(p.Platforms, ", "))}
	case r.Ownership != "" && !listed(p.Ownerships, r.Ownership):
		return &RequestError{"ownership", fmt.Sprintf("is %q, and profile %q admits %s", r.Ownership, p.Name, strings.Join(p.Ownerships, ", "))}
	}
	return nil
}

// again checks the device that an OTP names.
func (d *Desk) again(ctx context.Context, r Request) error {
	if r.Device == "" {
		return nil
	}
	old, err := d.cfg.Store.Device(ctx, r.Device)
	if err != nil {
		return fmt.Errorf("device %s: %w", r.Device, err)
	}
	switch {
	case old.Stage == quarantine.Revoked:
		return fmt.Errorf("device %s: %w", r.Device, quarantine.ErrFinal)
	case old.Stage == quarantine.Blocked:
		return &RequestError{"device", fmt.Sprintf("%s is blocked: unblock it first", r.Device)}
	case old.Owner != r.User:
		return &RequestError{"device", fmt.Sprintf("%s belongs to another user", r.Device)}
	}
	return nil
}

// CancelOTP ends a pending OTP and erases its secret. Errors: ErrNoOTP, ErrUsed if it
// is no longer pending.
func (d *Desk) CancelOTP(ctx context.Context, by quarantine.Actor, reference string) error {
	for range maxConflicts {
		o, err := d.cfg.Store.OTP(ctx, reference)
		if err != nil {
			return fmt.Errorf("cancelling one-time password %s: %w", reference, err)
		}
		if d.state(o) != Pending {
			return fmt.Errorf("cancelling one-time password %s, which is %s: %w", reference, d.state(o), ErrUsed)
		}
		o.State, o.Secret = Cancelled, nil
		err = d.cfg.Store.UpdateOTP(ctx, by, "otp.cancel", o)
		if !errors.Is(err, quarantine.ErrConflict) {
			if err != nil {
				return fmt.Errorf("cancelling one-time password %s: %w", reference, err)
			}
			return nil
		}
	}
	return fmt.Errorf("cancelling one-time password %s: %w", reference, quarantine.ErrConflict)
}

// ListOTPs returns every OTP, oldest first, without secrets; one that is pending and
// over its time is shown as expired.
func (d *Desk) ListOTPs(ctx context.Context) ([]OTP, error) {
	all, err := d.cfg.Store.OTPs(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing one-time passwords: %w", err)
	}
	for i := range all {
		all[i].State, all[i].Secret = d.state(all[i]), nil
	}
	return all, nil
}

// state is the stored state, or Expired for what housekeeping has not marked yet.
func (d *Desk) state(o OTP) State {
	if o.State == Pending && !d.now().Before(o.Expires) {
		return Expired
	}
	return o.State
}

// plain reports whether text can stand in a log and on a page.
func plain(text string) bool {
	return len(text) <= maxText && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

func nameable(name string) bool {
	if name == "" || len(name) > maxName || strings.IndexByte("._-", name[0]) >= 0 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return !nameRune(r) })
}

// likeID reports whether a name could be taken for what newID makes, in either case.
func likeID(name string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(name), "d-")
	return ok && len(rest) == 2*idBytes && !strings.ContainsFunc(rest, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) })
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
}

// listed reports whether a list of admitted values, where empty admits all, has v.
func listed(list []string, v string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, v) })
}
