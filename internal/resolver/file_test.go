package resolver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLeftoversAreCleared: a process that was killed while it wrote leaves a file behind,
// which the next one removes, and nothing else.
func TestLeftoversAreCleared(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "names.json")
	if err := write(file, savedFile{V: 1}); err != nil {
		t.Fatal(err)
	}
	half, err := os.CreateTemp(dir, "names.json.*") // as write does
	if err != nil {
		t.Fatal(err)
	}
	half.Close()
	for _, other := range []string{"names.json.bak", "other.json.123", "xnames.json.1"} {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newLab(t, func(c *Config) { c.File = file })
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range list {
		left = append(left, e.Name())
	}
	if want := []string{"names.json", "names.json.bak", "other.json.123", "xnames.json.1"}; !slices.Equal(left, want) {
		t.Errorf("left are %v", left)
	}
}

// TestLoadedEndsDoNotFollowTheClock: what was read back ends by the monotonic clock, so that
// setting the clock back afterwards lengthens nothing (its reading is in the text of a time).
func TestLoadedEndsDoNotFollowTheClock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names.json")
	now := time.Now()
	text, err := json.Marshal(savedFile{V: 1, Names: map[string][2][]savedPinned{mdm: {{
		{Addr: quarantined, Good: now.Add(time.Minute).Round(0), Current: true}, {Addr: narrow, Good: now.Add(1000 * time.Hour).Round(0), Current: true},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(c *Config) { c.File = file })
	known, _ := l.Look(mdm)
	if len(known.Pins) != 2 {
		t.Fatalf("known are %+v", known.Pins)
	}
	for _, p := range known.Pins {
		want := now.Add(time.Minute)
		if p.Addr == narrow {
			want = time.Now().Add(MaxTTL)
		}
		if !strings.Contains(p.Good.String(), " m=") || p.Good.Sub(want).Abs() > time.Minute {
			t.Errorf("%s is good until %s", p.Addr, p.Good)
		}
	}
}
