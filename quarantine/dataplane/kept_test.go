package dataplane

import (
	"errors"
	"testing"

	"lazaret/quarantine"
)

// A control plane that lost a tightening learns which device the data plane holds back,
// and what its record must take in: from the plan's answer, by an event, and from moves.
func TestKeptIsTold(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	ctx := t.Context()
	want(t, c.Replace(ctx, somePlan(10, in77(1, 5), in77(2, 5))), nil)
	down := in66(1, 11)
	down.Tighten = 3
	want(t, c.Apply(ctx, down), nil)

	lost := somePlan(7, in77(1, 6), in77(2, 6)) // of a store that was restored
	lost.Control = "control-2"
	want(t, c.Replace(ctx, lost), nil)
	e := expect(t, c, Kept)
	if e.Device != id(1) || e.Tighten != 3 || e.Revision != 11 || e.Detail == "" {
		t.Errorf("event %+v", e)
	}
	told := func(when string, tighten uint64) {
		t.Helper()
		faults, more := c.Faults()
		kept, ok := errors.AsType[*quarantine.Kept](faults[id(1)])
		if len(faults) != 1 || more != 0 || !ok || kept.Tighten != tighten {
			t.Errorf("%s: faults %v, kept %+v", when, faults, kept)
		}
		want(t, faults[id(1)], quarantine.ErrOutdated)
	}
	told("by the plan", 3)
	want(t, c.Refresh(ctx, quarantine.Freshness{Control: "control-2", Revision: 7, Fresh: fresh(1).Fresh, Alive: fresh(1).Alive}), nil)

	err := c.Apply(ctx, in77(1, 20))
	kept, ok := errors.AsType[*quarantine.Kept](err)
	if !ok || kept.Tighten != 3 || kept.Revision != 6 {
		t.Errorf("a move is answered %v, %+v", err, kept)
	}
	told("by a move", 3)
	mended := in77(1, 21)
	mended.Tighten = kept.Tighten
	want(t, c.Apply(ctx, mended), nil)
	if faults, _ := c.Faults(); len(faults) != 0 {
		t.Errorf("mended, and still %v", faults)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.agree(t)
	if _, routed := r.table.routed[address(77, 1)]; !routed {
		t.Error("an entry that has taken the tightening in is not followed")
	}
}

// A plan that is refused says nothing of single devices, and one that fits says none.
func TestNothingKept(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	want(t, c.Replace(t.Context(), somePlan(10, in77(1, 5))), nil)
	want(t, c.Replace(t.Context(), somePlan(11, in66(1, 5), in66(1, 5))), ErrRefused)
	want(t, c.Replace(t.Context(), somePlan(9)), quarantine.ErrOutdated)
	if faults, more := c.Faults(); len(faults) != 0 || more != 0 {
		t.Errorf("faults %v and %d more", faults, more)
	}
}

// Of a flood of them the control plane hears as many as fit, and how many there are.
func TestManyKept(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	ctx := t.Context()
	const n = maxFaults + 50
	var down, up []quarantine.Entry
	for i := 1; i <= n; i++ {
		e := in66(i, 5)
		e.Tighten = 1
		down, up = append(down, e), append(up, in77(i, 5))
	}
	want(t, c.Replace(ctx, somePlan(10, down...)), nil)
	want(t, c.Replace(ctx, somePlan(11, up...)), nil)
	if faults, more := c.Faults(); len(faults) == 0 || len(faults)+more != n {
		t.Errorf("%d faults and %d more, want %d in all", len(faults), more, n)
	}
	for range maxEvents {
		expect(t, c, Kept)
	}
	want(t, c.Apply(ctx, in66(1, 12)), nil) // the connection has outlived it
}
