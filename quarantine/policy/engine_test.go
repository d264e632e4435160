package policy

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/quarantine"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// report is a source's word of some time ago, valid for an hour; facts are "name=value".
func report(source string, verdict quarantine.Verdict, ago time.Duration, facts ...string) quarantine.Report {
	r := quarantine.Report{Source: source, Verdict: verdict, At: noon.Add(-ago), Received: noon.Add(-ago), Validity: time.Hour, Facts: map[string]string{}}
	for _, f := range facts {
		name, value, _ := strings.Cut(f, "=")
		r.Facts[name] = value
	}
	return r
}

// of are the facts of a device with these reports, and one assigned set of these rules.
func of(rules []quarantine.PolicyRule, reports ...quarantine.Report) quarantine.Facts {
	f := quarantine.Facts{
		Now:    noon,
		Record: quarantine.Record{Device: quarantine.Device{ID: "d", Name: "laptop", Owner: "ann", Stage: quarantine.Quarantined}, Ownership: "corporate", Platform: "linux", Profile: "staff", Groups: []string{"lab"}, Reports: map[string]quarantine.Report{}},
		Sources: map[string]quarantine.Source{
			"mdm":     {Name: "mdm", MayRelease: true, MaxValidity: 24 * time.Hour, Facts: []string{"*"}},
			"second":  {Name: "second", MayRelease: true, MaxValidity: 24 * time.Hour, Facts: []string{"*"}},
			"scanner": {Name: "scanner", MaxValidity: 24 * time.Hour, Facts: []string{"os.*", "disk.*", "screen.*", "custom.*", "tpm.*"}},
		},
		Profile: quarantine.Profile{Name: "staff", Groups: []string{"people"}},
		Sets:    map[string]quarantine.PolicySet{},
	}
	for _, r := range reports {
		f.Record.Reports[r.Source] = r
	}
	if rules != nil {
		f.Sets["set"] = quarantine.PolicySet{Name: "set", Version: 7, Assigned: true, Rules: rules}
	}
	return f
}

func one(expression string) []quarantine.PolicyRule {
	return []quarantine.PolicyRule{{Name: "rule", Text: "it must", Remedy: "do it", Expression: expression}}
}

