package quarantine_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// still is a store of many devices that answers at once and keeps nothing, so that the
// gate alone is measured.
type still struct {
	snapshot quarantine.Snapshot
}

func (s *still) Snapshot(context.Context) (quarantine.Snapshot, error) { return s.snapshot, nil }
func (s *still) Now(context.Context) (int64, error)                    { return 1, nil }
func (s *still) Confirm(context.Context, int64) error                  { return nil }
func (s *still) Watch(ctx context.Context, _ int64) <-chan quarantine.Event {
	c := make(chan quarantine.Event)
	context.AfterFunc(ctx, func() { close(c) })
	return c
}
func (s *still) Record(_ context.Context, _ quarantine.Change, next quarantine.Record) (int64, error) {
	return next.Revision + 1, nil
}

// crowd is a running gate with n devices, half of them released.
func crowd(b *testing.B, n int) (*quarantine.Gate, *storetest.Enforcer) {
	s := settings()
	delete(s.Pools, "other")
	for name, p := range s.Pools {
		p.IPv4 = netip.Prefix{} // a /16 is too small
		if !p.Quarantine {
			p.Mark = 1
		}
		s.Pools[name] = p
	}
	now := time.Now()
	snap := quarantine.Snapshot{Revision: 1, Records: make(map[quarantine.ID]quarantine.Record, n), Pools: s.Pools, Profiles: s.Profiles, Sources: s.Sources}
	for i := 1; i <= n; i++ {
		r := enrolled(i, "staff", now)
		r.Revision = 1
		if i%2 == 0 {
			r.Reports = map[string]quarantine.Report{"mdm": {Device: r.ID, Source: "mdm", Verdict: quarantine.Compliant, At: now, Validity: 2 * time.Hour, Received: now}}
		}
		f := quarantine.Facts{Now: now, Record: r, Profile: s.Profiles["staff"], Pools: s.Pools, Sources: s.Sources, Policy: quarantine.PlainPolicy{}}
		snap.Records[r.ID] = r.Settle(quarantine.Place(f), now)
	}
	store, enforcer := &still{snap}, storetest.NewEnforcer()
	g, err := quarantine.NewGate(quarantine.Config{Store: store, Enforcer: enforcer, Journal: newKeeper(),
		Policy: quarantine.PlainPolicy{}, Control: "bench", Gateway: "gw"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Run(ctx)
	}()
	b.Cleanup(func() { cancel(); <-done })
	<-g.Ready()
	store.snapshot = quarantine.Snapshot{} // it is not asked again
	return g, enforcer
}

// BenchmarkMove is one bad and one good report of a device among n, without store, journal
// or kernel: it must not depend on n. Memory is what the index and the
// plan take for each device.
func BenchmarkMove(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			g, _ := crowd(b, n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			at := time.Now()
			i := uint64(0)
			for b.Loop() {
				i++
				id := quarantine.ID(fmt.Sprintf("d%d", 2*(1+i%uint64(n/2))))
				for _, v := range []quarantine.Verdict{quarantine.NonCompliant, quarantine.Compliant} {
					i++
					r := quarantine.Report{Device: id, Source: "mdm", Verdict: v, At: at.Add(time.Microsecond), Sequence: i, Validity: time.Hour}
					if _, err := g.Report(b.Context(), token, r); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/device")
			runtime.KeepAlive(g)
		})
	}
}

// BenchmarkPlace is one decision, with all its reasons.
func BenchmarkPlace(b *testing.B) {
	f := factsOf("staff")
	for b.Loop() {
		quarantine.Place(f)
	}
}
