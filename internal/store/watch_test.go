package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/internal/audit"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// receive takes the next event, or fails after a while.
func receive(t *testing.T, events <-chan quarantine.Event) quarantine.Event {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	return quarantine.Event{}
}

func TestWatchFollowsSnapshot(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	first := enrolltest.Enroll(t, s, 1)
	snap, err := s.Snapshot(ctx)
	if err != nil || snap.Revision != first.Revision {
		t.Fatalf("snapshot at %d, %v; want %d", snap.Revision, err, first.Revision)
	}
	events := s.Watch(ctx, snap.Revision)
	second := enrolltest.Enroll(t, s, 2)
	if e := receive(t, events); e.Revision != second.Revision || e.Settings || !cmp.Equal(e.Records, []quarantine.Record{second}) {
		t.Errorf("event %+v, want the second device", e)
	}
	seedPools(t, s)
	for range pools() {
		if e := receive(t, events); !e.Settings || len(e.Records) != 0 {
			t.Errorf("event %+v, want settings", e)
		}
	}
	first = revoke(t, s, first)
	if e := receive(t, events); len(e.Records) != 1 || e.Records[0].Stage != quarantine.Revoked {
		t.Errorf("event %+v", e)
	}
	if err := s.Forget(ctx, admin, first.ID, first.Revision); err != nil {
		t.Fatal(err)
	}
	if e := receive(t, events); !cmp.Equal(e.Gone, []quarantine.ID{first.ID}) || len(e.Records) != 0 {
		t.Errorf("event %+v, want %s gone", e, first.ID)
	}
	// From an older revision, the same comes again.
	again := s.Watch(ctx, snap.Revision)
	if e := receive(t, again); e.Revision != second.Revision {
		t.Errorf("resumed at %d, want %d", e.Revision, second.Revision)
	}
}

// The gate waits until its watch has reached Now: it must, whatever else was written.
func TestWatchReachesNow(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	start, err := s.Now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	events := s.Watch(ctx, start)
	for n := range 20 {
		r := enrolltest.Enroll(t, s, n)
		if err := s.Audit(ctx, audit.Entry{Action: "enroll.refused"}); err != nil {
			t.Fatal(err)
		}
		enrolltest.Create(t, s, enrolltest.OTP(1000+n))
		confirm(t, s)
		if err := s.FlushAudit(ctx); err != nil {
			t.Fatal(err)
		}
		now, err := s.Now(ctx)
		if err != nil || now != r.Revision {
			t.Fatalf("now is %d, %v; want %d, the last change the gate sees", now, err, r.Revision)
		}
		for seen := int64(0); seen < now; {
			seen = receive(t, events).Revision
		}
		if snap, err := s.Snapshot(ctx); err != nil || snap.Revision != now {
			t.Fatalf("snapshot at %d, %v; want %d", snap.Revision, err, now)
		}
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	s := fresh(t)
	ctx, stop := context.WithCancel(t.Context())
	now, err := s.Now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	events := s.Watch(ctx, now)
	enrolltest.Enroll(t, s, 1)
	receive(t, events)
	stop()
	for e := range events {
		if e.Err != nil {
			t.Errorf("ended with %v", e.Err)
		}
	}
}

func TestWatchAfterCompaction(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	start, err := s.Now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := enrolltest.Enroll(t, s, 1)
	last := record(t, s, quarantine.Reported, r)
	for range 5 { // moves etcd's revision, and nothing the gate sees
		if err := s.Audit(ctx, audit.Entry{Action: "enroll.refused"}); err != nil {
			t.Fatal(err)
		}
	}
	compact(t, s)
	// What the gate saw last is compacted, but nothing was missed since.
	current := s.Watch(ctx, last.Revision)
	// Here something was.
	lost := s.Watch(ctx, start)
	if e := receive(t, lost); !errors.Is(e.Err, quarantine.ErrCompacted) {
		t.Errorf("event %+v, want ErrCompacted", e)
	}
	if e, ok := <-lost; ok {
		t.Errorf("after ErrCompacted came %+v", e)
	}
	next := record(t, s, quarantine.Reported, last)
	if e := receive(t, current); e.Revision != next.Revision || e.Err != nil {
		t.Errorf("event %+v, want revision %d", e, next.Revision)
	}
	if snap, err := s.Snapshot(ctx); err != nil || snap.Revision != next.Revision || len(snap.Records) != 1 {
		t.Errorf("snapshot at %d with %d records, %v", snap.Revision, len(snap.Records), err)
	}
}

// A watch that is far behind is told to begin anew, as after a compaction; one that is a
// little behind goes on.
func TestWatchFarBehind(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Behind = 20
	s, ctx := open(t, c), t.Context()
	first := enrolltest.Enroll(t, s, 1)
	r := first
	for range 25 {
		r = record(t, s, quarantine.Reported, r)
	}
	far, near := s.Watch(ctx, first.Revision), s.Watch(ctx, r.Revision-10)
	if e := receive(t, far); !errors.Is(e.Err, quarantine.ErrCompacted) {
		t.Errorf("25 revisions behind: %+v, want ErrCompacted", e)
	}
	for revision := int64(0); revision < r.Revision; {
		e := receive(t, near)
		if e.Err != nil || e.Revision <= revision {
			t.Fatalf("10 revisions behind: %+v after %d", e, revision)
		}
		revision = e.Revision
	}
}

// More records than fit into one read are still of one revision.
func TestSnapshotIsPagedAtOneRevision(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	const n = 2*page + 17
	bulk(t, s, n)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { // writes all the while
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			r, err := s.Device(ctx, enrolltest.Record(i%n).ID)
			if err == nil {
				_, err = s.Record(ctx, quarantine.Change{Kind: quarantine.Reported}, r)
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 5 {
		snap, err := s.Snapshot(ctx)
		if err != nil || len(snap.Records) != n {
			t.Fatalf("%d of %d records, %v", len(snap.Records), n, err)
		}
		newest := int64(0)
		for _, r := range snap.Records {
			newest = max(newest, r.Revision)
		}
		if newest != snap.Revision {
			t.Errorf("snapshot of revision %d holds a record of %d", snap.Revision, newest)
		}
	}
	stop()
	<-done
}

// bulk writes n records, many to a transaction, without indexes.
func bulk(t testing.TB, s *Store, n int) {
	t.Helper()
	for from := 0; from < n; from += 100 {
		ch := change{state: true}
		for i := from; i < min(from+100, n); i++ {
			r := enrolltest.Record(i)
			r.Seat = quarantine.Seat(i + 1)
			value, err := encodeRecord(r)
			if err != nil {
				t.Fatal(err)
			}
			ch.put(deviceKey(r.ID), value)
		}
		if _, ok, err := s.commit(t.Context(), ch); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
}
