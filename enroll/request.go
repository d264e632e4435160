package enroll

import (
	"context"
	"errors"
	"time"

	"lazaret/enroll/code"
	"lazaret/quarantine"
)

// Request asks for an OTP.
type Request struct {
	User      string        // required: whose device it will be
	Device    quarantine.ID // existing device of that user to enroll again, or empty
	Name      string        // device name wanted, or empty: drawn from user, platform and reference
	Serial    string        // constraints on what the device says of itself; empty for none
	Platform  string
	Ownership string
	Profile   string        // required
	Life      time.Duration // zero: DefaultLife; above MaxLife is refused (G6)
}

// RequestError says which field of a Request cannot stand, and why.
type RequestError struct {
	Field string
	Why   string
}

func (e *RequestError) Error() string { return e.Field + ": " + e.Why }

// CreateOTP records an OTP and returns its code, which is shown once and kept nowhere,
// and the OTP without its secret. Errors: *RequestError, ErrNoProfile,
// quarantine.ErrUnknownDevice, and those of the store.
func (d *Desk) CreateOTP(ctx context.Context, by quarantine.Actor, r Request) (code.Code, OTP, error) {
	return code.Code{}, OTP{}, errors.ErrUnsupported
}

// CancelOTP ends a pending OTP and erases its secret. Errors: ErrNoOTP, ErrUsed if it
// is no longer pending.
func (d *Desk) CancelOTP(ctx context.Context, by quarantine.Actor, reference string) error {
	return errors.ErrUnsupported
}

// ListOTPs returns every OTP, oldest first, without secrets; one that is pending and
// over its time is shown as expired.
func (d *Desk) ListOTPs(ctx context.Context) ([]OTP, error) {
	return nil, errors.ErrUnsupported
}
