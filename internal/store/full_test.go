package store

import (
	"errors"
	"testing"

	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// TestFullDiskOpensNothing: on a full disk no device is let out of quarantine, or into another
// pool, and each loses what it is to lose.
func TestFullDiskOpensNothing(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	free := int64(1 << 40)
	c.Ballast, c.free = DefaultBallast, func(string) (int64, error) { return free, nil }
	s, ctx := open(t, c), t.Context()
	r := enrolltest.Enroll(t, s, 1)
	change := quarantine.Change{Kind: quarantine.Reported, Device: r.ID, By: quarantine.Actor{Kind: "token", Name: "fleet"}, Report: &quarantine.Report{Device: r.ID, Source: "fleet"}}
	place := func(stage quarantine.Stage, pool string) error {
		next, err := s.Device(ctx, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		next.Stage, next.Pool = stage, pool
		_, err = s.Record(ctx, change, next)
		return err
	}
	for _, x := range []struct {
		free  int64
		stage quarantine.Stage
		pool  string
		open  bool
	}{
		{1 << 40, quarantine.Quarantined, "quarantine", true},
		{DefaultBallast/2 - 1, quarantine.Routed, "default", false},
		{0, quarantine.Routed, "default", false},
		{DefaultBallast / 2, quarantine.Routed, "default", true},
		{0, quarantine.Routed, "default", true}, // it has that already: its lease goes on
		{0, quarantine.Routed, "other", false},
		{0, quarantine.Quarantined, "quarantine", true},
		{0, quarantine.Blocked, "", true},
		{0, quarantine.Quarantined, "quarantine", true},
		{0, quarantine.Routed, "default", false},
	} {
		free = x.free
		if err := place(x.stage, x.pool); (err == nil) != x.open || err != nil && !errors.Is(err, quarantine.ErrNoRoom) {
			t.Errorf("%d bytes left, %s in %s: %v", x.free, x.stage, x.pool, err)
		}
	}
	free = 0
	next, err := s.Device(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	next.Stage, next.Pool = quarantine.Routed, "default"
	if _, err := s.RecordAll(ctx, []quarantine.Write{{Change: change, Next: next}}); !errors.Is(err, quarantine.ErrNoRoom) {
		t.Errorf("many at a time: %v", err)
	}
}
