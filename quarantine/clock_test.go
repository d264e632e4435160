package quarantine_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// astray lets the gate's wall clock be off by what is stored in the result.
func astray(b *bench) *atomic.Int64 {
	var off atomic.Int64
	b.stop()
	b.clock.Wall = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	b.run()
	return &off
}

// A wall clock that is set back again and again, by less than what passed or by more,
// prolongs no lease: the report's hour ends an hour of boot time after it.
func TestClockSetBack(t *testing.T) {
	for _, c := range []struct{ wait, back time.Duration }{
		{12 * time.Minute, 10 * time.Minute},
		{14 * time.Minute, 45 * time.Minute},
	} {
		t.Run(c.back.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) { setBack(t, b, c.wait, c.back) })
		})
	}
}

// setBack waits and sets the clock back four times within the hour of a report.
func setBack(t *testing.T, b *bench, wait, back time.Duration) {
	off := astray(b)
	r := enrolled(1, "staff", time.Now())
	r.Certificate.NotBefore = r.Certificate.NotBefore.Add(-24 * time.Hour) // valid whatever the clock says
	b.enroll(r)
	b.compliant("d1")
	stored, _ := b.store.Get("d1")
	until, deadline := stored.Until, b.enforcer.Entry("d1").Until
	if want := b.boot() + firewall.Deadline(time.Hour); deadline != want {
		t.Fatalf("routed until %d, want %d", deadline, want)
	}
	check := func(when string) {
		t.Helper()
		synctest.Wait()
		if got := b.enforcer.Entry("d1").Until; got > deadline {
			t.Errorf("%s: routed for %s longer", when, time.Duration(got-deadline))
		}
		stored, _ := b.store.Get("d1")
		x, err := b.gate.Explain("d1")
		if err != nil || stored.Until.After(until) || x.Decided.Until.After(until) {
			t.Errorf("%s: stored until %s, decided until %s, %v; want %s at most", when, stored.Until, x.Decided.Until, err, until)
		}
	}
	for range 4 {
		time.Sleep(wait)
		off.Add(-int64(back))
		b.gate.Replan()
		check("set back")
		time.Sleep(3 * time.Second)
		check("three seconds later")
		b.wantRouted("d1", true, "within its hour")
	}
	time.Sleep(time.Hour - 4*(wait+3*time.Second) - time.Second)
	b.wantRouted("d1", true, "in the last second of its hour")
	time.Sleep(2 * time.Second)
	synctest.Wait()
	b.wantRouted("d1", false, "after its hour")
	if stored, _ := b.store.Get("d1"); stored.Stage != quarantine.Quarantined {
		t.Errorf("stored as %s, want quarantined", stored.Stage)
	}
	b.reconciled("after its hour")

	// A source whose clock is right is believed, and gives no more than it says.
	b.compliant("d1")
	if got, most := b.enforcer.Entry("d1").Until, b.boot()+firewall.Deadline(time.Hour); got != most {
		t.Errorf("a new report: routed until %d, want %d", got, most)
	}
}

// A wall clock that was ahead for a while has shortened the lease, and setting it right
// does not give the time back.
func TestClockSetForwardAndBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		off := astray(b)
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		off.Store(int64(30 * time.Minute))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		half := b.enforcer.Entry("d1").Until
		if want := b.boot() + firewall.Deadline(30*time.Minute); half > want {
			t.Errorf("set forward by half an hour, and routed until %d, want %d at most", half, want)
		}
		off.Store(0)
		time.Sleep(3 * time.Second)
		b.gate.Replan()
		synctest.Wait()
		if got := b.enforcer.Entry("d1").Until; got > half {
			t.Errorf("set right again, and routed for %s longer", time.Duration(got-half))
		}
		time.Sleep(30 * time.Minute)
		b.wantRouted("d1", false, "after half an hour")
	})
}

// A wall clock that is set back while the gate is down prolongs no lease: the store knows
// the highest time that was seen.
func TestClockSetBackAcrossRestart(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		off := astray(b)
		r := enrolled(1, "staff", time.Now())
		r.Certificate.NotBefore = r.Certificate.NotBefore.Add(-24 * time.Hour)
		b.enroll(r)
		b.compliant("d1")
		deadline := b.enforcer.Entry("d1").Until
		time.Sleep(20 * time.Minute)
		b.store.Reach(time.Now())
		b.stop()
		off.Store(-int64(50 * time.Minute))
		b.run()
		synctest.Wait()
		if got := b.enforcer.Entry("d1").Until; got != deadline {
			t.Errorf("set back by 50 minutes and started again: routed for %s longer", time.Duration(got-deadline))
		}
		time.Sleep(40*time.Minute - time.Second)
		b.wantRouted("d1", true, "in the last second of its hour")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		b.wantRouted("d1", false, "after its hour")
		b.reconciled("after its hour")
	})
}
