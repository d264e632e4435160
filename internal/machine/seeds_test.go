package machine

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance/seed"
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

// TestFaultsAreLoggedOnce: a seed with faults is looked at again and again, and says so in the
// log once for each content; its faults go from the screen with the disk, or when a good one
// is used.
func TestFaultsAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	m := &Machine{log: slog.New(slog.NewTextHandler(&log, nil)), state: state{problems: map[string]string{}}}
	record := seed.Record{Path: filepath.Join(t.TempDir(), "seeds")}
	look := func(s seed.Seed, err error) (instance string, shown int) {
		instance = m.judgeSeed(s, err, record).Instance
		return instance, len(m.state.problems)
	}
	bad, other := seed.Seed{Instance: "i1", Faults: []string{"a", "b"}}, seed.Seed{Faults: []string{"a", "c", "d"}}
	for range 3 {
		for _, x := range []seed.Seed{bad, other} {
			if instance, shown := look(x, nil); instance != "" || shown != len(x.Faults) {
				t.Errorf("a seed with faults: %q is used, %d faults are shown, want %d", instance, shown, len(x.Faults))
			}
		}
		if _, shown := look(seed.Seed{}, errors.New("input/output error")); shown != 1 {
			t.Errorf("%d faults of a disk that cannot be read", shown)
		}
	}
	if n := strings.Count(log.String(), "a fault of the seed disk"); n != 2+3+1 {
		t.Errorf("%d faults in the log, want 6:\n%s", n, &log)
	}
	if _, shown := look(seed.Seed{}, seed.ErrNone); shown != 0 {
		t.Errorf("%d faults are shown of a disk that is gone", shown)
	}
	look(bad, nil)
	if instance, shown := look(seed.Seed{Instance: "i2"}, nil); instance != "i2" || shown != 0 {
		t.Errorf("a good seed after one with faults: %q, and %d faults are shown", instance, shown)
	}
	if err := record.Done("i2"); err != nil {
		t.Fatal(err)
	}
	if instance, _ := look(seed.Seed{Instance: "i2"}, nil); instance != "" {
		t.Error("a seed is applied a second time")
	}
	for i := range 3 * maxNoted {
		look(seed.Seed{Faults: []string{fmt.Sprint(i)}}, nil)
	}
	if len(m.noted) != maxNoted {
		t.Errorf("%d seeds with faults are remembered", len(m.noted))
	}
}
