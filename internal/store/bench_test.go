package store

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

func BenchmarkIssue(b *testing.B) {
	s := fresh(b)
	n := 0
	for b.Loop() {
		b.StopTimer()
		in := enrolltest.Issuance(enrolltest.Create(b, s, enrolltest.OTP(n)), enrolltest.Record(n))
		in.LastSeat = 1 << 30
		n++
		b.StartTimer()
		if _, err := s.Issue(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	s := fresh(b)
	r := enrolltest.Enroll(b, s, 1)
	for b.Loop() {
		r = record(b, s, quarantine.Reported, r)
	}
}

// BenchmarkSnapshot100k loads 100,000 records and reports the memory they take.
func BenchmarkSnapshot100k(b *testing.B) {
	s := fresh(b)
	bulk(b, s, 100_000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var snap quarantine.Snapshot
	for b.Loop() {
		var err error
		if snap, err = s.Snapshot(b.Context()); err != nil || len(snap.Records) != 100_000 {
			b.Fatal(len(snap.Records), err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/100_000, "B/record")
	runtime.KeepAlive(snap)
}

// BenchmarkRecordAll is BenchmarkRecord for as many devices as one transaction takes.
func BenchmarkRecordAll(b *testing.B) {
	s := fresh(b)
	writes := make([]quarantine.Write, quarantine.MaxBatch)
	for n := range writes {
		r := enrolltest.Enroll(b, s, n)
		writes[n] = quarantine.Write{Change: quarantine.Change{Kind: quarantine.Lapse, Device: r.ID, By: admin, At: time.Now()}, Next: r}
	}
	for b.Loop() {
		revision, err := s.RecordAll(b.Context(), writes)
		if err != nil {
			b.Fatal(err)
		}
		for n := range writes {
			writes[n].Next.Revision = revision
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/quarantine.MaxBatch, "ns/record")
}

// BenchmarkBulk100k moves 100,000 devices, as a gate does after an outage of a management
// server: the store's part of it, with the audit log, while one device after the other is
// recorded by itself; then a watch that has missed all of it resumes, and history is
// compacted.
func BenchmarkBulk100k(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		c := config(b.TempDir())
		c.Behind = 1 << 40 // what Config.Behind spares others
		s := open(b, c)
		bulk(b, s, n)
		snap, err := s.Snapshot(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		var run, clicks sync.WaitGroup
		run.Go(func() { s.Run(ctx) })
		alone := enrolltest.Enroll(b, s, n+1)
		var single []time.Duration
		done := make(chan struct{})
		clicks.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				start := time.Now()
				alone = record(b, s, quarantine.Hold, alone)
				single = append(single, time.Since(start))
				select { // people take their time
				case <-done:
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		start := time.Now()
		moveAll(b, s, slices.Collect(maps.Values(snap.Records)))
		took := time.Since(start)
		close(done)
		clicks.Wait()
		if err := s.FlushAudit(b.Context()); err != nil {
			b.Fatal(err)
		}
		flushed := time.Since(start)
		stop()
		run.Wait()
		slices.Sort(single)
		b.ReportMetric(took.Seconds(), "s-recorded")
		b.ReportMetric(flushed.Seconds(), "s-audited")
		b.ReportMetric(float64(single[len(single)/2])/1e6, "ms-single-p50")
		b.ReportMetric(float64(single[len(single)*99/100])/1e6, "ms-single-p99")
		b.ReportMetric(float64(single[len(single)-1])/1e6, "ms-single-max")
		start = time.Now()
		if _, err := s.Snapshot(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s-snapshot")
		resume(b, s, snap.Revision)
		b.ReportMetric(float64(s.etcd.Backend().Size())/(1<<20), "MiB-before-compaction")
		start = time.Now()
		compact(b, s)
		b.ReportMetric(float64(time.Since(start))/1e6, "ms-compaction")
		b.ReportMetric(float64(s.etcd.Backend().SizeInUse())/(1<<20), "MiB-in-use-after")
	}
}

// moveAll records every device once, in as few transactions as it takes.
func moveAll(b *testing.B, s *Store, all []quarantine.Record) {
	for some := range slices.Chunk(all, quarantine.MaxBatch) {
		writes := make([]quarantine.Write, len(some))
		for i, r := range some {
			writes[i] = quarantine.Write{Change: quarantine.Change{Kind: quarantine.Lapse, Device: r.ID, By: admin, At: time.Now()}, Next: r}
		}
		if _, err := s.RecordAll(b.Context(), writes); err != nil {
			b.Fatal(err)
		}
	}
}

// resume times a watch that begins at an old revision, until it has reached the present.
func resume(b *testing.B, s *Store, from int64) {
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	now, err := s.Now(ctx)
	if err != nil {
		b.Fatal(err)
	}
	start, records := time.Now(), 0
	for e := range s.Watch(ctx, from) {
		if e.Err != nil {
			b.Fatal(e.Err)
		}
		if records += len(e.Records); e.Revision >= now {
			break
		}
	}
	b.ReportMetric(time.Since(start).Seconds(), "s-watch-resumed")
	b.ReportMetric(float64(records), "records-resumed")
}
