package quarantine

import "errors"

// EntryFor is what the data plane must hold of a device that stands at p.
func EntryFor(f Facts, p Placement, now Instant) (Entry, error) {
	return Entry{}, errors.ErrUnsupported
}
