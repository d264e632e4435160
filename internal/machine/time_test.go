package machine

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/clock"
	"lazaret/appliance/machine"
)

// hands is a clock that shows what it was set to.
type hands struct{ at, saved time.Time }

func (h *hands) Now() time.Time                { return h.at }
func (h *hands) Step(at time.Time) error       { h.at = at; return nil }
func (h *hands) Slew(_, _ time.Duration) error { return errors.New("slewed") }
func (h *hands) Save(at time.Time) error       { h.saved = at; return nil }
func day(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// TestTypedTimeIsSet: what was typed at the screen sets the clock and the hardware's, within
// bounds, and a control plane that knew another time starts anew for it, once.
func TestTypedTimeIsSet(t *testing.T) {
	m := idle(t)
	var log strings.Builder
	m.log = slog.New(slog.NewTextHandler(&log, nil))
	h := &hands{at: day(2040, 1, 1)}
	var err error
	m.clock, err = clock.New(clock.Config{Log: slog.New(slog.DiscardHandler), System: h, Built: day(2026, 11, 22), Mark: filepath.Join(t.TempDir(), "time")})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.setTime(t.Context(), day(2026, 11, 21)); !errors.Is(err, machine.ErrRefused) || h.at != day(2040, 1, 1) {
		t.Errorf("before the image was built: %v, %s", err, h.at)
	}
	if err := m.setTime(t.Context(), day(2040, 1, 1)); err == nil {
		t.Error("14 years after it was built")
	}
	if err := m.setTime(t.Context(), day(2030, 1, 1)); err != nil || h.at != day(2030, 1, 1) || log.Len() > 0 {
		t.Errorf("without a control plane: %v, set to %s; %s", err, h.at, &log)
	}
	if err := m.parts.Start(controlPart()); err != nil {
		t.Fatal(err)
	}
	if err := m.setTime(t.Context(), day(2026, 11, 23)); err != nil || h.at != day(2026, 11, 23) || h.saved != h.at {
		t.Errorf("%v, set to %s, saved %s", err, h.at, h.saved)
	}
	if n := strings.Count(log.String(), "the control plane starts anew"); n != 1 {
		t.Errorf("it starts anew %d times: %s", n, &log)
	}
	parts := []appliance.Part{{Name: dataPlane, Ready: true}, {Name: control}}
	if failing(parts) || failing(nil) {
		t.Error("a control plane that starts is called failing")
	}
	if parts[1].Restarts = 1; !failing(parts) {
		t.Error("a control plane that ended is not called failing")
	}
	if parts[1].Ready = true; failing(parts) {
		t.Error("a control plane that runs is called failing")
	}
}

// TestClockProblem: a clock that may be wrong is a problem of a gateway whose control plane
// does not run, and of no other machine.
func TestClockProblem(t *testing.T) {
	failed := []appliance.Part{{Name: control, Restarts: 3}}
	for name, x := range map[string]struct {
		stage    appliance.Stage
		parts    []appliance.Part
		synced   bool
		doubtful bool
		want     bool
	}{
		"all of it":         {appliance.Running, failed, false, true, true},
		"synchronized":      {appliance.Running, failed, true, true, false},
		"near what's known": {appliance.Running, failed, false, false, false},
		"it runs":           {appliance.Running, []appliance.Part{{Name: control, Ready: true, Restarts: 3}}, false, true, false},
		"nobody's":          {appliance.Unclaimed, failed, false, true, false},
	} {
		st := appliance.Status{Stage: x.stage, Parts: x.parts, Clock: appliance.Clock{Synchronized: x.synced}}
		got := clockProblem(st, x.doubtful, day(2040, 1, 1).Add(5*time.Hour))
		if (got != "") != x.want || x.want && (!strings.HasPrefix(got, "The clock may be wrong: it says 2040-01-01,") || !strings.HasSuffix(got, "choose t.")) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
