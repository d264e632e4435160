package policy

import (
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
)

// TestCheck lists mistakes and what is said of each: at which line and column of the
// expression, and what to write instead.
func TestCheck(t *testing.T) {
	for expression, want := range map[string]string{
		`os.versoin > version("1")`:                  "1:3: undeclared reference to 'os.versoin' (did you mean 'os.version'?)",
		"disk.encrypted &&\n  os.version >= \"14\"":  `2:14: found no matching overload for '_>=_' applied to '(version, string)'; write the version as version("14.2")`,
		`os.patched_at > now`:                        `1:17: undeclared reference to 'now'; write how long ago it was: age(os.patched_at) < duration("720h")`,
		`os.version`:                                 "1:3: the expression is a version, and a rule must be true or false",
		`dyn(true)`:                                  "1:4: the expression is a dyn, and a rule must be true or false",
		`has(os.version)`:                            "1:7: has() is for messages: write known(os.version)",
		`known(os.versoin)`:                          `1:6: there is no fact "os.versoin" (did you mean "os.version"?)`,
		`known("os.version")`:                        "1:7: known() asks for a fact's name",
		`known(device)`:                              `1:6: there is no fact "device"`,
		`custom(os.name) == "x"`:                     "1:10: write the name in quotes",
		`fleet_policy("") == "x"`:                    "1:14: write the name in quotes",
		`os.version > version("Ventura")`:            `1:21: "Ventura" is no version`,
		`screen.lock_after < duration("15 minutes")`: "1:30: invalid duration argument",
		`os.patched_at > timestamp("yesterday")`:     "1:27: invalid timestamp argument",
		`os.name.matches("(")`:                       "1:17: invalid matches argument",
		`os.name.matches("(a{100}){10}")`:            "1:17: ",
		`age(os.patched_at) < age(os.patched_at)`:    "1:20: found no matching overload",
		`disk.encrypted &&`:                          "1:18: Syntax error",
		`disk.encrypted) (`:                          "1:15: Syntax error",
		``:                                           "is missing; write what must hold",
		strings.Repeat("(", 200):                     "expression recursion limit exceeded",
		`true` + strings.Repeat(" ", MaxSource):      "expression code point size exceeds limit",
		strings.Repeat("true && ", 500) + "true":     "node count exceeds limit",
	} {
		faults := Check(quarantine.PolicySet{Name: "set", Rules: []quarantine.PolicyRule{{Name: "rule", Expression: expression}}})
		got := ""
		if len(faults) > 0 {
			got = strings.TrimPrefix(faults[0].String(), "rule rule: expression: ")
		}
		if !strings.Contains(got, want) {
			t.Errorf("%.60s\n said %s\n want %s", expression, got, want)
		}
	}
}

func TestGoodExpressions(t *testing.T) {
	for _, x := range append([]string{`os.version == version("14.2")`, `os.version != version("14.2") && version(custom("x")) < os.version`, `os.name in ["a", "b"]`,
		`device.groups.exists_one(g, g.startsWith("team-"))`, `os.name.matches("^(debian|ubuntu)$") && size(device.groups) < 5`, `fleet_policy("disk") == "pass"`,
		`int(custom("n")) > 3`, `os.patched_at.getFullYear() >= 2026`, `duration("1h") + screen.lock_after < duration("2h")`}, expressions...) {
		if err := Check(quarantine.PolicySet{Name: "set", Rules: one(x)}).Err(); err != nil {
			t.Errorf("%s: %v", x, err)
		}
	}
}