// TestRules is a table, worked out by hand, of rules over the word of a management system
// (releasing, 10 minutes old, good for an hour) and of whoever else spoke.
func TestRules(t *testing.T) {
	mdm := func(facts ...string) quarantine.Report {
		return report("mdm", quarantine.Compliant, 10*time.Minute, facts...)
	}
	agent := func(facts ...string) quarantine.Report { return report("agent", "", 5*time.Minute, facts...) }
	scanner := func(facts ...string) quarantine.Report { return report("scanner", "", 20*time.Minute, facts...) }
	const yes, no, open, fault = "holds", "broken", "unclear", "fault"
	all := func(r ...quarantine.Report) []quarantine.Report { return r }
	for _, c := range []struct {
		expression string
		reports    []quarantine.Report
		want       string
		fact, by   string
	}{
		// Each type, and the order of versions.
		{`disk.encrypted`, all(mdm("disk.encrypted=true")), yes, "disk.encrypted", "mdm"},
		{`disk.encrypted`, all(mdm("disk.encrypted=false")), no, "disk.encrypted", "mdm"},
		{`os.version >= version("14.2")`, all(mdm("os.version=14.10")), yes, "os.version", "mdm"},
		{`os.version >= version("14.2")`, all(mdm("os.version=14.1.9")), no, "os.version", "mdm"},
		{`version("14.2") <= os.version && os.version < version("15")`, all(mdm("os.version=14.2.0")), yes, "os.version", "mdm"},
		{`os.version == version("14.2")`, all(mdm("os.version=14.2.0")), yes, "os.version", "mdm"},
		{`os.updates_pending == 0`, all(mdm("os.updates_pending=3")), no, "os.updates_pending", "mdm"},
		{`screen.lock_after <= duration("15m")`, all(mdm("screen.lock_after=15m0s")), yes, "screen.lock_after", "mdm"},
		{`screen.lock_after <= duration("15m")`, all(mdm("screen.lock_after=15m1s")), no, "screen.lock_after", "mdm"},
		{`age(os.patched_at) < duration("24h")`, all(mdm("os.patched_at=2026-11-21T13:00:00+01:00")), no, "os.patched_at", "mdm"},
		{`age(os.patched_at) <= duration("24h")`, all(mdm("os.patched_at=2026-11-21T13:00:00+01:00")), yes, "os.patched_at", "mdm"},
		{`os.patched_at > timestamp("2026-11-01T00:00:00Z")`, all(mdm("os.patched_at=2026-11-21T00:00:00Z")), yes, "os.patched_at", "mdm"},
		{`os.name in ["linux", "macos"]`, all(mdm("os.name=windows")), no, "os.name", "mdm"},
		{`device.model.matches("^Mac1[45],")`, all(mdm("device.model=Mac15,3")), yes, "device.model", "mdm"},
		{`custom("team") == "blue"`, all(mdm("custom.team=blue")), yes, "custom.team", "mdm"},
		{`fleet_policy("disk-space") == "pass"`, all(mdm("fleet.policy.disk-space=fail")), no, "fleet.policy.disk-space", "mdm"},
		// What is on record.
		{`device.ownership == "corporate" && device.owner == "ann"`, all(mdm()), yes, "device.owner", ""},
		{`"lab" in device.groups && "people" in device.groups`, all(mdm()), yes, "device.groups", ""},
		{`device.groups.exists(g, g == "vip")`, all(mdm()), no, "device.groups", ""},
		{`device.name == "laptop"`, all(mdm("device.name=other")), yes, "device.name", ""},
		// Missing, unreadable, and what || and && make of it.
		{`disk.encrypted`, all(mdm()), open, "disk.encrypted", ""},
		{`disk.encrypted`, all(mdm("disk.encrypted=yes")), open, "disk.encrypted", "mdm"},
		{`disk.encrypted`, all(mdm("disk.encrypted=")), open, "disk.encrypted", "mdm"},
		{`os.version > version("1")`, all(mdm("os.version=Ventura")), open, "os.version", "mdm"},
		{`os.updates_pending < 1`, all(mdm("os.updates_pending=1e3")), open, "os.updates_pending", "mdm"},
		{`screen.lock_after < duration("1h")`, all(mdm("screen.lock_after=-5m")), open, "screen.lock_after", "mdm"},
		{`os.name != "x"`, all(mdm("os.name=")), open, "os.name", "mdm"},
		{`screen.lock || true`, all(mdm()), yes, "screen.lock", ""},
		{`screen.lock || disk.encrypted`, all(mdm("disk.encrypted=true")), yes, "disk.encrypted", "mdm"},
		{`screen.lock || disk.encrypted`, all(mdm("disk.encrypted=false")), open, "screen.lock", ""},
		{`screen.lock && disk.encrypted`, all(mdm("disk.encrypted=false")), no, "disk.encrypted", "mdm"},
		{`screen.lock && disk.encrypted`, all(mdm("disk.encrypted=true")), open, "screen.lock", ""},
		{`screen.lock ? true : true`, all(mdm()), open, "screen.lock", ""},
		{`!screen.lock`, all(mdm()), open, "screen.lock", ""},
		// known() is the one way to ask whether something is there.
		{`known(screen.lock)`, all(mdm()), open, "screen.lock", ""},
		{`known(os.version) && os.version > version("1")`, all(mdm()), open, "os.version", ""},
		{`known(os.version) && os.version > version("1")`, all(mdm("os.version=x")), open, "os.version", "mdm"},
		{`!known(custom("x")) || custom("x") == "y"`, all(mdm()), yes, "custom.x", ""},
		{`!known(custom("x")) || custom("x") == "y"`, all(mdm("custom.x=z")), no, "custom.x", "mdm"},
		{`!known(os.version) || os.version > version("1")`, all(mdm("os.version=x")), yes, "os.version", "mdm"},
		// Who is believed.
		{`disk.encrypted`, all(mdm("disk.encrypted=true"), agent("disk.encrypted=false")), no, "disk.encrypted", "agent"},
		{`disk.encrypted`, all(mdm("disk.encrypted=false"), agent("disk.encrypted=true")), no, "disk.encrypted", "mdm"},
		{`disk.encrypted`, all(mdm("disk.encrypted=true"), agent("disk.encrypted=broken")), open, "disk.encrypted", "agent"},
		{`disk.encrypted`, all(mdm("disk.encrypted=junk"), agent("disk.encrypted=true")), open, "disk.encrypted", "mdm"},
		{`disk.encrypted`, all(mdm(), agent("disk.encrypted=true")), yes, "disk.encrypted", "agent"},
		{`disk.encrypted`, all(mdm(), scanner("disk.encrypted=true"), agent("disk.encrypted=false")), no, "disk.encrypted", "agent"},
		{`disk.encrypted`, all(mdm(), scanner("disk.encrypted=false"), agent("disk.encrypted=true")), no, "disk.encrypted", "scanner"},
		{`!known(custom("x")) || custom("x") == "y"`, all(mdm(), agent("custom.x=z")), no, "custom.x", "agent"},
		{`mdm.compliant`, all(mdm(), agent("mdm.compliant=true")), open, "mdm.compliant", ""},
		{`fleet_policy("a") == "pass"`, all(mdm(), agent("fleet.policy.a=pass")), open, "fleet.policy.a", ""},
		{`passcode.set`, all(mdm(), scanner("passcode.set=true")), open, "passcode.set", ""}, // not the scanner's to say
		{`tpm.attested`, all(mdm("tpm.attested=true"), scanner("tpm.attested=true")), open, "tpm.attested", ""},
		{`tpm.attested`, all(mdm(), agent("tpm.attested=true")), yes, "tpm.attested", "agent"},
		{`disk.encrypted`, all(mdm(), report("gone", quarantine.Compliant, time.Minute, "disk.encrypted=true")), open, "disk.encrypted", ""},
		// The later of two sources of the same rank is believed; the other still tightens.
		{`disk.encrypted`, all(mdm("disk.encrypted=true"), report("second", quarantine.Compliant, time.Minute, "disk.encrypted=false")), no, "disk.encrypted", "second"},
		{`disk.encrypted`, all(mdm("disk.encrypted=false"), report("second", quarantine.Compliant, time.Minute, "disk.encrypted=true")), no, "disk.encrypted", "mdm"},
		{`disk.encrypted`, all(report("scanner", "", time.Minute, "disk.encrypted=true"), mdm("disk.encrypted=true"), agent("disk.encrypted=true")), yes, "disk.encrypted", "mdm"},
		{`disk.encrypted`, all(mdm("disk.encrypted=true"), report("second", quarantine.Compliant, time.Minute, "disk.encrypted=true")), yes, "disk.encrypted", "second"},
		// What cannot be evaluated.
		{`os.versoin > version("1")`, all(mdm()), fault, "", ""},
		{`os.version > 3`, all(mdm("os.version=14")), fault, "", ""},
		{`os.version`, all(mdm("os.version=14")), fault, "", ""},
		{`1 / os.updates_pending > 0`, all(mdm("os.updates_pending=0")), fault, "", ""},
		{`dyn(os.build) > 3`, all(mdm("os.build=x")), fault, "", ""},
		{`version(custom("v")) > version("1")`, all(mdm("custom.v=x")), fault, "", ""},
		{``, all(mdm()), fault, "", ""},
		{`disk.encrypted`, all(report("mdm", quarantine.Compliant, 2*time.Hour, "disk.encrypted=true")), open, "disk.encrypted", ""},
	} {
		t.Run(c.expression, func(t *testing.T) {
			e := New(Config{})
			f := of(one(c.expression), c.reports...)
			v := new(view)
			v.reset(wordsOf(f), &f.Record, quarantine.GroupsOf(f.Record, f.Profile))
			o := e.rules(f.Sets["set"])[0].outcome(v, noon)
			got := map[result]string{holds: yes, broken: no, unclear: open, faulty: fault}[o.result]
			by := ""
			if o.result != faulty && o.on.word != nobody {
				by = v.words[o.on.word].name
			}
			if got != c.want || c.want != fault && (o.on.fact.Name != c.fact || by != c.by) {
				t.Errorf("%s (%s) by %q of %q; want %s by %q of %q", got, o.fault, by, o.on.fact.Name, c.want, c.by, c.fact)
			}
			j := e.Judge(f)
			reasons := slices.DeleteFunc(slices.Clone(j.Reasons), func(r quarantine.Reason) bool { return r.Set == "" })
			if len(reasons) != 1 || reasons[0].Rule != "rule" || reasons[0].Version != 7 || reasons[0].Fault != (c.want == fault) || reasons[0].Holds != (c.want == yes) {
				t.Fatalf("reasons %+v", j.Reasons)
			}
			live := quarantine.PlainPolicy{}.Judge(f).Release
			if j.Release != (c.want == yes && live) || j.Clear != (c.want != no && c.want != fault) || (len(j.Failing) > 0) != (c.want != yes) || j.Demand != "" {
				t.Errorf("judged %+v", j)
			}
		})
	}
}

