package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/audit"
)

// TestTailFollowsAcrossARestart reads every entry once and in order while they are written,
// and goes on after a restart where it was.
func TestTailFollowsAcrossARestart(t *testing.T) {
	c := config(t.TempDir())
	var cursor uint64
	var seen []string
	for run := range 2 {
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		var g errgroup.Group
		g.Go(func() error { return s.Run(ctx) })
		g.Go(func() error {
			for i := range 20 {
				if err := s.Audit(ctx, audit.Entry{Action: "test", Subject: fmt.Sprint(20*run + i)}); err != nil {
					return err
				}
			}
			return nil
		})
		tail := s.AuditLog().Tail(cursor)
		for len(seen) < 20*(run+1) {
			some, err := tail.Next(ctx, 7)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range some {
				if e.Sequence <= cursor {
					t.Fatalf("entry %d after %d", e.Sequence, cursor)
				}
				if cursor = e.Sequence; e.Action == "test" {
					seen = append(seen, e.Subject)
				}
			}
		}
		if last, err := s.AuditLog().Last(ctx); err != nil || last != cursor {
			t.Errorf("the last entry is %d, %v; read %d", last, err, cursor)
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		if some, err := tail.Next(short, 7); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("behind the end: %v, %v", some, err)
		}
		cancel()
		tail.Close()
		stop()
		if err := errors.Join(g.Wait(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for i, subject := range seen {
		if subject != fmt.Sprint(i) {
			t.Fatalf("entry %s at place %d", subject, i)
		}
	}
}

// TestNotesAreKeptAndNotAudited: whoever notes how far it read the log must not write to it.
func TestNotesAreKeptAndNotAudited(t *testing.T) {
	s := fresh(t)
	ctx, n := t.Context(), s.Notes()
	for name, value := range map[string]string{"a/1": "one", "a/2": "two", "b/1": "three"} {
		if err := n.Put(ctx, name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Put(ctx, "", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a note without a name: %v", err)
	}
	if all, err := n.List(ctx, "a/"); err != nil || len(all) != 2 || string(all["a/2"]) != "two" {
		t.Errorf("listed %q, %v", all, err)
	}
	if err := n.Delete(ctx, "a/1", "a/9"); err != nil {
		t.Fatal(err)
	}
	if all, err := n.List(ctx, ""); err != nil || len(all) != 2 || all["a/1"] != nil {
		t.Errorf("after a deletion %q, %v", all, err)
	}
	if entries, err := s.AuditLog().List(ctx, "", time.Time{}, 0); err != nil || len(entries) != 0 {
		t.Errorf("the audit log tells %+v, %v", entries, err)
	}
}
