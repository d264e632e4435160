package quarantine_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
	"lazaret/quarantine/tunnel"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// factsOf are those of a device that mdm released at noon for an hour.
func factsOf(profile string) quarantine.Facts {
	s := settings()
	for name, mark := range map[string]firewall.Mark{"full": 1, "other": 2} {
		p := s.Pools[name]
		p.Mark = mark
		s.Pools[name] = p
	}
	r := enrolled(1, profile, noon)
	r.Reports = map[string]quarantine.Report{"mdm": {Device: "d1", Source: "mdm", Verdict: quarantine.Compliant, At: noon, Received: noon, Validity: time.Hour}}
	return quarantine.Facts{Now: noon, Record: r, Profile: s.Profiles[profile], Pools: s.Pools, Sources: s.Sources, Policy: quarantine.PlainPolicy{}}
}

func TestPlace(t *testing.T) {
	by := quarantine.Decision{By: admin, At: noon, Why: "found it in a taxi"}
	report := func(source string, v quarantine.Verdict, at time.Time, validity time.Duration) func(*quarantine.Facts) {
		return func(f *quarantine.Facts) {
			f.Record.Reports[source] = quarantine.Report{Device: "d1", Source: source, Verdict: v, At: at, Received: noon, Validity: validity}
		}
	}
	none := func(f *quarantine.Facts) { f.Record.Reports = nil }
	at := func(now time.Time) func(*quarantine.Facts) { return func(f *quarantine.Facts) { f.Now = now } }
	skip := func(f *quarantine.Facts) {
		f.Record.Profile, f.Profile = "skip", settings().Profiles["skip"]
	}
	both := func(all ...func(*quarantine.Facts)) func(*quarantine.Facts) {
		return func(f *quarantine.Facts) {
			for _, one := range all {
				one(f)
			}
		}
	}
	hour, day := noon.Add(time.Hour), noon.Add(90*24*time.Hour)
	for _, c := range []struct {
		name   string
		change func(*quarantine.Facts)
		stage  quarantine.Stage
		until  time.Time
		rule   string // of the first reason
		text   string // in the first reason
	}{
		{"released", func(*quarantine.Facts) {}, quarantine.Routed, hour, "release.report", "mdm reported compliant at 2026-03-01 12:00:00 UTC, valid until 2026-03-01 13:00:00 UTC"},
		{"no report", none, quarantine.Quarantined, time.Time{}, "release", "nobody has reported on it yet: it waits for mdm"},
		{"no report, two that may release", both(none, func(f *quarantine.Facts) { f.Sources["fleet"] = quarantine.Source{Name: "fleet", MayRelease: true} }), quarantine.Quarantined, time.Time{}, "release", "it waits for fleet or mdm"},
		{"no report, and none that may release", both(none, func(f *quarantine.Facts) {
			f.Sources = map[string]quarantine.Source{"agent": {Name: "agent", MayRelease: true}}
		}), quarantine.Quarantined, time.Time{}, "release", "and no source has the right to release"},
		{"bad report", report("mdm", quarantine.NonCompliant, noon, time.Hour), quarantine.Quarantined, time.Time{}, "release.report", "mdm reported not compliant at 2026-03-01 12:00:00 UTC, which stands until 2026-03-01 13:00:00 UTC"},
		{"unknown report", report("mdm", "", noon, time.Hour), quarantine.Quarantined, time.Time{}, "release", "no source with the right"},
		{"odd verdict", report("mdm", "COMPLIANT", noon, time.Hour), quarantine.Quarantined, time.Time{}, "release", "no source with the right"},
		{"report without right", both(none, func(f *quarantine.Facts) { f.Record.Reports = map[string]quarantine.Report{} }, report("scan", quarantine.Compliant, noon, time.Hour)), quarantine.Quarantined, time.Time{}, "release", "no source with the right"},
		{"report of an unknown source", func(f *quarantine.Facts) { f.Sources = nil }, quarantine.Quarantined, time.Time{}, "release", "no source with the right"},
		{"bad report of another source", report("scan", quarantine.NonCompliant, noon, 0), quarantine.Quarantined, time.Time{}, "release.report", "scan reported not compliant"},
		{"bad report of the agent", report("agent", quarantine.NonCompliant, noon, 0), quarantine.Quarantined, time.Time{}, "release.report", "agent reported not compliant"},
		{"bad report of the agent, over", report("agent", quarantine.NonCompliant, noon.Add(-time.Hour), 0), quarantine.Routed, hour, "release.report", "mdm reported compliant"},
		{"bad report dated ahead", report("scan", quarantine.NonCompliant, noon.Add(time.Minute), 0), quarantine.Quarantined, time.Time{}, "release.report", "scan reported not compliant"},
		{"last second", at(hour.Add(-time.Nanosecond)), quarantine.Routed, hour, "release.report", "mdm"},
		{"lease over", at(hour), quarantine.Quarantined, time.Time{}, "release.report", "mdm's report of 2026-03-01 12:00:00 UTC ran out at 2026-03-01 13:00:00 UTC"},
		{"lease over, and the right too", both(at(hour), func(f *quarantine.Facts) { f.Sources = nil }), quarantine.Quarantined, time.Time{}, "release", "no source with the right"},
		{"lease over, and a later unknown report", both(at(hour.Add(time.Hour)), report("scan", "", hour, time.Hour)), quarantine.Quarantined, time.Time{}, "release.report", "mdm's report of 2026-03-01 12:00:00 UTC ran out"},
		{"clock before the report", at(noon.Add(-time.Second)), quarantine.Quarantined, time.Time{}, "release", "no source"},
		{"validity capped by the source", report("mdm", quarantine.Compliant, noon, 100*time.Hour), quarantine.Routed, noon.Add(2 * time.Hour), "release.report", "mdm"},
		{"default validity", report("mdm", quarantine.Compliant, noon, 0), quarantine.Routed, hour, "release.report", "mdm"},
		{"source's clock ahead", both(report("mdm", quarantine.Compliant, noon.Add(time.Minute), time.Hour)), quarantine.Routed, hour, "release.report", "mdm"},
		{"certificate ends first", func(f *quarantine.Facts) { f.Record.Certificate.NotAfter = noon.Add(time.Minute) }, quarantine.Routed, noon.Add(time.Minute), "release.report", "mdm"},
		{"certificate over", func(f *quarantine.Facts) { f.Record.Certificate.NotAfter = noon }, quarantine.Quarantined, time.Time{}, "certificate", "ran out at 2026-03-01 12:00:00 UTC"},
		{"certificate not yet", func(f *quarantine.Facts) { f.Record.Certificate.NotBefore = noon.Add(1) }, quarantine.Quarantined, time.Time{}, "certificate", "not valid before"},
		{"no certificate", func(f *quarantine.Facts) { f.Record.Certificate = quarantine.Certificate{} }, quarantine.Quarantined, time.Time{}, "certificate", "no certificate"},
		{"unproven", func(f *quarantine.Facts) { f.Record.Proven = false }, quarantine.Quarantined, time.Time{}, "proof", "has not shown"},
		{"held", func(f *quarantine.Facts) { f.Record.Hold = by }, quarantine.Quarantined, time.Time{}, "hold", "held in quarantine by administrator root at 2026-03-01 12:00:00 UTC: found it in a taxi"},
		{"blocked", func(f *quarantine.Facts) { f.Record.Block = by }, quarantine.Blocked, time.Time{}, "block", "blocked by administrator root"},
		{"revoked", func(f *quarantine.Facts) { f.Record.Revocation = by }, quarantine.Revoked, time.Time{}, "revocation", "revoked by administrator root"},
		{"revoked and blocked", func(f *quarantine.Facts) { f.Record.Revocation, f.Record.Block = by, by }, quarantine.Revoked, time.Time{}, "revocation", "revoked"},
		{"waits for approval", func(f *quarantine.Facts) { f.Profile.NeedApproval = true }, quarantine.Pending, time.Time{}, "approval", "waits for approval"},
		{"approved", func(f *quarantine.Facts) { f.Profile.NeedApproval, f.Record.Approval = true, by }, quarantine.Routed, hour, "release.report", "mdm"},
		{"unknown profile", func(f *quarantine.Facts) { f.Profile = quarantine.Profile{} }, quarantine.Pending, time.Time{}, "approval", "not known"},
		{"unknown profile, approved", func(f *quarantine.Facts) { f.Profile, f.Record.Approval = quarantine.Profile{}, by }, quarantine.Quarantined, time.Time{}, "profile", "not known"},
		{"another's profile", func(f *quarantine.Facts) { f.Record.Profile = "elsewhere" }, quarantine.Pending, time.Time{}, "approval", "not known"},
		{"unknown pool", func(f *quarantine.Facts) { f.Profile.Pool = "nowhere" }, quarantine.Quarantined, time.Time{}, "pool", "does not exist"},
		{"released into quarantine", func(f *quarantine.Facts) { f.Profile.Pool = "quarantine" }, quarantine.Quarantined, time.Time{}, "pool", "quarantine pool"},
		{"pool without mark", func(f *quarantine.Facts) {
			f.Pools["full"] = quarantine.Pool{Name: "full", IPv4: netip.MustParsePrefix("10.2.0.0/16")}
		}, quarantine.Quarantined, time.Time{}, "pool", "no mark"},
		{"pool too small", func(f *quarantine.Facts) { f.Record.Seat = 65534 }, quarantine.Quarantined, time.Time{}, "pool", "no address for seat 65534"},
		{"no policy", func(f *quarantine.Facts) { f.Policy = nil }, quarantine.Quarantined, time.Time{}, "policy", "no policy"},
		{"no time", at(time.Time{}), "", time.Time{}, "facts", "time"},
		{"no seat", func(f *quarantine.Facts) { f.Record.Seat = 0 }, "", time.Time{}, "facts", "seat"},
		{"no key", func(f *quarantine.Facts) { f.Record.Key = tunnel.Key{} }, "", time.Time{}, "facts", "key"},
		{"no quarantine pool", func(f *quarantine.Facts) { delete(f.Pools, "quarantine") }, "", time.Time{}, "facts", "quarantine pool"},
		{"two quarantine pools", func(f *quarantine.Facts) { f.Pools["q2"] = quarantine.Pool{Name: "q2", Quarantine: true} }, "", time.Time{}, "facts", "quarantine pool"},
		{"nothing", func(f *quarantine.Facts) { *f = quarantine.Facts{} }, "", time.Time{}, "facts", ""},
		{"skips quarantine", both(none, skip), quarantine.Routed, day, "release.profile", "skips quarantine"},
		{"skips quarantine, held", both(none, skip, func(f *quarantine.Facts) { f.Record.Hold = by }), quarantine.Quarantined, time.Time{}, "hold", "held"},
		{"skips quarantine, unproven", both(none, skip, func(f *quarantine.Facts) { f.Record.Proven = false }), quarantine.Quarantined, time.Time{}, "proof", "has not shown"},
		{"skips quarantine, bad report", both(skip, report("mdm", quarantine.NonCompliant, noon, 0)), quarantine.Quarantined, time.Time{}, "release.report", "not compliant"},
		{"skips quarantine, certificate over", both(none, skip, func(f *quarantine.Facts) { f.Record.Certificate.NotAfter = noon }), quarantine.Quarantined, time.Time{}, "certificate", "ran out"},
		{"skips quarantine, no policy", both(none, skip, func(f *quarantine.Facts) { f.Policy = nil }), quarantine.Quarantined, time.Time{}, "policy", "no policy"},
	} {
		f := factsOf("staff")
		c.change(&f)
		p := quarantine.Place(f)
		pool := "quarantine"
		switch {
		case c.stage == quarantine.Routed:
			pool = f.Profile.Pool
		case c.stage == "":
			pool = p.Pool // says nothing
		}
		if p.Stage != c.stage || !p.Until.Equal(c.until) || p.Pool != pool {
			t.Errorf("%s: %q in %q until %s, want %q in %q until %s", c.name, p.Stage, p.Pool, p.Until, c.stage, pool, c.until)
		}
		if len(p.Reasons) == 0 || p.Reasons[0].Rule != c.rule || !strings.Contains(p.Reasons[0].Text, c.text) || p.Reasons[0].Holds != (c.stage == quarantine.Routed) {
			t.Errorf("%s: reasons %+v, want first %s with %q", c.name, p.Reasons, c.rule, c.text)
		}
		if again := quarantine.Place(f); !cmp.Equal(p, again) {
			t.Errorf("%s: the same facts placed twice differ: %s", c.name, cmp.Diff(p, again))
		}
		if !p.Again.IsZero() && !p.Again.After(f.Now) || p.Stage == quarantine.Routed && (p.Again.IsZero() || p.Again.After(p.Until)) {
			t.Errorf("%s: to be looked at again at %s, until %s", c.name, p.Again, p.Until)
		}
	}
}

