package screen

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

// TestTypedTime: where no time servers answer, the time is typed: what cannot be is asked for
// again, and nothing is set without yes.
func TestTypedTime(t *testing.T) {
	told := make(chan time.Time, 1)
	p := sit(t)
	s, _ := with(t, Config{Actions: Actions{
		AcceptTime: func(context.Context) error { return errors.New("0 of 4 time servers answered; 3 must") },
		SetTime:    func(_ context.Context, at time.Time) error { told <- at; return nil },
		CheckTime: func(at time.Time) error {
			if at.Year() != 2026 {
				return errors.New("this image is of 2026")
			}
			return nil
		},
	}}, map[Console]*person{serialConsole: p})
	st := whole()
	st.Clock = appliance.Clock{}
	s.Show(st)
	say := func(prompt, text string) {
		t.Helper()
		p.see(prompt)
		p.press(text + "\r")
	}
	begin := func() {
		t.Helper()
		p.see("t accept time") // what is typed before is dropped
		p.press("t")
		p.see("servers have answered yet")
	}
	begin()
	say("Esc leaves: ", "yes")
	p.see("That failed: 0 of 4 time servers answered")
	begin()
	say("Esc leaves: ", "2026-11-22")
	p.see("That does not work: a time is year, month, day")
	say("Esc leaves: ", "2040-11-22 12:50")
	p.see("That does not work: this image is of 2026")
	say("Esc leaves: ", "2026-11-22 12:50")
	p.see("The clock is set to 2026-11-22 12:50 UTC.")
	say("Type yes", "no")
	begin()
	if len(told) > 0 {
		t.Fatal("set without a yes")
	}
	say("Esc leaves: ", "2026-11-22 12:50:30")
	say("Type yes", "yes")
	want := time.Date(2026, 11, 22, 12, 50, 30, 0, time.UTC)
	if got := receive(t, told); got.Before(want) || got.Sub(want) > 5*time.Minute {
		t.Errorf("set to %s", got)
	}
	p.see("Done.")
}

// TestTimeIsOffered: while nobody vouches for the clock of a machine that stands, and while
// it waits for a person.
func TestTimeIsOffered(t *testing.T) {
	for name, x := range map[string]struct {
		stage   appliance.Stage
		clock   appliance.Clock
		offered bool
		row     string
	}{
		"claimed, not synchronized": {appliance.Running, appliance.Clock{}, true, "not synchronized"},
		"claimed, nobody answers":   {appliance.Running, appliance.Clock{Problem: "0 of 4 time servers answered; 3 must"}, true, "NOT SYNCHRONIZED: 0 of 4 time servers answered; 3 must"},
		"claimed, synchronized":     {appliance.Running, appliance.Clock{Synchronized: true, Server: "a"}, false, "by a"},
		"waits for a person":        {appliance.Running, appliance.Clock{Synchronized: true, Problem: "far"}, true, "far"},
		"starting":                  {appliance.Starting, appliance.Clock{}, false, "not synchronized"},
		"cannot go on":              {appliance.Failed, appliance.Clock{}, true, "not synchronized"},
	} {
		s := &Screen{config: Config{Actions: Actions{AcceptTime: func(context.Context) error { return nil }}}}
		s.status = appliance.Status{Stage: x.stage, Clock: x.clock}
		menu := strings.Join((&terminal{screen: s}).menu(), " ")
		if strings.Contains(menu, "t accept time") != x.offered {
			t.Errorf("%s: the menu is %q", name, menu)
		}
		if got := clock(x.clock, at, true); got != x.row {
			t.Errorf("%s: the row says %q, want %q", name, got, x.row)
		}
	}
}

// TestStageOfAPage: of a page below nothing is said while there is none.
func TestStageOfAPage(t *testing.T) {
	st := appliance.Status{Stage: appliance.Unclaimed}
	if got := stage(st); strings.Contains(got, "below") {
		t.Errorf("without an address: %q", got)
	}
	st.URLs = []string{"https://192.0.2.7"}
	if got := stage(st); !strings.Contains(got, "page below") {
		t.Errorf("with an address: %q", got)
	}
}
