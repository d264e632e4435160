package policy

import (
	"testing"
	"time"

	"lazaret/quarantine"
)

// benchFacts are a device with a management system and an agent, and a set of twelve rules.
func benchFacts() quarantine.Facts {
	facts := map[string]string{"os.name": "macos", "os.version": "14.2", "disk.encrypted": "true", "os.patched_at": "2026-11-20T00:00:00Z",
		"screen.lock": "true", "screen.lock_after": "10m0s", "firewall.enabled": "true", "boot.secure": "true", "agent.version": "1.2.3",
		"device.model": "Mac14,7", "device.jailbroken": "false", "device.tampered": "false"}
	set := quarantine.PolicySet{Name: "s", Version: 3, Assigned: true}
	for _, x := range []string{
		`os.version >= version("14.1")`, `os.name == "macos"`, `disk.encrypted`, `age(os.patched_at) < duration("720h")`, `screen.lock`,
		`screen.lock_after <= duration("15m")`, `firewall.enabled`, `boot.secure`, `agent.version >= version("1.2")`,
		`device.model in ["Mac14,7", "Mac15,3"]`, `!device.jailbroken`, `!device.tampered`,
	} {
		set.Rules = append(set.Rules, quarantine.PolicyRule{Name: x[:2], Text: "it must be so", Expression: x})
	}
	return quarantine.Facts{Now: noon, Record: quarantine.Record{Reports: map[string]quarantine.Report{
		"mdm":   {Source: "mdm", Verdict: quarantine.Compliant, At: noon.Add(-10 * time.Minute), Validity: time.Hour, Facts: facts},
		"agent": {Source: "agent", At: noon.Add(-5 * time.Minute), Validity: time.Hour, Facts: facts},
	}}, Sources: map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true, Facts: []string{"*"}}},
		Sets: map[string]quarantine.PolicySet{"s": set}}
}

func BenchmarkJudge(b *testing.B) {
	e, f := New(Config{}), benchFacts()
	if j := e.Judge(f); !j.Release {
		b.Fatal(j.Reasons)
	}
	b.ReportAllocs()
	for b.Loop() {
		e.Judge(f)
	}
	b.ReportMetric(float64(12*b.N)/b.Elapsed().Seconds(), "rules/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}