// tyrant answers every question with the same judgement.
type tyrant quarantine.Judgement

func (j tyrant) Judge(quarantine.Facts) quarantine.Judgement { return quarantine.Judgement(j) }

func TestPlaceHoldsPolicies(t *testing.T) {
	for _, c := range []struct {
		name  string
		j     tyrant
		stage quarantine.Stage
		until time.Time
	}{
		{"nothing", tyrant{}, quarantine.Quarantined, time.Time{}},
		{"release for ever", tyrant{Release: true}, quarantine.Quarantined, time.Time{}},
		{"release in the past", tyrant{Release: true, Until: noon}, quarantine.Quarantined, time.Time{}},
		{"release beyond the certificate", tyrant{Release: true, Until: noon.Add(1e6 * time.Hour)}, quarantine.Routed, noon.Add(90 * 24 * time.Hour)},
		{"an end without release", tyrant{Until: noon.Add(time.Hour), Clear: true}, quarantine.Quarantined, time.Time{}},
	} {
		f := factsOf("staff")
		f.Policy = c.j
		if p := quarantine.Place(f); p.Stage != c.stage || !p.Until.Equal(c.until) {
			t.Errorf("%s: %s until %s, want %s until %s", c.name, p.Stage, p.Until, c.stage, c.until)
		}
	}
	f := factsOf("skip")
	f.Policy = tyrant{}
	if p := quarantine.Place(f); p.Stage != quarantine.Quarantined {
		t.Errorf("a policy's zero answer lets a profile skip quarantine: %+v", p)
	}
}

