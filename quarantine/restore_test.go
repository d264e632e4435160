package quarantine_test

import (
	"errors"
	"testing"
	"time"

	"lazaret/quarantine"
)

// Nobody comes back routed with an earlier copy, nothing older than the restore releases,
// and what people decided since, and wrote down elsewhere, counts.
func TestRestored(t *testing.T) {
	s, now := settings(), time.Now().UTC().Round(0)
	for name, p := range s.Pools {
		if !p.Quarantine {
			p.Mark = map[string]quarantine.Pool{"full": {Mark: 1}, "other": {Mark: 2}}[name].Mark
			s.Pools[name] = p
		}
	}
	x := quarantine.Restoration{By: admin, At: now, Pools: s.Pools, Profiles: s.Profiles, Sources: s.Sources, Policy: quarantine.PlainPolicy{},
		Denied: map[quarantine.ID]quarantine.Denial{"d4": {Revocation: quarantine.Decision{By: admin, At: now}}, "d5": {Block: quarantine.Decision{By: admin, At: now}}}}
	report := func(id quarantine.ID, v quarantine.Verdict) map[string]quarantine.Report {
		return map[string]quarantine.Report{"mdm": {Device: id, Source: "mdm", Verdict: v, At: now.Add(-10 * time.Minute), Received: now.Add(-10 * time.Minute), Validity: time.Hour}}
	}
	for n, c := range map[int]struct {
		profile string
		verdict quarantine.Verdict
		want    quarantine.Stage
		held    bool
	}{
		1: {"staff", quarantine.Compliant, quarantine.Quarantined, false}, 2: {"skip", "", quarantine.Quarantined, true},
		3: {"gone", quarantine.Compliant, quarantine.Pending, true}, 4: {"staff", quarantine.Compliant, quarantine.Revoked, false},
		5: {"staff", quarantine.Compliant, quarantine.Blocked, false}, 6: {"staff", quarantine.NonCompliant, quarantine.Quarantined, false},
	} {
		r := enrolled(n, c.profile, now)
		r.Stage, r.Pool, r.Until, r.Tighten, r.Reports = quarantine.Routed, "full", now.Add(time.Hour), 7, report(r.ID, c.verdict)
		got := r.Restored(x)
		if got.Stage != c.want || !got.Until.IsZero() || got.Hold.Set() != c.held || got.Tighten <= 1<<31 {
			t.Errorf("%s comes back %s until %s, held %v, counter %d", r.ID, got.Stage, got.Until, got.Hold.Set(), got.Tighten)
		}
		if kept := got.Reports["mdm"]; kept.Verdict == quarantine.Compliant || c.verdict == quarantine.NonCompliant && kept.Verdict != quarantine.NonCompliant {
			t.Errorf("%s comes back with a report of %q", r.ID, kept.Verdict)
		}
		late := report(r.ID, quarantine.Compliant)["mdm"]
		late.At = now.Add(-time.Second)
		if _, err := got.With(quarantine.Change{Kind: quarantine.Reported, Device: r.ID, By: token, At: now, Report: &late}); !errors.Is(err, quarantine.ErrStale) && !errors.Is(err, quarantine.ErrFinal) {
			t.Errorf("%s takes a report from before the restore: %v", r.ID, err)
		}
		if r.Reports["mdm"].Verdict != c.verdict || r.Tighten != 7 {
			t.Errorf("%s: the copy itself was written to", r.ID)
		}
	}
}
