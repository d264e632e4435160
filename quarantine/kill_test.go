package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// mortal kills a gate at its nth step: from then on nothing it asks for happens.
type mortal struct {
	quarantine.Keeper
	mu    sync.Mutex
	steps int
	at    int // zero: never
	dead  bool
	last  string
}

var errKilled = errors.New("killed")

func (m *mortal) step(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps++
	if m.steps == m.at {
		m.dead, m.last = true, name
	}
	if m.dead {
		return errKilled
	}
	return nil
}

func (m *mortal) Append(c quarantine.Change) error {
	if err := m.step("journal"); err != nil {
		return err
	}
	if err := m.Keeper.Append(c); err != nil {
		return err
	}
	return m.step("journalled")
}

func (m *mortal) Done(c quarantine.Change) error {
	if err := m.step("strike"); err != nil {
		return err
	}
	return m.Keeper.Done(c)
}

func (m *mortal) killed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// The gate is killed before and after every call it makes while devices move, and started
// again: no tightening that was acknowledged or journalled is lost, nothing is routed that
// was not recorded as released, and every device stands where a complete plan puts it.
func TestKilledAtEveryStep(t *testing.T) {
	for _, tightening := range []quarantine.Kind{quarantine.Reported, quarantine.Hold, quarantine.Block, quarantine.Revoke} {
		reached := false
		for at := 1; !reached; at++ {
			synctest.Test(t, func(t *testing.T) { reached = killAt(t, tightening, at) })
			if at > 500 {
				t.Fatal("the scenario never ends")
			}
		}
	}
}

// killAt runs the scenario once and reports whether it ended before step at.
func killAt(t *testing.T, tightening quarantine.Kind, at int) (survived bool) {
	b := newBench(t)
	k := b.journal
	m := &mortal{Keeper: k}
	b.journal = m
	hook := func(_ context.Context, step string, _ quarantine.ID) error { return m.step(step) }
	b.run()
	b.enroll(enrolled(1, "staff", time.Now()))
	b.enroll(enrolled(2, "staff", time.Now()))
	b.compliant("d2")
	m.mu.Lock()
	m.steps, m.at = 0, at
	m.mu.Unlock()
	b.store.SetHook(hook)
	b.enforcer.SetHook(hook)

	_, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, "d1")
	released := err == nil
	change := quarantine.Change{Kind: tightening, Device: "d2"}
	if tightening == quarantine.Reported {
		change.Report = &quarantine.Report{Device: "d2", Source: "mdm", Verdict: quarantine.NonCompliant, At: time.Now().Add(time.Second)}
	}
	dying := m.killed()
	_, err = b.gate.Change(t.Context(), token, change)
	tightened := err == nil && !dying && !m.killed()
	journalled := len(k.Pending()["d2"]) > 0
	if !m.killed() {
		b.wantRouted("d2", false, "acknowledged")
	}
	synctest.Wait()
	survived = !m.killed()
	b.stop()

	when := fmt.Sprintf("%s, killed at step %d, %q", tightening, at, m.last)
	b.store.SetHook(nil)
	b.enforcer.SetHook(nil)
	b.journal = k
	b.run()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	if released {
		b.wantRouted("d1", true, when+": the release was acknowledged")
	}
	if tightened || journalled {
		b.wantRouted("d2", false, when+": the tightening was acknowledged or journalled")
		if r, _ := b.store.Get("d2"); r.Tighten == 0 || r.Stage == quarantine.Routed {
			t.Errorf("%s: the record is %s with counter %d", when, r.Stage, r.Tighten)
		}
	}
	r, _ := b.store.Get("d1")
	b.wantRouted("d1", r.Stage == quarantine.Routed, when+": as recorded")
	b.reconciled(when)
	if p := k.Pending(); len(p) != 0 {
		t.Errorf("%s: the journal still holds %v", when, p)
	}
	b.stop()
	return survived
}
