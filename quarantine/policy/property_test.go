package policy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lazaret/quarantine"
)

// expressions that hold or not by what is known; none asks whether something is missing.
var expressions = []string{
	`disk.encrypted`, `!device.tampered`, `disk.encrypted && screen.lock`, `disk.encrypted || screen.lock`, `os.version >= version("14.2")`,
	`os.version < version("15")`, `age(os.patched_at) < duration("3h")`, `age(os.patched_at) >= duration("70m")`, `screen.lock ? disk.encrypted : device.tampered`,
	`custom("x") == "y" || disk.encrypted`, `custom("x") in ["y", "z"]`, `known(os.version) && disk.encrypted`, `device.groups.all(g, g != custom("x"))`,
	`age(os.patched_at) < duration("2h") || os.version > version("14") && screen.lock`, `true`, `dyn(custom("x")) > 3`, `age(os.patched_at) <= duration("150m")`, `age(os.patched_at) > duration("1h")`,
}

// values that a fact may have; some are none of its type.
var factValues = map[string][]string{
	"disk.encrypted": {"true", "false", "maybe"}, "device.tampered": {"true", "false", ""}, "screen.lock": {"true", "false"},
	"os.version": {"13.9", "14.2", "15", "x"}, "custom.x": {"y", "lab", ""},
	"os.patched_at": {"2026-11-22T11:00:00Z", "2026-11-22T10:45:00Z", "2026-11-22T09:30:00Z", "2026-11-22T14:00:00Z", "yesterday"},
}

func drawFacts(t *rapid.T, sources ...string) quarantine.Facts {
	var reports []quarantine.Report
	for _, name := range sources {
		if !rapid.Bool().Draw(t, name) {
			continue
		}
		ago := time.Duration(rapid.IntRange(-2, 80).Draw(t, "ago")) * time.Minute
		r := report(name, rapid.SampledFrom([]quarantine.Verdict{quarantine.Compliant, quarantine.Compliant, quarantine.Compliant, "", quarantine.NonCompliant}).Draw(t, "verdict"), ago)
		if ago < 0 {
			r.Received = noon // dated ahead of its arrival
		}
		r.Validity = time.Duration(rapid.IntRange(1, 100).Draw(t, "validity")) * time.Minute
		for _, f := range rapid.SliceOfDistinct(rapid.SampledFrom(keys(factValues)), rapid.ID).Draw(t, "facts") {
			r.Facts[f] = rapid.SampledFrom(factValues[f]).Draw(t, f)
		}
		reports = append(reports, r)
	}
	var rules []quarantine.PolicyRule
	for i, x := range rapid.SliceOfN(rapid.SampledFrom(expressions), 1, 3).Draw(t, "rules") {
		rules = append(rules, quarantine.PolicyRule{Name: fmt.Sprint("r", i), Expression: x,
			CheckEvery: time.Duration(rapid.SampledFrom([]int{0, 0, 15, 40}).Draw(t, "every")) * time.Minute,
			OnFailure:  rapid.SampledFrom([]quarantine.FailureAction{"", quarantine.FailQuarantine, quarantine.FailBlock, quarantine.FailWipe, quarantine.FailReport}).Draw(t, "action")})
	}
	f := of(rules, reports...)
	s := f.Sets["set"]
	s.AgentReleases = rapid.Bool().Draw(t, "own word")
	f.Sets["set"] = s
	return f
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

var engine = New(Config{})

// The same facts give the same judgement, from this engine and from another.
func TestJudgementIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t, "mdm", "second", "scanner", "agent")
		first := engine.Judge(f)
		for _, e := range []*Engine{engine, New(Config{})} {
			if d := cmp.Diff(first, e.Judge(f)); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// Until and Again are exact: with no other facts, the device is released at every instant
// before Until and not at Until, and nothing changes before Again.
func TestTimeAloneChangesNothingUnforeseen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t, "mdm", "second", "scanner", "agent")
		j := engine.Judge(f)
		end := j.Again
		if end.IsZero() {
			end = noon.Add(300 * time.Minute)
		}
		if j.Release && (!j.Until.After(noon) || j.Again.IsZero() || j.Again.After(j.Until)) {
			t.Fatalf("released until %s, again at %s", j.Until, j.Again)
		}
		between := f
		between.Now = noon.Add(time.Duration(rapid.Int64Range(0, int64(end.Sub(noon))-1).Draw(t, "later")))
		k := engine.Judge(between)
		if k.Release != j.Release || k.Clear != j.Clear || k.Demand != j.Demand || !slices.Equal(k.Failing, j.Failing) || !k.Until.Equal(j.Until) {
			t.Fatalf("at %s %+v, and at %s, before %s, %+v", f.Now, j, between.Now, end, k)
		}
		if !j.Release {
			return
		}
		within := f
		within.Now = noon.Add(time.Duration(rapid.Int64Range(0, int64(j.Until.Sub(noon))-1).Draw(t, "within")))
		if k := engine.Judge(within); !k.Release || !k.Until.Equal(j.Until) {
			t.Fatalf("at %s released until %s; at %s released %v until %s", f.Now, j.Until, within.Now, k.Release, k.Until)
		}
		within.Now = j.Until
		if k := engine.Judge(within); k.Release {
			t.Fatalf("released until %s, and then still until %s", j.Until, k.Until)
		}
	})
}