// Time alone changes no placement before Again.
func TestPlaceAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := factsOf(rapid.SampledFrom([]string{"staff", "skip", "approved"}).Draw(t, "profile"))
		minutes := func(label string) time.Duration {
			return time.Duration(rapid.IntRange(-200, 200).Draw(t, label)) * time.Minute
		}
		f.Record.Certificate.NotBefore = noon.Add(minutes("not before"))
		f.Record.Certificate.NotAfter = noon.Add(minutes("not after"))
		for _, source := range []string{"mdm", "scan", "agent"} {
			f.Record.Reports[source] = quarantine.Report{Device: "d1", Source: source,
				Verdict: rapid.SampledFrom([]quarantine.Verdict{quarantine.Compliant, quarantine.NonCompliant, ""}).Draw(t, "verdict"),
				At:      noon.Add(minutes("at")), Validity: minutes("validity").Abs()}
		}
		f.Now = noon.Add(minutes("now"))
		now := quarantine.Place(f)
		later := f
		later.Now = f.Now.Add(time.Duration(rapid.Int64Range(0, int64(1000*time.Minute)).Draw(t, "later")))
		if !now.Again.IsZero() && !later.Now.Before(now.Again) {
			later.Now = now.Again.Add(-1)
		}
		then := quarantine.Place(later)
		if then.Stage != now.Stage || then.Pool != now.Pool || !then.Until.Equal(now.Until) {
			t.Fatalf("at %s %s until %s, and at %s, before %s, %s until %s", f.Now, now.Stage, now.Until, later.Now, now.Again, then.Stage, then.Until)
		}
	})
}

