package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestFollowerReadsEachEntryOnceInOrder follows a log while it is written, in segments of a
// few entries, with readers that begin anywhere.
func TestFollowerReadsEachEntryOnceInOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	c, err := Open(Config{Dir: dir, SegmentSize: 1500})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	live := Follow(dir, 0)
	defer live.Close()
	var seen []uint64
	for i := 1; i <= 60; i++ {
		if _, err := c.Append(entry(i)); err != nil {
			t.Fatal(err)
		}
		if i%4 != 0 {
			continue
		}
		for { // one less than there is, three at a time
			some, err := live.Next(uint64(i-1), 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range some {
				if e.ID != fmt.Sprintf("id%04d", e.Sequence) {
					t.Errorf("entry %d is %s", e.Sequence, e.ID)
				}
				seen = append(seen, e.Sequence)
			}
			if len(some) < 3 {
				break
			}
		}
	}
	if len(seen) != 59 {
		t.Fatalf("read %d entries, want 59", len(seen))
	}
	for i, n := range seen {
		if n != uint64(i+1) {
			t.Fatalf("entry %d comes at place %d", n, i+1)
		}
	}
	for after := range uint64(60) {
		f := Follow(dir, after)
		some, err := f.Next(60, 100)
		f.Close()
		if err != nil || len(some) != int(60-after) || some[0].Sequence != after+1 {
			t.Errorf("behind %d: %d entries, %v", after, len(some), err)
		}
	}
	if some, err := Follow(dir, 60).Next(99, 5); err != nil || len(some) != 0 {
		t.Errorf("behind the end: %v, %v", some, err)
	}
}

// TestFollowerLeavesATornLine waits for the rest of a line instead of telling a half of it.
func TestFollowerLeavesATornLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	write(t, dir, 3, 1<<20)
	path := filepath.Join(dir, segmentName(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	f := Follow(dir, 0)
	defer f.Close()
	for range 2 {
		f.after = 0
		f.Close()
		if some, err := f.Next(9, 9); err != nil || len(some) != 2 {
			t.Fatalf("before a torn line: %d entries, %v", len(some), err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if some, err := f.Next(9, 9); err != nil || len(some) != 1 || some[0].Sequence != 3 {
		t.Errorf("once it is whole: %+v, %v", some, err)
	}
}
