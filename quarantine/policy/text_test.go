package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lazaret/quarantine"
)

// Faults in a text stand where an editor shows them.
func TestFaultsHavePlaces(t *testing.T) {
	for text, want := range map[string][]string{
		"name = \"x\"\n[[rule]]\nname = \"a\"\nexpression = 'os.versoin > 3'\n[[rule]]\nname = \"b\"\ncheck_every = \"1s\"\nexpression = '''\ntrue &&\n  now\n'''\n": {
			"line 4, column 17: rule a: expression: undeclared reference to 'os.versoin'", "line 7, column 1: rule b: check_every: is 1s", "line 10, column 3: rule b: expression: undeclared reference to 'now'"},
		"name = \"x\"\n[[rule]]\nname = \"a\"\n":     {"line 2, column 3: rule a: expression: is missing"},
		"name = \"x\"\nfoo = 3\n[[rule]]\nbar = 2\n": {"line 2, column 1: foo: there is no such key", "line 4, column 1: rule.bar: there is no such key"},
		"name = 3\n":                       {"line 1, column 8: cannot decode TOML integer"},
		"[[rule]]\ncheck_every = \"3x\"\n": {`line 2, column 15: "3x" is no time`},
		"[[rule]]\ngrace = \"-3h\"\n":      {`line 2, column 9: "-3h" is no time`},
		"name = \"x\nassigned":             {"line 1, column "},
		"name = \"x\"\nstig = true\n[[rule]]\nname=\"a\"\nexpression=\"\"\"disk.encrypted &&\n  true\"\"\"\n": {"line 2, column 1: stig: no rule checks the hardware model"},
		strings.Repeat("#", MaxText+1): {"the text takes"},
	} {
		_, faults := ParseText([]byte(text))
		said := ""
		if err := faults.Err(); err != nil {
			said = err.Error()
		}
		for _, w := range want {
			if !strings.Contains(said, w) {
				t.Errorf("%.80q\n said %s\n want %s", text, said, w)
			}
		}
	}
}

func TestSpans(t *testing.T) {
	for text, want := range map[string]time.Duration{"0d": 0, "30d": 720 * time.Hour, "36h": 36 * time.Hour, "15m": 15 * time.Minute, "1h30m": 90 * time.Minute} {
		d, err := ParseSpan(text)
		if err != nil || d != want {
			t.Errorf("%s: %s, %v", text, d, err)
		}
		if again, err := ParseSpan(FormatSpan(d)); err != nil || again != d {
			t.Errorf("%s, written %s: %s, %v", text, FormatSpan(d), again, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "99999d", "15", "-3h", "soon"} {
		if d, err := ParseSpan(text); err == nil {
			t.Errorf("%q is read as %s", text, d)
		}
	}
}

// What Format writes, ParseText reads, whatever the texts hold.
func TestTextFormIsLossless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "'", `"`, `\`, "a\nb", "\n", "''\n'", "\x00", "\r\n", "it's \"so\"\\"}))
		list := rapid.SliceOfN(text, 0, 2)
		s := quarantine.PolicySet{Name: text.Draw(t, "name"), Text: text.Draw(t, "text"), Assigned: rapid.Bool().Draw(t, "assigned"),
			For: quarantine.Selection{Platforms: list.Draw(t, "platforms"), Groups: list.Draw(t, "groups")}}
		for range rapid.IntRange(0, 2).Draw(t, "rules") {
			s.Rules = append(s.Rules, quarantine.PolicyRule{Name: text.Draw(t, "rule"), Expression: text.Draw(t, "expression"), Remedy: text.Draw(t, "remedy"),
				Grace: time.Duration(rapid.IntRange(0, 1<<40).Draw(t, "grace")), OnFailure: quarantine.FailureAction(text.Draw(t, "action"))})
		}
		d, faults := ParseText([]byte(Format(s)))
		for _, f := range faults {
			if f.Index == -1 && strings.Contains(f.What, "TOML") {
				t.Fatalf("%s\n%s", f, Format(s))
			}
		}
		got := d.Set
		if got.Name != s.Name || got.Text != s.Text || got.Assigned != s.Assigned || !slices.Equal(got.For.Platforms, s.For.Platforms) || !slices.Equal(got.For.Groups, s.For.Groups) || !slices.Equal(got.Rules, s.Rules) {
			t.Fatalf("wrote %+v\nread  %+v\n%s", s, got, Format(s))
		}
	})
}