func TestEntryFor(t *testing.T) {
	now := quarantine.Instant{Wall: noon, Boot: 1e12}
	q4, q6 := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")
	f4, f6 := netip.MustParseAddr("10.2.0.2"), netip.MustParseAddr("fd00:2::2")
	for _, c := range []struct {
		name                string
		profile             string
		change              func(*quarantine.Facts, *quarantine.Placement)
		quarantined, routed []netip.Addr
		until               firewall.Deadline
		fails               bool
	}{
		{name: "routed", quarantined: []netip.Addr{q4, q6}, routed: []netip.Addr{f4, f6}, until: 1e12 + 3600e9},
		{name: "fixed", profile: "fixed", quarantined: []netip.Addr{q4, q6}, routed: []netip.Addr{q4, q6}, until: 1e12 + 3600e9},
		{name: "one family", profile: "skip", change: func(f *quarantine.Facts, p *quarantine.Placement) { p.Until = noon.Add(time.Minute) },
			quarantined: []netip.Addr{q4, q6}, routed: []netip.Addr{netip.MustParseAddr("10.3.0.2")}, until: 1e12 + 60e9},
		{name: "fixed, one family", profile: "skip", change: func(f *quarantine.Facts, p *quarantine.Placement) {
			f.Profile.Addressing, p.Until = quarantine.Fixed, noon.Add(time.Minute)
		}, quarantined: []netip.Addr{q4, q6}, routed: []netip.Addr{q4}, until: 1e12 + 60e9},
		{name: "a second left", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Until = noon.Add(time.Second) },
			quarantined: []netip.Addr{q4, q6}, routed: []netip.Addr{f4, f6}, until: 1e12 + 1e9},
		{name: "less than a second left", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Until = noon.Add(time.Second - 1) },
			quarantined: []netip.Addr{q4, q6}},
		{name: "no end", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Until = time.Time{} }, quarantined: []netip.Addr{q4, q6}},
		{name: "pending", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Stage = quarantine.Pending }},
		{name: "blocked", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Stage = quarantine.Blocked }},
		{name: "revoked", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Stage = quarantine.Revoked }},
		{name: "no stage", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Stage = "" }},
		{name: "odd stage", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Stage = "ROUTED" }},
		{name: "odd addressing", change: func(f *quarantine.Facts, _ *quarantine.Placement) { f.Profile.Addressing = "x" }, quarantined: []netip.Addr{q4, q6}, fails: true},
		{name: "routed into quarantine", change: func(_ *quarantine.Facts, p *quarantine.Placement) { p.Pool = "quarantine" }, quarantined: []netip.Addr{q4, q6}},
		{name: "no seat", change: func(f *quarantine.Facts, _ *quarantine.Placement) { f.Record.Seat = 0 }, fails: true},
	} {
		profile := c.profile
		if profile == "" {
			profile = "staff"
		}
		f := factsOf(profile)
		f.Record.Revision, f.Record.Tighten = 7, 3
		p := quarantine.Place(f)
		if p.Stage != quarantine.Routed {
			t.Fatalf("%s: not routed to begin with: %+v", c.name, p)
		}
		if c.change != nil {
			c.change(&f, &p)
		}
		want := quarantine.Entry{Device: "d1", Revision: 7, Tighten: 3, Quarantined: c.quarantined, Routed: c.routed, Until: c.until}
		if c.quarantined != nil {
			want.Key = keyOf(1)
		}
		if c.routed != nil {
			want.Mark = f.Pools[p.Pool].Mark
		}
		got, err := quarantine.EntryFor(f, p, now)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || (err != nil) != c.fails {
			t.Errorf("%s: error %v (-want +got):\n%s", c.name, err, diff)
		}
	}
}

