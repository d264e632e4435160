package quarantine_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
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

// BenchmarkTry is a trial of a set over 100,000 devices, of which none moves.
func BenchmarkTry(b *testing.B) {
	g, _ := crowd(b, 100_000)
	sets := map[string]quarantine.PolicySet{"soft": oneRule("soft", "patched=yes", quarantine.FailReport, 0)}
	for b.Loop() {
		if moved := g.Try(sets, quarantine.Conduct{}); len(moved) != 0 {
			b.Fatalf("%d devices move", len(moved))
		}
	}
}

// meeting is a policy whose judgements wait for each other once it is told to: each until as
// many as want are being made at the same time, or a minute is over.
type meeting struct {
	mu     sync.Mutex
	want   int // zero: none waits
	inside int
	most   int
	met    chan struct{}
}

func (m *meeting) Judge(f quarantine.Facts) quarantine.Judgement {
	m.mu.Lock()
	if m.want == 0 {
		m.mu.Unlock()
		return quarantine.PlainPolicy{}.Judge(f)
	}
	m.inside++
	if m.most = max(m.most, m.inside); m.most == m.want {
		select {
		case <-m.met:
		default:
			close(m.met)
		}
	}
	m.mu.Unlock()
	select {
	case <-m.met:
	case <-time.After(time.Minute):
	}
	m.mu.Lock()
	m.inside--
	m.mu.Unlock()
	return quarantine.PlainPolicy{}.Judge(f)
}

// A trial judges as many devices at once as there are processors, and no more.
func TestTrialUsesEveryProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	bubble(t, func(t *testing.T, b *bench) {
		b.stop()
		m := &meeting{met: make(chan struct{})}
		b.policy = m
		b.run()
		for n := range 500 {
			b.enroll(enrolled(n+1, "staff", time.Now()))
		}
		m.mu.Lock()
		m.want = 3
		m.mu.Unlock()
		began := time.Now()
		if moved := b.gate.Try(nil, quarantine.Conduct{}); len(moved) != 0 {
			t.Errorf("%d devices move without a change", len(moved))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.most != 3 || time.Since(began) > 0 {
			t.Errorf("%d devices were judged at once, in %s; want 3", m.most, time.Since(began))
		}
		m.want = 0
	})
}
