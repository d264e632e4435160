package quarantine

import "errors"

var (
	ErrUnknownDevice = errors.New("no such device")
	ErrForbidden     = errors.New("not allowed to report on this device")
	ErrStale         = errors.New("older than a report already taken from this source")
	ErrFuture        = errors.New("dated in the future")
	ErrFinal         = errors.New("the device is revoked, which is final")
	ErrConflict      = errors.New("the record changed meanwhile")
	ErrCompacted     = errors.New("the revision was compacted")
	ErrOutdated      = errors.New("loosening has not taken in the last tightening")
	ErrMalformed     = errors.New("malformed change")
	ErrBlocked       = errors.New("the device is blocked")
	ErrNotReady      = errors.New("the store has not been read yet")
	ErrNotEnforced   = errors.New("recorded, not enforced yet")
)
