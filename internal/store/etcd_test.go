package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// TestLeadsAtOnce opens stores, new and made before, whose etcd would elect itself after an
// hour: whoever opens one does not wait for that. Nothing of it is a warning.
func TestLeadsAtOnce(t *testing.T) {
	c := config(t.TempDir())
	c.tick = time.Hour
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		s, err := Open(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil { // nothing writes to log any more
			t.Fatal(err)
		}
	}
	if log.Len() != 0 {
		t.Errorf("warnings:\n%s", log.String())
	}
}

// TestLeadsFromSnapshot closes stores where etcd's next snapshot is the last thing that its log
// tells, or nearly so, and opens them again: there is nothing to apply then, and who waits until
// something was applied waits for etcd's own election, here an hour.
func TestLeadsFromSnapshot(t *testing.T) {
	for _, last := range []uint64{snapshotEntries - 1, snapshotEntries, snapshotEntries + 1} {
		c := config(t.TempDir())
		c.tick = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := Open(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		for puts := int64(1); s.etcd.AppliedIndex() < last; puts++ {
			if _, err := s.client.Put(ctx, "test/last", fmt.Sprint(puts)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := s.client.Get(ctx, "test/last")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(ctx, c); err != nil {
				t.Fatalf("after %d entries: %v", last, err)
			}
			got, err := s.client.Get(ctx, "test/last")
			if err != nil || got.Kvs[0].Version != want.Kvs[0].Version {
				t.Fatalf("after %d entries: %v, %v, want %v", last, got, err, want)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeadsAfterIdleWeek opens what a version with etcd's own number of entries between
// snapshots left after a week of nothing but its clock: 9,900 small entries, which raft hands over
// at once, and etcd forgets half of before raft has ticked them off. One who is asked to lead
// between the two panics. On one processor that came in one of twelve openings.
func TestLeadsAfterIdleWeek(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const writers, each = 100, 99
	c := config(t.TempDir())
	c.snapshots = 20000
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for range writers {
		group.Go(func() error {
			for range each {
				if _, err := s.client.Put(t.Context(), "test/time", "01795363476159565191 01795363476159565190"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := errors.Join(group.Wait(), s.Close()); err != nil {
		t.Fatal(err)
	}
	c.snapshots = 0
	for range 12 {
		again := c
		again.Dir = filepath.Join(t.TempDir(), "etcd")
		if err := os.CopyFS(again.Dir, os.DirFS(c.Dir)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), again)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.client.Get(t.Context(), "test/time")
		if err != nil || got.Kvs[0].Version != writers*each {
			t.Errorf("%v, %v, want version %d", got, err, writers*each)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogIsShort writes 16 MB in 4,000 changes, and looks at what there is to read at a start:
// two files of 4 MB, as etcd throws away at a start what it has no use for. All of it is there
// when it was opened ten times.
func TestLogIsShort(t *testing.T) {
	const writers, each = 40, 100
	c := config(t.TempDir())
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("x", 4<<10)
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			for n := range each {
				if _, err := s.client.Put(t.Context(), fmt.Sprintf("test/%d", w), fmt.Sprint(n, value)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	r, err := s.client.Get(t.Context(), "test/", clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != writers {
		t.Fatalf("%d keys of %d, error %v", len(r.Kvs), writers, err)
	}
	for _, kv := range r.Kvs {
		if kv.Version != each || string(kv.Value) != fmt.Sprint(each-1, value) {
			t.Errorf("%s is of version %d, want %d", kv.Key, kv.Version, each)
		}
	}
	files, err := filepath.Glob(filepath.Join(c.Dir, "member", "wal", "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if len(files) > 3 || total > 13<<20 { // the last start may be in the middle of throwing away
		t.Errorf("%d files of %d bytes", len(files), total)
	}
}