// What no assigned set selects is judged as without sets; in strict mode it is not released.
func TestWhichSetsApply(t *testing.T) {
	good := report("mdm", quarantine.Compliant, time.Minute, "disk.encrypted=true")
	e := New(Config{})
	for _, f := range []quarantine.Facts{of(nil, good), of(nil, report("mdm", quarantine.NonCompliant, time.Minute)), of(nil)} {
		if d := cmp.Diff(quarantine.PlainPolicy{}.Judge(f), e.Judge(f)); d != "" {
			t.Error(d)
		}
	}
	bad := one(`!disk.encrypted`)
	for name, c := range map[string]struct {
		change  func(*quarantine.PolicySet)
		selects bool
	}{
		"draft":           {func(s *quarantine.PolicySet) { s.Assigned = false }, false},
		"all":             {func(*quarantine.PolicySet) {}, true},
		"ownership":       {func(s *quarantine.PolicySet) { s.For.Ownerships = []string{"corporate"} }, true},
		"other ownership": {func(s *quarantine.PolicySet) { s.For.Ownerships = []string{"personal"} }, false},
		"platform":        {func(s *quarantine.PolicySet) { s.For.Platforms = []string{"macos", "linux"} }, true},
		"other platform":  {func(s *quarantine.PolicySet) { s.For.Platforms = []string{"macos"} }, false},
		"own group":       {func(s *quarantine.PolicySet) { s.For.Groups = []string{"lab"} }, true},
		"profile's group": {func(s *quarantine.PolicySet) { s.For.Groups = []string{"x", "people"} }, true},
		"other group":     {func(s *quarantine.PolicySet) { s.For.Groups = []string{"x"} }, false},
		"one of two": {func(s *quarantine.PolicySet) {
			s.For = quarantine.Selection{Groups: []string{"lab"}, Profiles: []string{"x"}}
		}, false},
	} {
		f := of(bad, good)
		s := f.Sets["set"]
		c.change(&s)
		f.Sets["set"] = s
		if j := e.Judge(f); j.Release == c.selects {
			t.Errorf("%s: released %v", name, j.Release)
		}
		f.Conduct.Strict = true
		if j := e.Judge(f); j.Release || j.Clear {
			t.Errorf("%s, strict: %+v", name, j)
		}
		s.Rules = one(`disk.encrypted`)
		f.Sets["set"] = s
		if j := e.Judge(f); j.Release || j.Clear || j.Reasons[0].Rule != RuleStrict {
			t.Errorf("%s, strict and every rule holds: %+v", name, j)
		}
		s.STIG = true
		f.Sets["set"] = s
		if j := e.Judge(f); j.Release != c.selects {
			t.Errorf("%s, strict and marked: released %v: %+v", name, j.Release, j.Reasons)
		}
	}
	// Every rule of every set.
	f := of(one(`disk.encrypted`), good)
	f.Sets["other"] = quarantine.PolicySet{Name: "other", Assigned: true, Rules: bad}
	if j := e.Judge(f); j.Release || !slices.Equal(j.Failing, []string{"other/rule"}) {
		t.Errorf("two sets, one fails: %+v", j)
	}
}

