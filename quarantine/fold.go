package quarantine

import (
	"errors"
	"time"
)

// With returns the record with one more fact in it.
func (r Record) With(c Change) (Record, error) { return Record{}, errors.ErrUnsupported }

// Settle returns the record standing where p says.
func (r Record) Settle(p Placement, now time.Time) Record { return r }
