package alert

import (
	"slices"
	"time"

	"lazaret/quarantine"
)

// few is how many devices may be acted on whatever share of all that is; above it, no more
// than one in share.
const (
	few   = 10
	share = 10
)

const (
	// lately is how long a device that was acted on counts with those that are due: the many
	// come one after the other, as each of them was last heard of.
	lately = 7 * 24 * time.Hour
	// together is how far apart devices fall silent that one fault of ours silences: reports
	// and contacts are hours apart anyway.
	together = 3 * 24 * time.Hour
)

// Due are the devices to wipe or block at now for their silence (G10), and what to do. Where
// they, with those acted on lately, are so many, or fell silent together with so many, that
// the fault is likely to be ours, none, and deferred says how many.
func Due(devices []quarantine.Record, silence func(quarantine.Record) time.Duration, c quarantine.Conduct, now time.Time) (due []quarantine.Record, action quarantine.FailureAction, deferred Deferred) {
	action = c.OnInactive
	if action == "" {
		action = quarantine.FailWipe
	}
	if action != quarantine.FailWipe && action != quarantine.FailBlock {
		return nil, action, Deferred{}
	}
	all, acted, after := 0, 0, actAfter(c)
	soon := max(after-together, after/2) // silent for less is not silent, whatever comes next
	var silent []time.Duration
	for _, r := range devices {
		before := actedOn(r, now)
		if !before && !counts(r) {
			continue
		}
		all++
		s := silence(r)
		if s >= soon {
			silent = append(silent, s)
		}
		switch {
		case before:
			acted++
		case s >= after:
			due = append(due, r)
		}
	}
	many := func(n int) bool { return n > few && n > all/share }
	if len(due) > 0 && (many(len(due)+acted) || many(mostTogether(silent))) {
		return nil, action, Deferred{Devices: len(due), Action: action}
	}
	return due, action, Deferred{}
}

// actedOn reports whether a device was wiped or blocked for its silence lately.
func actedOn(r quarantine.Record, now time.Time) bool {
	return slices.ContainsFunc([]quarantine.Decision{r.Wipe, r.Block}, func(d quarantine.Decision) bool {
		return d.Set() && d.By.Kind == inactivity.Kind && d.By.Name == inactivity.Name && now.Sub(d.At) <= lately
	})
}

// mostTogether is the most devices that fell silent together.
func mostTogether(silent []time.Duration) int {
	slices.Sort(silent)
	most, first := 0, 0
	for i, s := range silent {
		for s-silent[first] > together {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
