package quarantine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"lazaret/quarantine"
)

// BenchmarkPlan is a whole plan of 100,000 devices, without a kernel: how long it takes, the
// longest time that anything held the gate's lock meanwhile, and the longest that one
// device's demotion took, journal and kernel apart.
func BenchmarkPlan(b *testing.B) {
	g, enforcer := crowd(b, 100_000)
	var holds []time.Duration // under the lock
	g.WatchLock(func(d time.Duration) { holds = append(holds, d) })
	var demotions []time.Duration
	n := 0
	for b.Loop() {
		_, before, _ := enforcer.Counts()
		g.Replan()
		for after := before; after == before; _, after, _ = enforcer.Counts() {
			n++
			r := quarantine.Report{Device: quarantine.ID(fmt.Sprintf("d%d", 2+2*(n%50_000))), Source: "mdm", Verdict: quarantine.NonCompliant, At: time.Now(), Sequence: uint64(n), Validity: time.Hour}
			start := time.Now()
			if _, err := g.Report(b.Context(), token, r); err != nil {
				b.Fatal(err)
			}
			demotions = append(demotions, time.Since(start))
		}
	}
	slices.Sort(demotions)
	g.WatchLock(nil)
	slices.Sort(holds)
	b.ReportMetric(float64(holds[len(holds)*999/1000])/1e6, "ms-hold-p99.9")
	b.ReportMetric(float64(holds[len(holds)-1])/1e6, "ms-hold-max")
	b.ReportMetric(float64(demotions[len(demotions)/2])/1e6, "ms-demotion-p50")
	b.ReportMetric(float64(demotions[len(demotions)-1])/1e6, "ms-demotion-max")
	b.ReportMetric(float64(len(demotions))/float64(b.N), "demotions/op")
}
