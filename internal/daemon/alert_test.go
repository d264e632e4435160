package daemon

import (
	"errors"
	"testing"
	"time"

	"lazaret/quarantine"
)

// TestMomentaryTroubleIsNotTold looks at a gateway that starts, is well, and then is not.
func TestMomentaryTroubleIsNotTold(t *testing.T) {
	var s settling
	at := time.Unix(0, 0)
	for _, c := range []struct {
		after  time.Duration
		status quarantine.Status
		looked bool
	}{
		{0, quarantine.Status{}, false},
		{59 * time.Second, quarantine.Status{Planned: true}, false},
		{30 * time.Second, quarantine.Status{Planned: true, Fresh: true}, true},
		{time.Hour, quarantine.Status{Planned: true}, false},
		{59 * time.Second, quarantine.Status{Planned: true}, false},
		{time.Second, quarantine.Status{Fresh: true}, true},
	} {
		at = at.Add(c.after)
		if got := s.look(at, c.status); (got != nil) != c.looked {
			t.Errorf("%s later, with %+v: looked at %v, want %v", c.after, c.status, got, c.looked)
		}
	}
}

// TestFaultsAreAskedForInTurn asks for the reasons of many devices, some at a time.
func TestFaultsAreAskedForInTurn(t *testing.T) {
	const devices = 2*mostAsked + 10
	fleet := func() []quarantine.Record {
		all := make([]quarantine.Record, 0, devices+1)
		for i := range devices {
			all = append(all, quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(string(rune('a' + i))), Stage: quarantine.Quarantined}})
		}
		return append(all, quarantine.Record{Device: quarantine.Device{ID: "routed", Stage: quarantine.Routed}})
	}
	last := string(fleet()[devices-1].ID)
	asked := map[string]int{}
	explain := func(id string) (quarantine.Explanation, error) {
		asked[id]++
		if id != last {
			return quarantine.Explanation{}, errors.New("not now")
		}
		return quarantine.Explanation{Decided: quarantine.Placement{Reasons: []quarantine.Reason{{Rule: "a"}, {Rule: "b", Fault: true}}}}, nil
	}
	var f faults
	for round := range 4 {
		all := fleet()
		f.look(all, explain)
		n := 0
		for _, times := range asked {
			n += times
		}
		if most := (round + 1) * mostAsked; n > most {
			t.Errorf("round %d: asked %d times, want at most %d", round, n, most)
		}
		if got := all[devices-1].Reasons; round >= 2 && (len(got) != 1 || got[0].Rule != "b") {
			t.Errorf("round %d: the last device has reasons %v, want the rule that is at fault", round, got)
		}
	}
	if len(asked) != devices || asked["routed"] != 0 {
		t.Errorf("asked for %d devices, want each of %d that are not routed", len(asked), devices)
	}
}

// TestFaultsBehindGraceAreSeen: a rule that cannot be evaluated is told of while those whom it
// concerns are still routed, by a grace, a waiver or because the rule only reports: that is
// when there is time to mend it. Those for whom every rule holds are not asked for.
func TestFaultsBehindGraceAreSeen(t *testing.T) {
	fault := quarantine.Reason{Set: "s", Rule: "r", Fault: true}
	all := []quarantine.Record{
		{Device: quarantine.Device{ID: "graced", Stage: quarantine.Routed}, Failing: map[string]time.Time{"s/r": time.Unix(1, 0)}},
		{Device: quarantine.Device{ID: "well", Stage: quarantine.Routed}},
		{Device: quarantine.Device{ID: "revoked", Stage: quarantine.Revoked}, Failing: map[string]time.Time{"s/r": time.Unix(1, 0)}},
		{Device: quarantine.Device{ID: "quarantined", Stage: quarantine.Quarantined}},
	}
	var f faults
	f.look(all, func(id string) (quarantine.Explanation, error) {
		if id == "well" || id == "revoked" {
			t.Errorf("asked for %s", id)
		}
		return quarantine.Explanation{Decided: quarantine.Placement{Reasons: []quarantine.Reason{{Rule: "other", Holds: true}, fault}}}, nil
	})
	for _, r := range all {
		want := 0
		if r.ID == "graced" || r.ID == "quarantined" {
			want = 1
		}
		if len(r.Reasons) != want || want == 1 && r.Reasons[0] != fault {
			t.Errorf("%s: %v", r.ID, r.Reasons)
		}
	}
}
