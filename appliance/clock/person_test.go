package clock

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPersonSetsTheClock: a clock that is far ahead, with a mark as far, is set right by a
// person where no server answers, stays right after a restart, and is not called synchronized.
func TestPersonSetsTheClock(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	ahead := 14 * 365 * 24 * time.Hour
	if err := touch(mark, time.Now().Add(ahead)); err != nil {
		t.Fatal(err)
	}
	built := time.Now().Add(-1000 * time.Hour)
	f := &fake{off: ahead}
	var log strings.Builder
	config := Config{System: f, Built: built, Mark: mark, Claimed: func() bool { return true }, Log: slog.New(slog.NewTextHandler(&log, nil)),
		ask: func(context.Context, string, func() time.Time) (sample, error) {
			return sample{}, errors.New("no network")
		}}
	k := keeper(t, config)
	if err := k.Accept(t.Context()); err == nil {
		t.Error("accepted what nobody said")
	}
	for what, at := range map[string]time.Time{"before the image": built.Add(-time.Minute), "mistyped": built.AddDate(MaxYears, 0, 1), "nothing": {}} {
		if err := k.Set(at); err == nil || f.steps+f.saved != 0 {
			t.Errorf("%s: %v, %d steps", what, err, f.steps)
		}
	}
	if err := k.Set(time.Now()); err != nil || f.off.Abs() > time.Minute || f.steps != 1 || f.saved != 1 {
		t.Errorf("%v; off by %v, %d steps, saved %d times", err, f.off, f.steps, f.saved)
	}
	if s := k.Status(); s.Synchronized {
		t.Errorf("a person's time is called synchronized: %+v", s)
	}
	if !strings.Contains(log.String(), "a person set the clock") {
		t.Errorf("the log has %q", &log)
	}
	if err := keeper(t, config).Floor(); err != nil || f.steps != 1 {
		t.Errorf("at the next start: %v, off by %v", err, f.off)
	}
	config.Built = time.Time{}
	if err := keeper(t, config).Set(time.Now()); err == nil {
		t.Error("set without any bound")
	}
}

// TestPersonDoesNotOverrule: what servers agree on is not typed over, but where it waits for
// a person.
func TestPersonDoesNotOverrule(t *testing.T) {
	says := time.Duration(0)
	f := &fake{}
	k := keeper(t, Config{System: f, Built: time.Now().Add(-time.Hour), Servers: func() []string { return []string{"a"} }, Claimed: func() bool { return true },
		ask: func(_ context.Context, s string, _ func() time.Time) (sample, error) {
			return sample{s, says, time.Millisecond}, nil
		}})
	if err := k.compare(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := k.Set(time.Now().Add(time.Minute)); err == nil || f.steps != 0 {
		t.Errorf("%v, %d steps", err, f.steps)
	}
	says = 100 * time.Hour
	if err := k.compare(t.Context(), false); err == nil {
		t.Error("followed without a person")
	}
	if err := k.Set(time.Now().Add(time.Minute)); err != nil || f.steps != 1 || k.Status().Synchronized {
		t.Errorf("%v, %d steps, %+v", err, f.steps, k.Status())
	}
}

// TestDoubtful: a clock is doubted where no servers agree and nothing known is near.
func TestDoubtful(t *testing.T) {
	const day = 24 * time.Hour
	for name, x := range map[string]struct {
		built, mark time.Duration // ago; 0: none
		synced      bool
		want        bool
	}{
		"a young image":    {built: 29 * day},
		"an old image":     {built: 31 * day, want: true},
		"a young mark":     {built: 365 * day, mark: day},
		"both are old":     {built: 365 * day, mark: 31 * day, want: true},
		"servers agree":    {built: 365 * day, synced: true},
		"nothing is known": {want: true},
	} {
		mark := filepath.Join(t.TempDir(), "mark")
		if x.mark != 0 {
			if err := touch(mark, time.Now().Add(-x.mark)); err != nil {
				t.Fatal(err)
			}
		} else if _, err := os.Stat(mark); err == nil {
			t.Fatal("a mark is there")
		}
		c := Config{System: &fake{}, Mark: mark}
		if x.built != 0 {
			c.Built = time.Now().Add(-x.built)
		}
		k := keeper(t, c)
		if x.synced {
			k.note(0, "a", nil)
		}
		if got := k.Doubtful(); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
