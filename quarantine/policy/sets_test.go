package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/policy/sets"
)

// plainlyGood is a device that every ready-made set releases; the bad values are facts one by
// one that each has to refuse, by the rule named.
var plainlyGood = map[string]string{
	"disk.encrypted": "true", "screen.lock": "true", "screen.lock_after": "10m0s", "firewall.enabled": "true", "os.patched_at": "2026-11-20T00:00:00Z",
	"device.tampered": "false", "agent.version": "1.0", "device.model": "Mac15,3", "profile.installed": "true",
}

var plainlyBad = map[string]map[string]map[string]string{ // set, fact, value, rule
	"baseline": {
		"disk.encrypted": {"false": "disk"}, "screen.lock": {"false": "screen"}, "screen.lock_after": {"15m1s": "screen", "0": ""}, "firewall.enabled": {"false": "firewall"},
		"os.patched_at": {"2026-10-08T12:00:00Z": "patched", "2026-10-08T12:00:01Z": ""}, "device.tampered": {"true": "untampered"},
	},
	"stig": {
		"disk.encrypted": {"false": "disk"}, "screen.lock": {"false": "screen"}, "screen.lock_after": {"15m1s": "screen", "15m": ""}, "agent.version": {"0.0.9": "agent"},
		"device.tampered": {"true": "tampering"}, "device.jailbroken": {"true": "tampering", "false": ""}, "device.model": {"Mac15,30": "model"}, "profile.installed": {"false": "profile"},
	},
}

func readyMade(t *testing.T, name string) quarantine.PolicySet {
	text, ok := sets.Text(name)
	if !ok {
		t.Fatalf("no set %s", name)
	}
	d, faults := ParseText([]byte(text))
	if err := faults.Err(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if d.SaysAssigned || d.Set.Name != name {
		t.Errorf("%s: named %q, says whether it is assigned: %v", name, d.Set.Name, d.SaysAssigned)
	}
	return d.Set
}

// TestReadyMadeSets holds each ready-made set to a device that is plainly good and to the
// same with one fact bad or missing.
func TestReadyMadeSets(t *testing.T) {
	if names := sets.Names(); !slices.Equal(names, []string{"baseline", "stig"}) {
		t.Fatalf("sets %v", names)
	}
	e := New(Config{})
	for _, name := range sets.Names() {
		set := readyMade(t, name)
		set.Assigned = true
		judge := func(facts map[string]string) quarantine.Judgement {
			r := report("mdm", quarantine.Compliant, 10*time.Minute)
			r.Facts = facts
			f := of(nil, r)
			f.Sets[name] = set
			f.Conduct.Strict = set.STIG
			return e.Judge(f)
		}
		if j := judge(plainlyGood); !j.Release || len(j.Failing) > 0 {
			t.Errorf("%s: a good device: %+v", name, j)
		}
		for fact, values := range plainlyBad[name] {
			for value, rule := range values {
				facts := maps.Clone(plainlyGood)
				facts[fact] = value
				j := judge(facts)
				if j.Release != (rule == "") {
					t.Errorf("%s: %s=%s: released %v", name, fact, value, j.Release)
				}
				if rule != "" && (j.Reasons[0].Rule != rule || j.Reasons[0].Fact != fact || j.Reasons[0].Set != name || j.Clear || j.Reasons[0].Remedy == "") {
					t.Errorf("%s: %s=%s: %+v, want rule %s", name, fact, value, j.Reasons[0], rule)
				}
			}
			facts := maps.Clone(plainlyGood)
			delete(facts, fact)
			if j := judge(facts); j.Release != (fact == "device.jailbroken") || !j.Clear || j.Demand != "" {
				t.Errorf("%s: without %s: %+v", name, fact, j)
			}
		}
		again, faults := ParseText([]byte(Format(set)))
		if err := faults.Err(); err != nil || !slices.Equal(again.Set.Rules, set.Rules) || again.Set.Text != set.Text || !again.Set.Assigned || again.Set.STIG != set.STIG {
			t.Errorf("%s, written and read again: %v, %v", name, err, again)
		}
	}
}

// TestSTIG takes each check out of the ready-made set, and makes each too lax, one by one.
func TestSTIG(t *testing.T) {
	good := readyMade(t, "stig")
	if err := CheckSTIG(good).Err(); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, change func(*quarantine.PolicySet), want string) {
		t.Helper()
		s := good
		s.Rules = slices.Clone(good.Rules)
		change(&s)
		if err := Check(s).Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: said %v, want %q", what, err, want)
		}
	}
	checks := map[string]string{"model": "hardware model", "agent": "agent's version", "tampering": "jailbreak or tampering", "profile": "management profile", "disk": "disk encryption", "screen": "screen lock"}
	for i, r := range good.Rules {
		refused("without "+r.Name, func(s *quarantine.PolicySet) { s.Rules = slices.Delete(s.Rules, i, i+1) }, checks[r.Name])
		for what, change := range map[string]func(*quarantine.PolicyRule){
			"check_every":  func(r *quarantine.PolicyRule) { r.CheckEvery = 0 },
			"check_every ": func(r *quarantine.PolicyRule) { r.CheckEvery = STIGEvery + time.Minute },
			"grace":        func(r *quarantine.PolicyRule) { r.Grace = STIGGrace + time.Minute },
			"on_failure":   func(r *quarantine.PolicyRule) { r.OnFailure = quarantine.FailReport },
		} {
			refused(r.Name+": "+what, func(s *quarantine.PolicySet) { change(&s.Rules[i]) }, strings.TrimSpace(what)+" must be")
		}
		// A way round it: another fact, a group, a fact that is simply left out.
		for _, way := range []string{` || custom("exempt") == "yes"`, ` || "vip" in device.groups`, ` || device.ownership == "personal"`, ` || !known(` + Asks(r.Expression)[0] + `)`, ` || known(os.name)`, ` || true`} {
			refused(r.Name+way, func(s *quarantine.PolicySet) { s.Rules[i].Expression = "(" + r.Expression + ")" + way }, "no rule checks")
		}
	}
	refused("its own word", func(s *quarantine.PolicySet) { s.AgentReleases = true }, "own word")
	refused("20 minutes", func(s *quarantine.PolicySet) {
		s.Rules[5].Expression = `screen.lock && screen.lock_after <= duration("20m")`
	}, "time until the screen locks")
	refused("a list of bad models", func(s *quarantine.PolicySet) { s.Rules[0].Expression = `device.model != "Old 1"` }, "hardware model")

	// It may be stricter, split up, and longer.
	s := good
	s.Rules = append(slices.Clone(good.Rules), quarantine.PolicyRule{Name: "more", Expression: `firewall.enabled`, OnFailure: quarantine.FailReport})
	s.Rules[5].Expression = `screen.lock`
	s.Rules = append(s.Rules, quarantine.PolicyRule{Name: "soon", Expression: `screen.lock_after < duration("5m")`, CheckEvery: time.Hour})
	s.Rules[2].Expression = `!device.jailbroken`
	if err := Check(s).Err(); err != nil {
		t.Error(err)
	}
}