func TestMeet(t *testing.T) {
	placement := rapid.Custom(func(t *rapid.T) quarantine.Placement {
		p := quarantine.Placement{Stage: rapid.SampledFrom([]quarantine.Stage{"", quarantine.Pending, quarantine.Quarantined, quarantine.Routed, quarantine.Blocked, quarantine.Revoked}).Draw(t, "stage"), Pool: "quarantine"}
		if p.Stage == quarantine.Routed {
			p.Pool = rapid.SampledFrom([]string{"full", "other"}).Draw(t, "pool")
			p.Until = noon.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "until")) * time.Minute)
		}
		return p
	})
	// allows is what a placement lets pass, told without the code under test.
	allows := func(p quarantine.Placement) (peer bool, pool string, until time.Time) {
		if p.Stage == quarantine.Routed {
			return true, p.Pool, p.Until
		}
		return p.Stage == quarantine.Quarantined, "", time.Time{}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := placement.Draw(t, "a"), placement.Draw(t, "b")
		peer, pool, until := allows(a.Meet(b, "quarantine"))
		for _, one := range []quarantine.Placement{a, b} {
			p, q, u := allows(one)
			if peer && !p || pool != "" && (pool != q || until.After(u)) {
				t.Fatalf("%+v and %+v meet in %+v", a, b, a.Meet(b, "quarantine"))
			}
		}
		p1, q1, _ := allows(a)
		p2, q2, _ := allows(b)
		if peer != (p1 && p2) || (pool != "") != (q1 != "" && q1 == q2) {
			t.Fatalf("%+v and %+v meet in %+v, which is too little", a, b, a.Meet(b, "quarantine"))
		}
	})
}

func TestSettle(t *testing.T) {
	f := factsOf("staff")
	r := f.Record.Settle(quarantine.Place(f), noon)
	if r.Stage != quarantine.Routed || r.Pool != "full" || !r.Since.Equal(noon) || !r.Until.Equal(noon.Add(time.Hour)) || r.Reason != r.Reasons[0].Text {
		t.Errorf("settled as %+v", r)
	}
	again := r.Settle(quarantine.Place(f), noon.Add(time.Minute))
	if !again.Since.Equal(noon) {
		t.Errorf("settling where it stands moved Since to %s", again.Since)
	}
	r.Revocation = quarantine.Decision{By: admin, At: noon}
	if again = r.Settle(quarantine.Place(factsOf("staff")), noon); again.Stage != quarantine.Revoked || !again.Until.IsZero() {
		t.Errorf("a revoked device settled as %s", again.Stage)
	}
}

func TestRecordJSON(t *testing.T) {
	m := storetest.NewMemory() // it stores through JSON
	want := storetest.Sample(3)
	got := m.Put(want)
	want.Revision = got.Revision
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a full record through JSON (-want +got):\n%s", diff)
	}
	got = m.Put(quarantine.Record{})
	if diff := cmp.Diff(quarantine.Record{Revision: got.Revision}, got); diff != "" {
		t.Errorf("an empty record through JSON (-want +got):\n%s", diff)
	}
}
