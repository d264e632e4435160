package policy

import (
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"lazaret/quarantine"
)

// What a set marked stig is held to.
const (
	// STIGEvery is the longest check_every of a check that must be there. Requirement G7 asks
	// for an interval and names none; a day is ours.
	STIGEvery = 24 * time.Hour
	// STIGGrace is the longest grace of such a check; a day, ours too.
	STIGGrace = 24 * time.Hour
	// STIGScreen is the longest time without input after which a screen must lock: the value
	// that DISA's guides for desktop systems give for NIST SP 800-53 control AC-11.
	STIGScreen = 15 * time.Minute
)

// demand is a check that a set marked stig must make.
type demand struct {
	what  string // what is checked
	facts []badly
	write string // an expression that would do
}

// badly is a fact and a value with which a device must not be released.
type badly struct {
	fact string
	is   ref.Val
}

// demands are the checks of requirement G7 (hardware model, agent version, jailbreak or
// tampering, profile), and encryption and screen lock. One of a demand's alternatives is
// enough; of each, every value must be refused.
var stigDemands = [][]demand{
	{{"the hardware model", []badly{{"device.model", types.String("\x00 no such model")}}, `device.model in ["..."]`}},
	{{"the agent's version", []badly{{"agent.version", &versionValue{}}}, `agent.version >= version("1.0")`}},
	{
		{"jailbreak or tampering", []badly{{"device.jailbroken", types.True}}, `!device.jailbroken`},
		{"tampering", []badly{{"device.tampered", types.True}}, `!device.tampered`},
	},
	{{"the management profile", []badly{{"profile.installed", types.False}}, `profile.installed`}},
	{{"disk encryption", []badly{{"disk.encrypted", types.False}}, `disk.encrypted`}},
	{{"the screen lock", []badly{{"screen.lock", types.False}}, `screen.lock`}},
	{{"the time until the screen locks", []badly{
		{"screen.lock_after", types.Duration{Duration: STIGScreen + time.Second}},
		{"screen.lock_after", types.Duration{Duration: 365 * 24 * time.Hour}},
	}, `screen.lock_after <= duration("15m")`}},
}

// CheckSTIG returns what keeps a set from being one marked stig (G4): checks that it does
// not make. A check is made by a rule that is false for a bad value, and not true where the
// fact is missing, whatever else is known or not known of the device.
func CheckSTIG(s quarantine.PolicySet) Faults {
	var out Faults
	if s.AgentReleases {
		out = append(out, Fault{Index: -1, Field: "agent_releases", What: "a set marked stig cannot take the device's own word for a release", Remedy: "take it out"})
	}
	rules := compile(s).rules
	for _, d := range stigDemands {
		if f, ok := unmet(rules, d); !ok {
			out = append(out, f)
		}
	}
	return out
}

// unmet looks for a rule that makes one of the alternative checks as it must be made.
func unmet(rules []rule, alternatives []demand) (Fault, bool) {
	fault := Fault{Index: -1, Field: "stig", What: "no rule checks " + alternatives[0].what,
		Remedy: "write one with " + alternatives[0].write + ", which other rules and facts cannot make true"}
	for _, d := range alternatives {
		for i := range rules {
			r := &rules[i]
			if r.program == nil || !r.refuses(d.facts) {
				continue
			}
			loose := lax(r)
			if loose == "" {
				return Fault{}, true
			}
			fault = Fault{Index: i, Rule: r.Name, What: fmt.Sprintf("it checks %s, as a set marked stig must, but %s", d.what, loose)}
		}
	}
	return fault, false
}

// lax says what of a rule is too loose for a check that must be made, or nothing.
func lax(r *rule) string {
	var all []string
	if r.CheckEvery <= 0 || r.CheckEvery > STIGEvery {
		all = append(all, fmt.Sprintf("check_every must be set, to %s at most", STIGEvery))
	}
	if r.Grace > STIGGrace {
		all = append(all, fmt.Sprintf("grace must be %s at most", STIGGrace))
	}
	if r.OnFailure == quarantine.FailReport {
		all = append(all, "on_failure must be more than report")
	}
	return strings.Join(all, " and ")
}

// refuses reports whether the rule is false with each of the values, and not true without
// the fact, whatever the others are.
func (r *rule) refuses(bad []badly) bool {
	for _, b := range bad {
		if r.probe(b.fact, b.is) != broken || r.probe(b.fact, nil) == holds {
			return false
		}
	}
	return true
}

// probe evaluates the rule for a device of which one fact is known, or known to be missing,
// and of which nothing else may be assumed.
func (r *rule) probe(fact string, is ref.Val) result {
	v := view{probe: &probe{fact, is}, over: nobody}
	v.begin(time.Time{}, 0, nobody)
	value, _, err := r.program.Eval(&v)
	switch got := value.(type) {
	case types.Bool:
		if err != nil {
			return faulty
		}
		if got {
			return holds
		}
		return broken
	case *types.Unknown:
		return unclear
	default:
		return faulty
	}
}

// probe stands for a device of which one fact alone is known, or known to be missing.
type probe struct {
	fact string
	is   ref.Val // nil: missing
}

func (p *probe) value(name string) ref.Val {
	if name == p.fact {
		return p.is
	}
	return nil
}

// CheckSet is what a store asks before it keeps a set: nil where a set can be evaluated
// and, in strict mode, assigned.
func CheckSet(s quarantine.PolicySet, strict bool) error {
	faults := Check(s)
	if strict && s.Assigned && !s.STIG {
		faults = append(faults, Fault{Index: -1, Field: "stig", What: "the organization is strict, and the set is not marked stig"})
	}
	return faults.Err()
}