// The device's own word releases it where every set that selects it says so, and only then.
func TestAgentReleases(t *testing.T) {
	e := New(Config{})
	agent := func(v quarantine.Verdict, facts ...string) quarantine.Report {
		return report("agent", v, 5*time.Minute, facts...)
	}
	ask := func(own bool, reports ...quarantine.Report) quarantine.Judgement {
		f := of(one(`disk.encrypted`), reports...)
		s := f.Sets["set"]
		s.AgentReleases = own
		f.Sets["set"] = s
		return e.Judge(f)
	}
	for _, v := range []quarantine.Verdict{quarantine.Compliant, ""} {
		j := ask(true, agent(v, "disk.encrypted=true"))
		if !j.Release || !j.Until.Equal(noon.Add(55*time.Minute)) {
			t.Errorf("agent says %q: %+v", v, j)
		}
		if r := j.Reasons[0]; r.Rule != quarantine.RuleReport || !r.Holds || r.Source != "agent" {
			t.Errorf("first reason %+v", r)
		}
		if j := ask(false, agent(v, "disk.encrypted=true")); j.Release {
			t.Errorf("agent says %q, and the set does not take its word: released", v)
		}
	}
	for what, j := range map[string]quarantine.Judgement{
		"a rule fails":           ask(true, agent("", "disk.encrypted=false")),
		"it says noncompliant":   ask(true, agent(quarantine.NonCompliant, "disk.encrypted=true")),
		"another says so":        ask(true, agent("", "disk.encrypted=true"), report("scanner", quarantine.NonCompliant, time.Minute)),
		"its report is over":     ask(true, report("agent", "", 2*time.Hour, "disk.encrypted=true")),
		"another tells the fact": ask(true, report("scanner", "", time.Minute, "disk.encrypted=true")),
	} {
		if j.Release {
			t.Errorf("%s: released", what)
		}
	}
	f := of(one(`disk.encrypted`), agent("", "disk.encrypted=true"))
	s := f.Sets["set"]
	s.AgentReleases = true
	f.Sets["set"] = s
	f.Sets["other"] = quarantine.PolicySet{Name: "other", Assigned: true, Rules: one(`true`)}
	if j := e.Judge(f); j.Release {
		t.Error("one of two sets takes its word: released")
	}
	delete(f.Sets, "other")
	for what, rules := range map[string][]quarantine.PolicyRule{
		"no rules": nil, "only a rule that reports": {{Name: "r", Expression: "disk.encrypted", OnFailure: quarantine.FailReport}},
	} {
		s.Rules = rules
		f.Sets["set"] = s
		if j := e.Judge(f); j.Release {
			t.Errorf("a set with %s takes its word: released", what)
		}
	}
}