// A rule that asks for all its facts holds no longer than each of them lasts.
func TestReleaseEndsWithItsFacts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t, "mdm")
		s := f.Sets["set"]
		s.Rules = []quarantine.PolicyRule{{Name: "r", Expression: `disk.encrypted && !device.tampered`, CheckEvery: s.Rules[0].CheckEvery}}
		f.Sets["set"] = s
		j := engine.Judge(f)
		r := f.Record.Reports["mdm"]
		life := r.Validity
		if s.Rules[0].CheckEvery > 0 {
			life = min(life, s.Rules[0].CheckEvery)
		}
		if j.Release && j.Until.After(r.At.Add(life)) {
			t.Fatalf("a fact of %s, which counts for %s, releases until %s", r.At, life, j.Until)
		}
	})
}

// The agent's word alone releases nobody whose sets do not take it, and its word on facts
// that a better source tells never releases.
func TestAgentsWordReleasesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		with := drawFacts(t, "mdm", "second", "scanner", "agent")
		s := with.Sets["set"]
		s.AgentReleases = false
		with.Sets["set"] = s
		without := with
		without.Record.Reports = map[string]quarantine.Report{}
		better := true
		for name, r := range with.Record.Reports {
			if name != quarantine.AgentSource {
				without.Record.Reports[name] = r
			}
		}
		told := without.Record.Reports["mdm"]
		for name := range with.Record.Reports[quarantine.AgentSource].Facts {
			_, ok := told.Facts[name]
			better = better && ok
		}
		for _, r := range s.Rules {
			better = better && (r.CheckEvery == 0 || told.At.Add(r.CheckEvery).After(noon))
		}
		from, until := quarantine.Life(told, with.Sources["mdm"])
		better = better && !noon.Before(from) && noon.Before(until)
		releasing := quarantine.PlainPolicy{}.Judge(without).Release
		before, after := engine.Judge(without), engine.Judge(with)
		if after.Release && (!releasing || better && !before.Release) {
			t.Fatalf("the agent's word releases: %+v", after.Reasons)
		}
	})
}

// What a source without the right to release says of facts that a better one tells can only
// tighten, whatever it says.
func TestOthersOnlyTighten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		without := drawFacts(t, "mdm")
		told, ok := without.Record.Reports["mdm"]
		if !ok {
			return
		}
		for i := range without.Sets["set"].Rules {
			without.Sets["set"].Rules[i].CheckEvery = 0
		}
		with := without
		with.Record.Reports = map[string]quarantine.Report{"mdm": told}
		other := report("scanner", "", 3*time.Minute)
		for _, name := range keys(told.Facts) {
			if rapid.Bool().Draw(t, name) {
				other.Facts[name] = rapid.SampledFrom(factValues[name]).Draw(t, "its "+name)
			}
		}
		with.Record.Reports["scanner"] = other
		before, after := engine.Judge(without), engine.Judge(with)
		if after.Release && (!before.Release || after.Until.After(before.Until)) {
			t.Fatalf("before %+v, after %+v", before, after)
		}
		if before.Demand != "" && after.Demand == "" {
			t.Fatalf("the order %q is gone", before.Demand)
		}
	})
}

// A fact that nobody tells any more releases nobody, and orders nothing that was not ordered.
func TestMissingFactReleasesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		with := drawFacts(t, "mdm", "second", "scanner", "agent")
		gone := rapid.SampledFrom(keys(factValues)).Draw(t, "gone")
		without := with
		without.Record.Reports = map[string]quarantine.Report{}
		for name, r := range with.Record.Reports {
			facts := map[string]string{}
			for k, v := range r.Facts {
				if k != gone {
					facts[k] = v
				}
			}
			r.Facts = facts
			without.Record.Reports[name] = r
		}
		before, after := engine.Judge(with), engine.Judge(without)
		if after.Release && (!before.Release || after.Until.After(before.Until)) {
			t.Fatalf("without %s %+v, with it %+v", gone, after, before)
		}
		if after.Demand != "" && before.Demand == "" {
			t.Fatalf("without %s it orders %s", gone, after.Demand)
		}
	})
}

// Versions are in one order: of three, if none is after the next, the first is not after the
// last; and what is the same is the same both ways.
func TestVersionsAreOrdered(t *testing.T) {
	draw := rapid.StringMatching(`v?[0-2]{1,2}(\.[0-2]){0,3}([-~+.]?(rc|beta|a|x)?[0-2]{0,2}){0,2}`)
	rapid.Check(t, func(t *rapid.T) {
		var all []Number
		for _, s := range rapid.SliceOfN(draw, 3, 3).Draw(t, "versions") {
			n, err := ParseVersion(s)
			if err != nil {
				return
			}
			all = append(all, n)
		}
		a, b, c := all[0], all[1], all[2]
		if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 || a.Compare(b) != -b.Compare(a) || a.Compare(a) != 0 {
			t.Fatal(all)
		}
	})
}
