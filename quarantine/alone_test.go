package quarantine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// TestOneDevicesFaultIsItsOwn: a device whose peer the tunnel refuses, or which the data
// plane holds down for a tightening that was lost, costs nobody else their freshness; and
// a hold that a person lifts again brings the latter back.
func TestOneDevicesFaultIsItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.enroll(enrolled(2, "staff", time.Now()))
		b.compliant("d1")
		plans := 0
		fault := quarantine.ErrPeer
		b.enforcer.SetHook(func(_ context.Context, step string, id quarantine.ID) error {
			if step == "replace" {
				plans++
			}
			if id == "d2" {
				return fault
			}
			return nil
		})
		for _, err := range []error{quarantine.ErrPeer, &quarantine.Kept{Revision: 9, Tighten: 7}} {
			fault = err
			if _, err := b.gate.Approve(t.Context(), admin, "d2", ""); !errors.Is(err, quarantine.ErrNotEnforced) {
				t.Errorf("a move that failed with %v: %v", fault, err)
			}
			time.Sleep(3 * time.Minute) // three times the freshness
			synctest.Wait()
			b.wantRouted("d1", true, "beside a device with a fault of its own")
			if x, err := b.gate.Explain("d2"); err != nil || x.Enforced || x.Problem == "" {
				t.Errorf("explained as enforced %v, problem %q, %v", x.Enforced, x.Problem, err)
			}
		}
		if plans > 0 {
			t.Errorf("%d complete plans for one device's fault", plans)
		}
		b.enforcer.SetHook(nil)
		if _, err := b.gate.Hold(t.Context(), admin, "d2", "outbid"); err != nil {
			t.Fatal(err)
		}
		if e := b.enforcer.Entry("d2"); e.Tighten != 8 {
			t.Errorf("the next tightening has counter %d, want one above what is enforced", e.Tighten)
		}
	})
}