// A fact counts for as long as its report, and its rule's check_every, say.
func TestLifeOfFacts(t *testing.T) {
	e := New(Config{})
	rules := one(`disk.encrypted`)
	mdm := report("mdm", quarantine.Compliant, 10*time.Minute, "disk.encrypted=true")
	j := e.Judge(of(rules, mdm))
	if !j.Release || !j.Until.Equal(noon.Add(50*time.Minute)) {
		t.Errorf("%+v", j)
	}
	rules[0].CheckEvery = 30 * time.Minute
	if j = e.Judge(of(rules, mdm)); !j.Until.Equal(noon.Add(20*time.Minute)) || !j.Again.Equal(j.Until) {
		t.Errorf("checked every half hour: %+v", j)
	}
	// Another source that says the same keeps it known.
	agent := report("agent", "", time.Minute, "disk.encrypted=true")
	if j = e.Judge(of(rules, mdm, agent)); !j.Until.Equal(noon.Add(29 * time.Minute)) {
		t.Errorf("with the agent's word: until %s", j.Until)
	}
	// A better source's word of long ago still cannot be made better, nor does it order a block.
	rules[0].CheckEvery, rules[0].OnFailure = 5*time.Minute, quarantine.FailBlock
	mdm.Facts["disk.encrypted"] = "false"
	j = e.Judge(of(rules, mdm, agent))
	if j.Release || j.Demand != "" || !j.Clear {
		t.Errorf("the better source's old word is bad: %+v", j)
	}
	if text := j.Reasons[0].Text; !strings.Contains(text, "older than 5m0s") {
		t.Errorf("told %q", text)
	}
	// A source that comes to matter later is heard then.
	short := report("mdm", quarantine.Compliant, 10*time.Minute, "disk.encrypted=true")
	short.Validity = 30 * time.Minute
	second, scanner := report("second", quarantine.Compliant, 10*time.Minute, "screen.lock=true"), report("scanner", "", 10*time.Minute, "screen.lock=false")
	if j = e.Judge(of(one(`disk.encrypted || screen.lock`), short, second)); !j.Until.Equal(noon.Add(50 * time.Minute)) {
		t.Errorf("one fact takes the other's place: until %s", j.Until)
	}
	if j = e.Judge(of(one(`disk.encrypted || screen.lock`), short, second, scanner)); !j.Until.Equal(noon.Add(20*time.Minute)) || !j.Release {
		t.Errorf("and a third source denies it: %+v", j)
	}
	// A source whose scope was narrowed since is not heard any more.
	f := of(one(`disk.encrypted`), report("mdm", quarantine.Compliant, 10*time.Minute), report("scanner", "", time.Minute, "disk.encrypted=true"))
	for platform, want := range map[string]bool{"linux": true, "macos": false} {
		f.Sources["scanner"] = quarantine.Source{Name: "scanner", Facts: []string{"*"}, For: quarantine.Selection{Platforms: []string{platform}}}
		if j = e.Judge(f); j.Release != want {
			t.Errorf("a source for %s: released %v", platform, j.Release)
		}
	}
	// A report dated ahead of its arrival gains nothing.
	ahead := report("mdm", quarantine.Compliant, -2*time.Minute, "disk.encrypted=true")
	ahead.Received = noon
	if j = e.Judge(of(one(`disk.encrypted`), ahead)); !j.Until.Equal(noon.Add(time.Hour)) {
		t.Errorf("dated ahead: until %s", j.Until)
	}
	// An age turns out otherwise by itself.
	old := report("mdm", quarantine.Compliant, 10*time.Minute, "os.patched_at=2026-11-22T00:30:00Z")
	j = e.Judge(of(one(`age(os.patched_at) < duration("12h")`), old))
	if !j.Release || !j.Until.Equal(noon.Add(30*time.Minute)) {
		t.Errorf("patched 11h30 ago: %+v", j)
	}
	j = e.Judge(of(one(`age(os.patched_at) <= duration("11h30m")`), old))
	if !j.Release || !j.Until.Equal(noon.Add(1)) {
		t.Errorf("patched 11h30 ago, at that very instant: %+v", j)
	}
	j = e.Judge(of(one(`age(os.patched_at) > duration("12h")`), old))
	if j.Release || !j.Again.Equal(noon.Add(30*time.Minute)) {
		t.Errorf("too fresh: %+v", j)
	}
}

