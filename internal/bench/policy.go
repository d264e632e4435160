package main

import (
	"context"
	"fmt"
	"maps"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/policy"
	"lazaret/quarantine/policy/sets"
)

// measurePolicy measures what judging devices by rules takes: by both ready-made sets
// together, against no set at all, device by device in turns.
func measurePolicy(ctx context.Context, s *session) error {
	devices, rules, err := judged(2000)
	if err != nil {
		return err
	}
	engine := policy.New(policy.Config{})
	var by, plain samples
	for range 15 {
		for _, x := range []struct {
			policy quarantine.Policy
			taken  *samples
		}{{engine, &by}, {quarantine.PlainPolicy{}, &plain}} {
			start := time.Now()
			for _, f := range devices {
				if j := x.policy.Judge(f); !j.Release {
					return fmt.Errorf("judging %s: %+v", f.Record.ID, j.Reasons)
				}
			}
			*x.taken = append(*x.taken, time.Since(start)/time.Duration(len(devices)))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	each := by.least()
	s.add(row{Name: fmt.Sprintf("judging a device by %d rules", rules), Value: millis(each), Unit: "ms", Base: number(millis(plain.least())),
		Ratio: number(float64(each) / float64(max(plain.least(), 1))), ComparedWith: "judging it by its reports alone"})
	s.add(row{Name: "evaluations of rules", Value: float64(rules) * float64(time.Second) / float64(each), Unit: "a second", ComparedWith: "one processor, reasons told"})
	return measureTry(ctx, s)
}

// baseline is the ready-made set of that name.
func baseline() (quarantine.PolicySet, error) {
	text, _ := sets.Text("baseline")
	d, faults := policy.ParseText([]byte(text))
	if err := faults.Err(); err != nil {
		return quarantine.PolicySet{}, fmt.Errorf("reading policy set baseline: %w", err)
	}
	return d.Set, nil
}

// judged are devices that every rule of the ready-made sets releases, each with the reports
// of two sources, and how many rules that are.
func judged(n int) (devices []quarantine.Facts, rules int, err error) {
	all := map[string]quarantine.PolicySet{}
	for _, name := range sets.Names() {
		text, _ := sets.Text(name)
		d, faults := policy.ParseText([]byte(text))
		if err := faults.Err(); err != nil {
			return nil, 0, fmt.Errorf("reading policy set %s: %w", name, err)
		}
		d.Set.Assigned, d.Set.For = true, quarantine.Selection{}
		all[name] = d.Set
		rules += len(d.Set.Rules)
	}
	now := time.Now()
	facts := map[string]string{
		"disk.encrypted": "true", "screen.lock": "true", "screen.lock_after": "10m0s", "firewall.enabled": "true", "os.patched_at": now.Add(-72 * time.Hour).UTC().Format(time.RFC3339),
		"device.tampered": "false", "agent.version": "1.0", "device.model": "Mac15,3", "profile.installed": "true",
	}
	for i := range n {
		r := quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(fmt.Sprintf("device%d", i))}, Reports: map[string]quarantine.Report{}}
		for _, source := range []string{"mdm", quarantine.AgentSource} {
			r.Reports[source] = quarantine.Report{Device: r.ID, Source: source, Verdict: quarantine.Compliant, At: now, Received: now, Validity: time.Hour, Facts: maps.Clone(facts)}
		}
		devices = append(devices, quarantine.Facts{Now: now, Record: r, Sets: all,
			Sources: map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true, Facts: []string{"*"}}}})
	}
	return devices, rules, nil
}
