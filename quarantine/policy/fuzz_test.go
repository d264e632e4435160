package policy

import (
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/policy/sets"
)

// FuzzParseText: no text that an administrator may send breaks the parser or the checks, and
// what is found good can be judged by, written, and read again.
func FuzzParseText(f *testing.F) {
	for _, name := range sets.Names() {
		text, _ := sets.Text(name)
		f.Add(text)
	}
	for _, x := range expressions {
		f.Add("name = \"set\"\n[[rule]]\nname = \"rule\"\nexpression = '''\n" + x + "'''\n")
	}
	e := New(Config{})
	f.Fuzz(func(t *testing.T, text string) {
		d, faults := ParseText([]byte(text))
		for _, x := range faults {
			if x.What == "" || x.At.Line < 0 || x.At.Line > strings.Count(text, "\n")+1 {
				t.Errorf("fault %+v", x)
			}
		}
		if len(faults) > 0 {
			return
		}
		facts := of(nil, report("mdm", quarantine.Compliant, time.Minute, "disk.encrypted=true", "os.version=14.2"))
		judged := d.Set
		judged.Assigned, judged.For = true, quarantine.Selection{}
		facts.Sets[d.Set.Name] = judged
		if j := e.Judge(facts); j.Release && !j.Until.After(facts.Now) {
			t.Errorf("judged %+v", j)
		}
		if again, faults := ParseText([]byte(Format(d.Set))); len(faults) > 0 || again.Set.Name != d.Set.Name {
			t.Errorf("written and read again: %v", faults)
		}
	})
}

// FuzzJudge: no fact's text, of any type, and no expression breaks a judgement or releases a
// device that nothing releases.
func FuzzJudge(f *testing.F) {
	for _, x := range expressions {
		f.Add(x, "os.version", "14.2", "disk.encrypted", "true")
		f.Add(x, "os.patched_at", "2026-11-22T11:00:00Z", "custom.x", "y")
	}
	f.Fuzz(func(t *testing.T, expression, name, value, other, text string) {
		e := New(Config{})
		facts := of(one(expression), report("scanner", "", time.Minute, name+"="+value), report("agent", "", time.Minute, other+"="+text))
		if j := e.Judge(facts); j.Release {
			t.Errorf("nothing releases it, but %+v", j)
		}
		facts = of(one(expression), report("mdm", quarantine.Compliant, time.Minute, name+"="+value), report("agent", "", time.Minute, other+"="+text))
		if j := e.Judge(facts); j.Release && (j.Until.After(noon.Add(59*time.Minute)) || !j.Until.After(noon)) {
			t.Errorf("released until %s", j.Until)
		}
	})
}

// FuzzVersion: what is read as a version is the same as itself, whatever it is.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{"14.2", "22.04.3", "10.0.22631.2428", "6.8.0-45-generic", "1.0~rc1", "v1+x", "1.0a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseVersion(s); err == nil && n.Compare(n) != 0 {
			t.Errorf("%q is not itself", s)
		}
	})
}