func TestActions(t *testing.T) {
	e := New(Config{})
	bad := report("mdm", quarantine.Compliant, 10*time.Minute, "disk.encrypted=false")
	ask := func(a quarantine.FailureAction, expression string, r quarantine.Report) quarantine.Judgement {
		rules := one(expression)
		rules[0].OnFailure = a
		return e.Judge(of(rules, r))
	}
	for a, want := range map[quarantine.FailureAction]quarantine.FailureAction{
		"": "", quarantine.FailQuarantine: "", "explode": "", quarantine.FailBlock: quarantine.FailBlock, quarantine.FailWipe: quarantine.FailWipe,
	} {
		j := ask(a, `disk.encrypted`, bad)
		if j.Release || j.Clear || j.Demand != want || !slices.Equal(j.Failing, []string{"set/rule"}) {
			t.Errorf("%q: %+v", a, j)
		}
		r := j.Reasons[0]
		if r.Set != "set" || r.Rule != "rule" || r.Version != 7 || r.Fact != "disk.encrypted" || r.Source != "mdm" || !r.At.Equal(bad.At) || r.Remedy != "do it" ||
			r.Text != `it must: disk.encrypted is "false", as mdm reported at 2026-11-22 11:50:00 UTC` {
			t.Errorf("%q: told %+v", a, r)
		}
		// What is not known, or is the policy's fault, orders nothing; a fault speaks against a
		// device all the same.
		for expression, clear := range map[string]bool{`screen.lock`: true, `known(screen.lock)`: true, `1/0 == 1`: false, `nonsense`: false} {
			if j := ask(a, expression, bad); j.Release || j.Demand != "" || j.Clear != clear {
				t.Errorf("%q on %s: %+v", a, expression, j)
			}
		}
	}
	if j := ask(quarantine.FailReport, `disk.encrypted`, bad); !j.Release || !j.Clear || len(j.Failing) != 1 {
		t.Errorf("only told: %+v", j)
	}
	rules := append(one(`disk.encrypted`), quarantine.PolicyRule{Name: "wipe", Expression: `disk.encrypted`, OnFailure: quarantine.FailWipe})
	rules[0].OnFailure = quarantine.FailBlock
	if j := e.Judge(of(rules, bad)); j.Demand != quarantine.FailWipe || j.Reasons[0].Rule != "wipe" {
		t.Errorf("block and wipe: %+v", j)
	}
}