func TestCheckOfTheWholeSet(t *testing.T) {
	good := quarantine.PolicyRule{Name: "rule", Expression: `disk.encrypted`}
	for want, s := range map[string]quarantine.PolicySet{
		"the name must be":          {Name: "Big Set", Rules: []quarantine.PolicyRule{good}},
		"two rules are named":       {Name: "set", Rules: []quarantine.PolicyRule{good, good}},
		"is not report, quarantine": {Name: "set", Rules: []quarantine.PolicyRule{{Name: "rule", Expression: `true`, OnFailure: "explode"}}},
		"check_every: is 1s":        {Name: "set", Rules: []quarantine.PolicyRule{{Name: "rule", Expression: `true`, CheckEvery: time.Second}}},
		"cannot be negative":        {Name: "set", Rules: []quarantine.PolicyRule{{Name: "rule", Expression: `true`, Grace: -time.Second}}},
		"the set has no rules":      {Name: "set", Assigned: true},
		"rules, at most":            {Name: "set", Rules: make([]quarantine.PolicyRule, quarantine.MaxRules+1)},
	} {
		if err := Check(s).Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, said %v", want, err)
		}
	}
	if err := Check(quarantine.PolicySet{Name: "set", Rules: []quarantine.PolicyRule{good}}).Err(); err != nil {
		t.Error(err)
	}
	if err := CheckSet(quarantine.PolicySet{Name: "set", Assigned: true, Rules: []quarantine.PolicyRule{good}}, true); err == nil {
		t.Error("strict, and not marked: accepted")
	}
}

// What is too dear is refused when it is saved, and where it is asked all the same it is the
// policy's fault, not a released device.
func TestCostIsBounded(t *testing.T) {
	dear := `device.groups.exists(a, device.groups.exists(b, (a + b + a + b + a + b).matches("(a|b|c)*x")))`
	faults := Check(quarantine.PolicySet{Name: "set", Rules: one(dear)})
	if len(faults) != 1 || !strings.Contains(faults[0].What, "steps") {
		t.Errorf("said %v", faults)
	}
	f := of(one(dear), report("mdm", quarantine.Compliant, time.Minute))
	for range 60 {
		f.Record.Groups = append(f.Record.Groups, strings.Repeat("ab", 100)+strings.Repeat("c", len(f.Record.Groups)))
	}
	j := New(Config{}).Judge(f)
	if j.Release || !j.Reasons[0].Fault || !strings.Contains(j.Reasons[0].Text, "cost limit") {
		t.Errorf("judged %+v", j)
	}
}

func TestAsks(t *testing.T) {
	got := Asks(`os.version > version("1") && (known(disk.encrypted) || custom("x") == "y") && "a" in device.groups`)
	if want := "custom.x device.groups disk.encrypted os.version"; strings.Join(got, " ") != want {
		t.Errorf("asks %v, want %s", got, want)
	}
}

// The order that versions of real systems stand in.
func TestVersions(t *testing.T) {
	ordered := [][]string{
		{"0", "0.0.0", "v0"}, {"1.0-beta2"}, {"1.0-rc1", "1.0~rc1", "1-RC.1"}, {"1.0-rc2"}, {"1", "1.0", "v1.0.0", "1.0+build7"}, {"1.0a"}, {"5.15.0-91-generic"},
		{"5.15.0-100-generic"}, {"10.0.22631.2428"}, {"10.0.22631.10000"}, {"13.6.1"}, {"13.6.1 (a)"}, {"14.2", "14.2.0"}, {"14.10"}, {"22.04.3", "22.4.3"}, {"22.04.10"},
	}
	parse := func(s string) Number {
		n, err := ParseVersion(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, same := range ordered {
		for _, a := range same {
			for j, others := range ordered {
				for _, b := range others {
					want := map[bool]int{true: 1, false: -1}[i > j]
					if i == j {
						want = 0
					}
					if got := parse(a).Compare(parse(b)); got != want {
						t.Errorf("%s against %s: %d, want %d", a, b, got, want)
					}
				}
			}
		}
	}
	for _, s := range []string{"", " ", "v", "Ventura", ".1", "-1", "1..2\x00", "1.2.3.4.5.6.7.8.9", "99999999999999999999", "1\n2", strings.Repeat("1", 65), "1.é"} {
		if n, err := ParseVersion(s); err == nil {
			t.Errorf("%q is read as %v", s, n)
		}
	}
}
