// Package enroll is the enrollment desk: one-time passwords, and the messages by
// which a device that holds one becomes a device with a certificate. It decides what
// is admitted; pki signs, quarantine places, a Store records.
package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// State is how far an OTP has come. The empty State enrolls nothing.
type State string

const (
	Pending   State = "pending"
	Issued    State = "issued"
	Confirmed State = "confirmed"
	Expired   State = "expired"
	Cancelled State = "cancelled"
)

const (
	DefaultLife = 8 * time.Hour
	MaxLife     = 7 * 24 * time.Hour // G6
	RepeatFor   = time.Hour          // a lost answer can be asked for again this long after issue
	ConfirmIn   = 24 * time.Hour     // issued and neither confirmed nor seen by then: revoked
)

// OTP is one enrollment request. Its secret is kept sealed (AES-256-GCM bound to
// reference, user and expiry), since the per-message salt rules out keeping a hash.
type OTP struct {
	Reference string // 8 Crockford symbols, never reused, not secret
	User      string
	Device    quarantine.ID // existing device to enroll again, or empty
	Name      string        // device name wanted, or empty: drawn from user and reference
	Serial    string        // constraints, empty for none
	Platform  string
	Ownership string
	Profile   string
	Secret    []byte // sealed; nil once erased
	By        quarantine.Actor
	Created   time.Time
	Expires   time.Time
	State     State
	Answer    Answer // set by Issue
	Revision  int64  // of the store; not part of the stored value
}

// Answer is what an OTP yielded, kept so that a lost answer can be given again.
type Answer struct {
	Device      quarantine.ID
	SPKI        [32]byte // SHA-256
	WireGuard   tunnel.Key
	Transaction []byte // latest CMP transaction ID, so that certConf matches
	Certificate []byte // DER
	Issued      time.Time
	Confirmed   time.Time
}

// Issuance is the one transaction of an enrollment.
type Issuance struct {
	By       quarantine.Actor
	OTP      OTP                // as read, with its Revision; Answer filled
	Record   quarantine.Record  // Seat zero: the store gives one
	Retires  *quarantine.Record // the same device before, when OTP.Device names one
	LastSeat quarantine.Seat    // highest seat every pool's prefix has room for
}

// Store records OTPs and issuances. Every write carries its audit entry in the same transaction.
type Store interface {
	// CreateOTP records o; ErrExists if the reference was ever used.
	CreateOTP(ctx context.Context, by quarantine.Actor, o OTP) error
	// OTP returns one OTP, or ErrNoOTP.
	OTP(ctx context.Context, reference string) (OTP, error)
	// OTPs returns all, oldest first.
	OTPs(ctx context.Context) ([]OTP, error)
	// UpdateOTP records o if the stored one still has o.Revision, else
	// quarantine.ErrConflict; action names the audit entry ("otp.cancel"). An OTP that
	// becomes Confirmed may confirm, in the same transaction, the device that still has the
	// certificate it yielded; where it does not, the desk has the gate do so.
	UpdateOTP(ctx context.Context, by quarantine.Actor, action string, o OTP) error
	// SigningTime is what certificates are dated by: the later of the clock and the highest
	// time the store ever saw. It is ErrClock where the clock is far ahead of that time, or
	// more than two minutes behind it.
	SigningTime(ctx context.Context) (time.Time, error)
	// Issue compares the OTP's revision, state and expiry (against the highest time
	// the store ever saw), takes a seat, and writes the record, its unique indexes, the
	// OTP as Issued and the audit entry, or nothing. It returns the record with seat and
	// revision. Errors: ErrUsed, ErrExpired, ErrClock, ErrFull, *TakenError.
	Issue(ctx context.Context, i Issuance) (quarantine.Record, error)
	// Renewed writes a renewal: record and certificate key index, compare by revision and
	// by time, as Issue does. ErrClock besides quarantine.ErrConflict and *TakenError.
	Renewed(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error)
	// Device finds a record by ID, ByKey by the SHA-256 of its certificate's public
	// key, ByWireGuard by current or next key; quarantine.ErrUnknownDevice if none.
	Device(ctx context.Context, id quarantine.ID) (quarantine.Record, error)
	ByKey(ctx context.Context, spki [32]byte) (quarantine.Record, error)
	ByWireGuard(ctx context.Context, k tunnel.Key) (quarantine.Record, error)
}

var (
	ErrNoOTP   = errors.New("no such one-time password")
	ErrExists  = errors.New("reference already used")
	ErrUsed    = errors.New("one-time password is not pending")
	ErrExpired = errors.New("one-time password has expired")
	ErrClock   = errors.New("the clock is too far from the time last stored: set it right, or run `lazaretd clock reset`")
	ErrFull    = errors.New("no seat left: every address of the smallest pool is taken")
)

// TakenError says which unique value belongs to another device.
type TakenError struct {
	What string // "WireGuard key", "certificate key", "name"
}

func (e *TakenError) Error() string { return fmt.Sprintf("%s belongs to another device", e.What) }