func TestGraceAndWaivers(t *testing.T) {
	e := New(Config{})
	rules := one(`disk.encrypted`)
	rules[0].Grace, rules[0].OnFailure = 40*time.Minute, quarantine.FailBlock
	bad := report("mdm", quarantine.Compliant, 10*time.Minute, "disk.encrypted=false")
	routed := of(rules, bad)
	routed.Record.Stage = quarantine.Routed
	if j := e.Judge(of(rules, bad)); j.Release || j.Demand != quarantine.FailBlock {
		t.Errorf("a quarantined device has no grace: %+v", j)
	}
	j := e.Judge(routed)
	if !j.Release || !j.Clear || j.Demand != "" || !j.Until.Equal(noon.Add(40*time.Minute)) || !j.Again.Equal(j.Until) || len(j.Failing) != 1 {
		t.Errorf("grace from now: %+v", j)
	}
	routed.Record.Failing = map[string]time.Time{"set/rule": noon.Add(-30 * time.Minute)}
	if j = e.Judge(routed); !j.Until.Equal(noon.Add(10*time.Minute)) || !strings.Contains(j.Reasons[len(j.Reasons)-1].Text, "does not count until 2026-11-22 12:10:00 UTC") {
		t.Errorf("grace since half an hour: %+v", j)
	}
	routed.Record.Failing["set/rule"] = noon.Add(-40 * time.Minute)
	if j = e.Judge(routed); j.Release || j.Demand != quarantine.FailBlock {
		t.Errorf("grace is over: %+v", j)
	}
	routed.Record.Failing["set/rule"] = noon.Add(time.Hour) // nobody's clock does that
	if j = e.Judge(routed); j.Until.After(noon.Add(40 * time.Minute)) {
		t.Errorf("failing since later: %+v", j)
	}
	// Grace begins where a fact ends, so that nothing is cut in between.
	rules[0].CheckEvery = 20 * time.Minute
	good := of(rules, report("mdm", quarantine.Compliant, 10*time.Minute, "disk.encrypted=true"))
	good.Record.Stage = quarantine.Routed
	if j = e.Judge(good); !j.Until.Equal(noon.Add(50*time.Minute)) || !j.Again.Equal(noon.Add(10*time.Minute)) {
		t.Errorf("a fact that ends: %+v", j)
	}

	rules[0].CheckEvery = 0
	waived := of(rules, bad)
	waive := func(until time.Duration) quarantine.Judgement {
		waived.Record.Waivers = map[string]quarantine.Waiver{"set/rule": {Decision: quarantine.Decision{By: quarantine.Actor{Kind: "administrator", Name: "eve"}, At: noon.Add(-time.Hour)}, Until: noon.Add(until)}}
		return e.Judge(waived)
	}
	j = waive(20 * time.Minute)
	if !j.Release || !j.Clear || j.Demand != "" || !j.Until.Equal(noon.Add(20*time.Minute)) || !j.Again.Equal(j.Until) || len(j.Failing) != 1 {
		t.Errorf("waived: %+v", j)
	}
	if text := j.Reasons[len(j.Reasons)-1].Text; !strings.Contains(text, "administrator eve waived it") {
		t.Errorf("told %q", text)
	}
	if j = waive(2 * time.Hour); !j.Until.Equal(noon.Add(50 * time.Minute)) {
		t.Errorf("waived for longer than the release: until %s", j.Until)
	}
	if j = waive(0); j.Release || j.Demand != quarantine.FailBlock {
		t.Errorf("waiver is over: %+v", j)
	}
}

// Of many devices and sets at once, also ones of the same name, each is judged by its own.
func TestConcurrentJudging(t *testing.T) {
	e := New(Config{Kept: 3})
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() {
			expression := []string{`disk.encrypted`, `!disk.encrypted`, `screen.lock`, `nonsense`}[n%4]
			f := of(one(expression), report("mdm", quarantine.Compliant, time.Minute, "disk.encrypted=true"))
			for range 300 {
				if j := e.Judge(f); j.Release != (n%4 == 0) {
					t.Errorf("%s: released %v", expression, j.Release)
				}
			}
		})
	}
	group.Wait()
}
