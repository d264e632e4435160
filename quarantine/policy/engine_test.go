package policy

import (
	"testing"
	"time"

	"lazaret/quarantine"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestSmoke(t *testing.T) {
	e := New(Config{})
	f := quarantine.Facts{Now: noon, Record: quarantine.Record{Reports: map[string]quarantine.Report{
		"mdm":   {Source: "mdm", Verdict: quarantine.Compliant, At: noon.Add(-10 * time.Minute), Validity: time.Hour, Facts: map[string]string{"os.version": "14.2", "disk.encrypted": "true", "os.patched_at": "2026-11-20T00:00:00Z"}},
		"agent": {Source: "agent", At: noon.Add(-5 * time.Minute), Validity: time.Hour, Facts: map[string]string{"os.version": "14.1"}},
	}}, Sources: map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true, Facts: []string{"*"}}}}
	for _, x := range []string{`os.version >= version("14.1")`, `os.version >= version("14.2")`, `disk.encrypted && screen.lock`, `age(os.patched_at) < duration("60h20m")`, `custom("x") == "y" || true`,
		`known(os.version)`, `known(custom("x"))`, `!known(screen.lock)`, `"a" in device.groups`, `1/0 == 1`, `dyn(os.build) > 3`, `dyn(os.version) > 3`, `os.versoin > 3`, `screen.lock || disk.encrypted`, `os.version.matches("x")`, `has(os.version)`, `device.groups.exists(g, g == "x") ? true : disk.encrypted`,
		`screen.lock ? true : true`, `os.name in ["a", "b"]`} {
		f.Sets = map[string]quarantine.PolicySet{"s": {Name: "s", Assigned: true, Rules: []quarantine.PolicyRule{{Name: "r", Expression: x, Text: "T"}}}}
		j := e.Judge(f)
		t.Log(x, "=>", j.Release, j.Until.Sub(noon), j.Again.Sub(noon), j.Failing)
		for _, r := range j.Reasons {
			if r.Set != "" {
				t.Log("      ", r.Text, r.Source, r.Fact, r.Fault)
			}
		}
	}
}
