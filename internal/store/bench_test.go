package store

import (
	"runtime"
	"testing"

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
