package machine

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestSeedProblems: each fault of a seed is a problem by itself, up to a bound, and all go
// when they are taken back.
func TestSeedProblems(t *testing.T) {
	m := &Machine{log: slog.New(slog.DiscardHandler), state: state{problems: map[string]string{"clock": "It is late."}}}
	var faults []string
	for i := range maxSeedProblems + 10 {
		faults = append(faults, fmt.Sprintf("user-data:%d: it is wrong", i))
	}
	m.seedProblems(faults...)
	text := fmt.Sprint(m.state.problems)
	if len(m.state.problems) != 1+maxSeedProblems+1 || !strings.Contains(text, "The seed disk is not used: user-data:49: it is wrong.") || !strings.Contains(text, "10 more") {
		t.Errorf("%d problems: %s", len(m.state.problems), text)
	}
	m.seedProblems(faults[:1]...)
	if len(m.state.problems) != 2 {
		t.Errorf("after one fault: %v", m.state.problems)
	}
	if m.seedProblems(); len(m.state.problems) != 1 {
		t.Errorf("taken back: %v", m.state.problems)
	}
}

// TestSeedWatch: a claim that has begun is not interrupted, and none begins once a seed came.
func TestSeedWatch(t *testing.T) {
	var claimed, seeded seedWatch
	if err := claimed.begin(); err != nil || claimed.take() {
		t.Errorf("a seed interrupts a claim (%v)", err)
	}
	if !seeded.take() || seeded.begin() == nil {
		t.Error("a claim begins after a seed came")
	}
	if err := claimed.begin(); err != nil {
		t.Errorf("a claim cannot be tried again: %v", err)
	}
}
