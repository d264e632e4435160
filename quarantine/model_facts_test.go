package quarantine_test

import (
	"maps"
	"slices"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// model is what a plain reading of the rules says of one device, kept apart from the
// gate's own code: what was told of it, and accepted.
type model struct {
	id       quarantine.ID
	seat     int
	profile  string
	keys     []tunnel.Key // that it has, or may have
	ends     []time.Time  // of the certificate that it has, or may have
	approved bool
	proven   bool
	skips    bool // its profile skips quarantine
	floor    time.Time
	views    [gateways]view
	told     time.Time
	session  time.Time            // latest end that a user's session may have
	waived   map[string]time.Time // rules, and until when they may be waived

	uncertain bool // an answer was lost, or two gateways were told apart: the fact may be known or not
}

// view is what one gateway must know of a device: what it was told itself, and what the
// store has surely told it. What people and reports take away must be in force where they
// said so at once, and elsewhere when the store is up.
type view struct {
	last    map[string]quarantine.Report   // newest accepted of each source
	maybe   map[string][]quarantine.Report // newer ones that may be known, or not
	held    bool
	blocked bool
	revoked bool
	wiped   bool // is told to wipe itself
	out     bool // its user signed out here, and nowhere in again
}

func newView() view {
	return view{last: make(map[string]quarantine.Report), maybe: make(map[string][]quarantine.Report)}
}

func (v view) clone() view {
	v.last = maps.Clone(v.last)
	v.maybe = maps.Clone(v.maybe)
	for source, all := range v.maybe {
		v.maybe[source] = slices.Clone(all)
	}
	return v
}

func (m model) clone() *model {
	m.keys, m.ends = slices.Clone(m.keys), slices.Clone(m.ends)
	m.waived = maps.Clone(m.waived)
	for g := range m.views {
		m.views[g] = m.views[g].clone()
	}
	return &m
}

// notAfter is the latest end that the device's certificate may have.
func (m *model) notAfter() time.Time { return slices.MaxFunc(m.ends, time.Time.Compare) }

// mayRoute is the latest time until which the rules could let the device be routed at one
// gateway, zero for not at all. It is generous where the gate may be stricter: it takes a
// report's end from its source's time and validity alone.
func (m *model) mayRoute(g int, now time.Time, agentReleases bool) time.Time {
	v := m.views[g]
	if v.wiped || v.held || v.blocked || v.revoked || !m.proven || m.profile == "approved" && !m.approved {
		return time.Time{}
	}
	until := time.Time{}
	if m.skips {
		until = m.notAfter()
	}
	for source, r := range v.last {
		end := r.At.Add(r.Validity)
		if r.Verdict == quarantine.NonCompliant && now.Before(end) && now.Before(r.Received.Add(r.Validity)) && len(v.maybe[source]) == 0 {
			return time.Time{}
		}
		if releases(r, agentReleases) && end.After(until) {
			until = end
		}
	}
	for _, source := range []string{"mdm", quarantine.AgentSource} {
		for _, r := range v.maybe[source] {
			if end := r.At.Add(r.Validity); releases(r, agentReleases) && end.After(until) {
				until = end
			}
		}
	}
	if end := m.notAfter(); until.After(end) {
		until = end
	}
	until = m.ended(g, until)
	if !until.After(now) {
		return time.Time{}
	}
	return until
}

// releases reports whether a report may release: mdm's, and the agent's own where a set says so.
func releases(r quarantine.Report, agentReleases bool) bool {
	return r.Source == "mdm" && r.Verdict == quarantine.Compliant ||
		agentReleases && r.Source == quarantine.AgentSource && r.Verdict != quarantine.NonCompliant
}

// accept takes a report that the gateway took.
func (v *view) accept(r quarantine.Report) {
	for _, same := range v.maybe[r.Source] {
		if same.At.Equal(r.At) && same.Verdict == r.Verdict && same.Validity == r.Validity && maps.Equal(same.Facts, r.Facts) {
			return
		}
	}
	old, ok := v.last[r.Source]
	if !ok || r.At.After(old.At) || r.At.Equal(old.At) && r.Verdict == quarantine.NonCompliant &&
		(old.Verdict != quarantine.NonCompliant || r.Validity > old.Validity) {
		v.last[r.Source] = r
		v.maybe[r.Source] = slices.DeleteFunc(v.maybe[r.Source], func(old quarantine.Report) bool { return !old.At.After(r.At) })
	}
}

// suspect takes a report that the gateway may have taken in, or not: then what it knew of the
// source may count no more. A compliant one that repeats another is answered and leaves no
// trace, so that one between the two, which comes later, is taken.
func (v *view) suspect(r quarantine.Report) {
	for _, same := range v.maybe[r.Source] {
		if same.At.Equal(r.At) && same.Verdict == r.Verdict && same.Validity == r.Validity && maps.Equal(same.Facts, r.Facts) {
			return
		}
	}
	old, ok := v.last[r.Source]
	if !ok || r.At.After(old.At) || r.Verdict == quarantine.Compliant && old.Verdict == quarantine.Compliant {
		v.maybe[r.Source] = append(v.maybe[r.Source], r)
	}
}

// outlived is what must be known once the device has enrolled again: of what was said of it
// with its former keys only what speaks against it, where no answer was lost.
func (v view) outlived() view {
	next := newView()
	next.held, next.wiped, next.out = v.held, v.wiped, true
	for source, r := range v.last {
		if r.Verdict == quarantine.NonCompliant && len(v.maybe[source]) == 0 {
			next.last[source] = r
		}
	}
	return next
}

// join is called when the store has told both gateways everything.
func (m *model) join() {
	all := newView()
	for _, v := range m.views {
		all.held, all.blocked, all.revoked = all.held || v.held, all.blocked || v.blocked, all.revoked || v.revoked
		all.wiped, all.out = all.wiped || v.wiped, all.out || v.out
		for _, r := range v.last {
			all.accept(r)
		}
	}
	for _, v := range m.views {
		for _, some := range v.maybe {
			for _, r := range some {
				all.suspect(r)
			}
		}
	}
	for g := range m.views {
		m.views[g] = all.clone()
	}
}
