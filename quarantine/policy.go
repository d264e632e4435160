package quarantine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// DefaultValidity is how long a report is good for when neither it nor its source says,
// and the most it is good for when its source does not say.
const DefaultValidity = time.Hour

// RuleReport is the rule of every reason that rests on a report.
const RuleReport = "release.report"

// PlainPolicy releases a device when the latest report of a source with the right to
// release, within its validity, says compliant, and no live report of any source says
// otherwise. A source that does not speak for the device any more releases it no more, and what
// it said against it stands until that ends. A device's own word releases nobody, whatever its source is set to.
type PlainPolicy struct{}

// Judge implements Policy. Reasons that speak against a release come first.
func (PlainPolicy) Judge(f Facts) Judgement {
	j := Judgement{Clear: true}
	var against, release, idle []Reason
	for _, name := range slices.Sorted(maps.Keys(f.Record.Reports)) {
		r := f.Record.Reports[name]
		source, known := f.Sources[name]
		speaks := source.For.Selects(f.Record, f.Profile)
		life := lifeOf(r, source)
		live := life.holds(f.Now)
		j.Again = soonest(f.Now, j.Again, life.from, life.until)
		reason := Reason{Rule: RuleReport, Source: name, At: r.At}
		head := fmt.Sprintf("%s reported %s at %s", name, r.Verdict.word(), stamp(r.At))
		switch {
		case r.Verdict == NonCompliant && f.Now.Before(life.until): // also when dated ahead
			j.Clear = false
			reason.Text = fmt.Sprintf("%s, which stands until %s", head, stamp(life.until))
			against = append(against, reason)
		case r.Verdict == Compliant && live && known && speaks && source.MayRelease && name != AgentSource:
			j.Release = true
			if life.until.After(j.Until) {
				j.Until = life.until
			}
			reason.Holds = true
			reason.Text = fmt.Sprintf("%s, valid until %s", head, stamp(life.until))
			release = append(release, reason)
		default:
			reason.Text = head + ": " + whyIdle(r, name, source, known, speaks, life, f.Now)
			idle = append(idle, reason)
		}
	}
	if !j.Clear {
		j.Release = false
	}
	if !j.Release {
		j.Until = time.Time{}
	}
	slices.SortStableFunc(release, func(a, b Reason) int {
		return lifeOf(f.Record.Reports[b.Source], f.Sources[b.Source]).until.Compare(lifeOf(f.Record.Reports[a.Source], f.Sources[a.Source]).until)
	})
	if len(against)+len(release) == 0 {
		against, idle = whyNone(f, idle)
	}
	j.Reasons = slices.Concat(against, release, idle)
	return j
}

// whyNone is the reason when nothing live speaks for a device or against it, and the idle
// reports without the one that it is about.
func whyNone(f Facts, idle []Reason) (why, others []Reason) {
	last := -1
	var until time.Time
	for i, reason := range idle {
		r, source := f.Record.Reports[reason.Source], f.Sources[reason.Source]
		end := lifeOf(r, source).until
		released := r.Verdict == Compliant && source.MayRelease && source.For.Selects(f.Record, f.Profile) && reason.Source != AgentSource
		if released && !f.Now.Before(end) && end.After(until) {
			last, until = i, end
		}
	}
	if last >= 0 {
		lapsed := idle[last]
		lapsed.Text = fmt.Sprintf("%s's report of %s ran out at %s", lapsed.Source, stamp(lapsed.At), stamp(until))
		return []Reason{lapsed}, slices.Delete(slices.Clone(idle), last, last+1)
	}
	text := "no source with the right to release has reported it compliant"
	if len(idle) == 0 {
		text = "nobody has reported on it yet, and no source has the right to release"
		if from := releasing(f); len(from) > 0 {
			text = "nobody has reported on it yet: it waits for " + strings.Join(from, " or ")
		}
	}
	return []Reason{{Rule: "release", Text: text}}, idle
}

// releasing are the names of the sources with the right to release that speak for the device.
func releasing(f Facts) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(f.Sources)) {
		if s := f.Sources[name]; s.MayRelease && s.For.Selects(f.Record, f.Profile) && name != AgentSource {
			names = append(names, name)
		}
	}
	return names
}

// whyIdle says why a report moves nobody.
func whyIdle(r Report, name string, source Source, known, speaks bool, life life, now time.Time) string {
	switch {
	case r.Verdict != Compliant && r.Verdict != NonCompliant:
		return "received, and unknown is not compliant"
	case !now.Before(life.until):
		return "received, expired at " + stamp(life.until)
	case name == AgentSource:
		return "received, not releasing: a device's own word releases nobody"
	case !known:
		return "received, not releasing: the source is not known any more"
	case !speaks:
		return "received, not releasing: the source does not speak for the device any more"
	case !source.MayRelease:
		return "received, not releasing: the source has no right to release"
	default:
		return "received, not valid before " + stamp(life.from)
	}
}

// word names a verdict to a person.
func (v Verdict) word() string {
	switch v {
	case Compliant:
		return "compliant"
	case NonCompliant:
		return "not compliant"
	default:
		return "unknown"
	}
}

// life is when a report counts: from, inclusive, to until, exclusive.
type life struct{ from, until time.Time }

func (l life) holds(now time.Time) bool { return !now.Before(l.from) && now.Before(l.until) }

// lifeOf is the time in which a report counts: its validity, or DefaultValidity, but no
// more than its source's MaxValidity. It starts at the earlier of the source's time and
// its arrival, so that a clock running ahead gains nothing.
func lifeOf(r Report, s Source) life {
	most := s.MaxValidity
	if most <= 0 {
		most = DefaultValidity
	}
	valid := r.Validity
	if valid <= 0 {
		valid = DefaultValidity
	}
	start := r.At
	if !r.Received.IsZero() && r.Received.Before(start) {
		start = r.Received
	}
	return life{from: start, until: start.Add(min(valid, most))}
}

// soonest returns the earliest of the instants after now, or the zero time.
func soonest(now time.Time, instants ...time.Time) time.Time {
	var first time.Time
	for _, t := range instants {
		if !t.IsZero() && t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
