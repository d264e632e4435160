package quarantine

import (
	"errors"
	"fmt"
)

var (
	ErrUnknownDevice = errors.New("no such device")
	ErrForbidden     = errors.New("not allowed to report on this device")
	// ErrUnknownSource is an ErrForbidden: the gate knows no source of that name, or not yet.
	ErrUnknownSource = fmt.Errorf("no source of that name: %w", ErrForbidden)
	ErrStale         = errors.New("older than a report already taken from this source")
	ErrFuture        = errors.New("dated in the future")
	ErrFinal         = errors.New("the device is revoked, which is final")
	ErrConflict      = errors.New("the record changed meanwhile")
	ErrCompacted     = errors.New("the revision was compacted")
	ErrOutdated      = errors.New("loosening has not taken in the last tightening")
	ErrMalformed     = errors.New("malformed change")
	ErrBlocked       = errors.New("the device is blocked")
	ErrNotOwner      = errors.New("the user is not the device's owner")
	ErrNotReady      = errors.New("the store has not been read yet")
	ErrNotEnforced   = errors.New("recorded, not enforced yet")
	// ErrNoRoom is a Store's word that it keeps what little room is left for tightenings.
	ErrNoRoom = errors.New("the gateway's disk is full: what is left is kept for what tightens")

	// ErrPeer is an Enforcer's word that a device is placed as it should be but has no
	// peer on the tunnel: it can send nothing. It concerns that device alone, and nothing
	// has to be planned anew for it.
	ErrPeer = errors.New("the tunnel does not take the device's key")
)

// Kept is an Enforcer's word that it holds a device stricter than it was told, since
// what it was told is outdated: it wraps ErrOutdated, and concerns that device alone.
// A Tighten above the record's means that the record has lost a tightening.
type Kept struct {
	Revision int64  // of what is enforced
	Tighten  uint64 // of what is enforced; an entry that is to loosen must have taken in as many
}

func (k *Kept) Error() string {
	return fmt.Sprintf("enforced are revision %d and tightening %d: %v", k.Revision, k.Tighten, ErrOutdated)
}

func (k *Kept) Unwrap() error { return ErrOutdated }
