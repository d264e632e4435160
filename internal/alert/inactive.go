package alert

import (
	"slices"
	"time"

	"lazaret/quarantine"
)

// Outage is a time in which nobody could be heard of: the gateway was off, or its clock
// jumped over it.
type Outage struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Watched is when somebody listened: it knows outages, and the last moment of listening.
// A gateway that was switched off for three months has not missed its devices for three
// months. The zero Watched has never listened.
type Watched struct {
	V       int       `json:"v"`
	Since   time.Time `json:"since"` // the first moment
	Last    time.Time `json:"last"`  // the last one
	Outages []Outage  `json:"outages,omitempty"`
}

// Beats come each Beat; a time without one that is longer than missed is an outage.
const (
	Beat   = 10 * time.Minute
	missed = time.Hour
	// rememberOutages bounds what is kept: nothing older matters to anybody.
	rememberOutages = 400 * 24 * time.Hour
)

// At returns Watched after one more beat. A clock that went back makes everything since an
// outage: what devices did meanwhile cannot be dated.
func (w Watched) At(now time.Time) Watched {
	now = now.UTC().Round(0)
	switch {
	case w.Last.IsZero():
		return Watched{V: 1, Since: now, Last: now}
	case now.Sub(w.Last) > missed:
		w.Outages = append(slices.Clone(w.Outages), Outage{From: w.Last, To: now})
	case w.Last.Sub(now) > missed:
		return Watched{V: 1, Since: now, Last: now}
	}
	w.Outages = slices.DeleteFunc(slices.Clone(w.Outages), func(o Outage) bool { return now.Sub(o.To) > rememberOutages })
	w.V = 1
	if now.After(w.Last) {
		w.Last = now
	}
	return w
}

// Silence is how long nothing was heard of somebody who was last heard of at seen, of the
// time in which somebody listened.
func (w Watched) Silence(seen, now time.Time) time.Duration {
	if seen.Before(w.Since) {
		seen = w.Since
	}
	silent := now.Sub(seen)
	for _, o := range w.Outages {
		from, to := o.From, o.To
		if from.Before(seen) {
			from = seen
		}
		if to.After(now) {
			to = now
		}
		if to.After(from) {
			silent -= to.Sub(from)
		}
	}
	return max(0, silent)
}

// LastSeen is when a device was last heard of, as far as its record tells: its own contact,
// and at the latest when its certificate was made.
func LastSeen(r quarantine.Record) time.Time {
	seen := r.Seen
	for _, t := range []time.Time{r.Certificate.NotBefore, r.Reports[quarantine.AgentSource].Received} {
		if t.After(seen) {
			seen = t
		}
	}
	return seen
}

// few is how many devices may be acted on at once whatever share of all that is; above it,
// no more than one in share.
const (
	few   = 10
	share = 10
)

// Due are the devices to wipe or block for their silence (G10), and what to do. Where they
// are so many that the fault is likely to be ours, none, and deferred says how many.
func Due(devices []quarantine.Record, silence func(quarantine.Record) time.Duration, c quarantine.Conduct) (due []quarantine.Record, action quarantine.FailureAction, deferred Deferred) {
	action = c.OnInactive
	if action == "" {
		action = quarantine.FailWipe
	}
	if action != quarantine.FailWipe && action != quarantine.FailBlock {
		return nil, action, Deferred{}
	}
	all := 0
	for _, r := range devices {
		if !counts(r) {
			continue
		}
		all++
		if silence(r) >= actAfter(c) {
			due = append(due, r)
		}
	}
	if len(due) > few && len(due) > all/share {
		return nil, action, Deferred{Devices: len(due), Action: action}
	}
	return due, action, Deferred{}
}
