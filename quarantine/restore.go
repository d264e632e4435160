package quarantine

import (
	"maps"
	"slices"
	"time"
)

// RestoreGap is what a restored record's counter of tightenings is raised by: more than were
// counted since the copy was made, so that a data plane that runs on takes the record's
// word, and less than the number of restores that a counter has room for.
const RestoreGap = 1 << 32

// Restoration is how records come back from an earlier copy of the store. What happened
// since is lost, so nothing of it may count against anybody's safety.
type Restoration struct {
	By Actor
	At time.Time // when the copy is put back

	// The copy's settings, and the policy in force.
	Pools    map[string]Pool
	Profiles map[string]Profile
	Sources  map[string]Source
	Sets     map[string]PolicySet
	Conduct  Conduct
	Policy   Policy

	Denied map[ID]Denial // what is known against devices from elsewhere, such as an exported list; optional
}

// Denial is what people, or a policy, decided against a device.
type Denial struct {
	Hold       Decision `json:"hold,omitzero"`
	Block      Decision `json:"block,omitzero"`
	Revocation Decision `json:"revocation,omitzero"`
	Wipe       Decision `json:"wipe,omitzero"`
}

// Denials lists what people decided against devices: what to keep apart from copies of the
// store, and to give to Restored.
func Denials(records []Record) map[ID]Denial {
	all := make(map[ID]Denial)
	for _, r := range records {
		if r.Hold.Set() || r.Block.Set() || r.Revocation.Set() || r.Wipe.Set() {
			all[r.ID] = Denial{r.Hold, r.Block, r.Revocation, r.Wipe}
		}
	}
	return all
}

// Restored returns the record as it may come back with an earlier copy of the store. It is
// pure. Nobody comes back routed: a verdict that may have been overtaken since releases
// nobody, and no report made before the restore does, since a later one may have been lost;
// a profile that skips quarantine is held until a person approves. Reports against the
// device stand for as long as they did.
func (r Record) Restored(x Restoration) Record {
	r.Tighten += RestoreGap
	r.Reports = restoredReports(r, x)
	r.Waivers, r.Session = nil, UserSession{At: x.At, By: x.By} // nobody is signed in, and who was may have been signed out
	profile, known := x.Profiles[r.Profile]
	if !r.Hold.Set() && (!known || profile.SkipQuarantine) {
		r.hold(x, "restored from an earlier copy, and its profile skips quarantine")
	}
	d := x.Denied[r.ID]
	for _, known := range []struct {
		to   *Decision
		from Decision
	}{{&r.Hold, d.Hold}, {&r.Block, d.Block}, {&r.Revocation, d.Revocation}, {&r.Wipe, d.Wipe}} {
		if known.from.Set() && !known.to.Set() {
			*known.to = known.from
		}
	}
	place := func() Placement {
		return Place(Facts{Now: x.At, Record: r, Profile: profile, Pools: x.Pools, Sources: x.Sources, Policy: x.Policy,
			Sets: x.Sets, Conduct: x.Conduct})
	}
	p := place()
	if p.Stage == Routed { // by a policy that asks for no report
		r.hold(x, "restored from an earlier copy")
		p = place()
	}
	return r.Settle(p, x.At)
}

func (r *Record) hold(x Restoration, why string) {
	r.Hold = Decision{By: x.By, At: x.At, Why: why}
}

// restoredReports keeps what speaks against the device, and dates the last word of every
// source that may release at the restore, so that an older one comes too late.
func restoredReports(r Record, x Restoration) map[string]Report {
	all := make(map[string]Report, len(r.Reports)+len(x.Sources))
	names := slices.Collect(maps.Keys(r.Reports))
	for name, s := range x.Sources {
		if s.MayRelease {
			names = append(names, name)
		}
	}
	for _, name := range names {
		last, ok := r.Reports[name]
		switch {
		case !ok || last.Verdict != NonCompliant:
			last = Report{Device: r.ID, Source: name, At: last.At, Received: x.At, Detail: "restored from an earlier copy"}
		case last.Received.IsZero():
			last.Received = last.At // from which its life counts
		}
		if last.At.Before(x.At) {
			last.At, last.Sequence = x.At, 0
		}
		all[name] = last
	}
	return all
}
