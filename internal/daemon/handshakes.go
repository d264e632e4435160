package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lazaret/internal/alert"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

// handshakes hears of devices that say nothing but to the tunnel, as those with a stock
// WireGuard app: a device that shakes hands is there (G10).
type handshakes struct {
	ask     func(ctx context.Context, keys []tunnel.Key) (map[tunnel.Key]time.Time, error)
	contact func(ctx context.Context, id quarantine.ID) error
	next    int // device to go on with
}

const (
	// mostContacts bounds what one round writes; who is left out is written in the next ones.
	mostContacts = 500
	askPatience  = 10 * time.Second
)

// hear puts into devices when those last shook hands that would be silent otherwise, and has
// it noted of those that did lately. An error says that silence tells nothing now.
func (h *handshakes) hear(ctx context.Context, devices []quarantine.Record, c quarantine.Conduct, now time.Time) error {
	must, may := alert.Unheard(devices, c, now)
	picked := must
	for n := range min(len(may), dataplane.MaxAsked/2) { // in turn, each a key and perhaps the next one
		picked = append(picked, may[(h.next+n)%len(may)])
	}
	h.next += dataplane.MaxAsked / 2
	if len(picked) == 0 {
		return nil
	}
	keys := make([]tunnel.Key, 0, len(picked))
	for _, i := range picked {
		keys = append(keys, devices[i].Key)
		if next := devices[i].Next; !next.IsZero() {
			keys = append(keys, next)
		}
	}
	asking, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	shaken, err := h.ask(asking, keys)
	if err != nil {
		return err
	}
	return h.take(ctx, devices, picked, shaken, now)
}

// take takes the answers in.
func (h *handshakes) take(ctx context.Context, devices []quarantine.Record, picked []int, shaken map[tunnel.Key]time.Time, now time.Time) error {
	var faults []error
	contacts := 0
	for _, i := range picked {
		r := &devices[i]
		at := shaken[r.Key]
		if next := shaken[r.Next]; next.After(at) {
			at = next
		}
		if at.After(now) {
			at = now
		}
		if !at.After(alert.LastSeen(*r)) {
			continue
		}
		r.Seen = at
		if !quarantine.Recent(at, now) || contacts == mostContacts {
			continue // a contact is noted as of now, which would be too much said
		}
		contacts++
		if err := h.contact(ctx, r.ID); err != nil && len(faults) < 3 {
			faults = append(faults, fmt.Errorf("noting that device %s shook hands: %w", r.ID, err))
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", errNoted, errors.Join(faults...))
	}
	return nil
}

// errNoted reports what was heard, and could not be written down.
var errNoted = errors.New("contacts are not on record")
