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

// LastSeen is when a device was last heard of, as far as its record tells: its own contact, at
// the latest when its certificate was made, or when a person spoke for it, whose word would be
// undone at once else.
func LastSeen(r quarantine.Record) time.Time {
	seen := r.Seen
	for _, t := range []time.Time{r.Certificate.NotBefore, r.Reports[quarantine.AgentSource].Received,
		r.Approval.At, r.Unblocking.At, r.Unwiping.At} {
		if t.After(seen) {
			seen = t
		}
	}
	return seen
}

// daily is how long a device is silent before somebody asks whether it shook hands.
const daily = 24 * time.Hour

// Unheard are the devices, by their place, of which nothing was heard but perhaps by the
// tunnel, which is to be asked: must, that would be told of or acted on else, and may, of which
// nothing was heard for a day.
func Unheard(devices []quarantine.Record, c quarantine.Conduct, now time.Time) (must, may []int) {
	sure := min(alertAfter(c), actAfter(c))
	for i, r := range devices {
		silent := now.Sub(LastSeen(r))
		switch {
		case !counts(r):
		case silent >= sure:
			must = append(must, i)
		case silent >= daily:
			may = append(may, i)
		}
	}
	return must, may
}
