package quarantine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// refuse makes the data plane take no move and no plan.
func (b *bench) refuse() {
	b.enforcer.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
		return errors.New("no data plane at " + step)
	})
}

// sayBad reports devices not compliant, one by one or together, and wants each of them
// quarantined, and enforced or not.
func sayBad(t *testing.T, b *bench, many bool, at time.Time, enforced bool, when string) {
	t.Helper()
	report := quarantine.Report{Device: "d1", Source: "mdm", Verdict: quarantine.NonCompliant, At: at, Validity: time.Hour}
	var p quarantine.Placement
	var err error
	if many {
		all := b.gate.Reports(t.Context(), token, []quarantine.Report{report})
		p, err = all[0].Placement, all[0].Err
	} else {
		p, err = b.gate.Report(t.Context(), token, report)
	}
	if p.Stage != quarantine.Quarantined {
		t.Errorf("%s: it stands %q", when, p.Stage)
	}
	if enforced && err != nil || !enforced && !errors.Is(err, quarantine.ErrNotEnforced) {
		t.Errorf("%s: got %v; enforced is %v", when, err, enforced)
	}
}

// A report that says nothing new is not answered with a yes while what it repeats is not
// enforced: whether it is word for word the last, or could wait to be recorded, and
// whoever brings it in whatever number.
func TestRepeatOfWhatIsNotEnforced(t *testing.T) {
	for name, many := range map[string]bool{"one": false, "many": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.enroll(enrolled(1, "staff", time.Now()))
				b.compliant("d1")
				time.Sleep(time.Second)
				b.refuse()
				at := time.Now()
				sayBad(t, b, many, at, false, "first")
				b.wantRouted("d1", true, "with an orphaned table")
				sayBad(t, b, many, at, false, "word for word")
				time.Sleep(time.Second)
				sayBad(t, b, many, time.Now(), false, "once more")
				b.enforcer.SetHook(nil)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				b.wantRouted("d1", false, "the data plane is back")
				sayBad(t, b, many, at.Add(time.Second), true, "repeated after the plan")
				sayBad(t, b, many, time.Now(), true, "and once more")
				b.reconciled("at the end")
			})
		})
	}
}

// Nor is it before the first plan of a run.
func TestRepeatBeforeAPlan(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		at := time.Now()
		sayBad(t, b, false, at, true, "first")
		synctest.Wait()
		b.stop()
		b.refuse()
		b.run()
		sayBad(t, b, false, at, false, "in the next run")
		sayBad(t, b, true, at, false, "and many")
	})
}

// Nor is it before new settings are enforced, under which the device stands elsewhere.
func TestRepeatUnderNewSettings(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		at := time.Now()
		b.refuse()
		s := settings()
		s.Sources["mdm"] = quarantine.Source{Name: "mdm", MaxValidity: 2 * time.Hour}
		b.store.Save(s)
		synctest.Wait()
		p, err := b.report("mdm", quarantine.Compliant, at, time.Hour, "d1")
		if p.Stage != quarantine.Quarantined || !errors.Is(err, quarantine.ErrNotEnforced) {
			t.Errorf("a repeat before the data plane heard of the settings: %s, %v", p.Stage, err)
		}
		b.enforcer.SetHook(nil)
		time.Sleep(10 * time.Second)
		if p, err := b.report("mdm", quarantine.Compliant, at, time.Hour, "d1"); p.Stage != quarantine.Quarantined || err != nil {
			t.Errorf("after: %s, %v", p.Stage, err)
		}
		b.wantRouted("d1", false, "a source that may not release any more")
	})
}

// A repeat of what is on its way is answered when that has arrived, and costs at most one
// move for all of them.
func TestRepeatOfWhatIsOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		time.Sleep(time.Second)
		b.enforcer.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "apply" {
				time.Sleep(time.Second) // of the bubble's clock
			}
			return nil
		})
		before, _, _ := b.enforcer.Counts()
		at := time.Now()
		var all sync.WaitGroup
		for i := range 50 {
			time.Sleep(time.Millisecond)
			all.Go(func() {
				sayBad(t, b, i%2 == 0, at, true, "at the same time")
				if b.routed("d1") {
					t.Error("answered before it was enforced")
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if n, _, _ := b.enforcer.Counts(); n-before > 4 {
			t.Errorf("%d moves for one demotion", n-before)
		}
	})
}
