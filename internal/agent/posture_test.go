package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	postures "lazaret/internal/posture"
)

// TestPostureIsKept: a device is looked at every two minutes at most, a look that was cut
// short counts for nothing, and nobody who was handed facts changes those of others.
func TestPostureIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lately
		looks := 0
		look := func(context.Context) postures.Posture {
			looks++
			return postures.Posture{Facts: map[string]string{"os.name": "debian"}}
		}
		cut, cancel := context.WithCancel(t.Context())
		cancel()
		l.get(cut, look)
		l.get(t.Context(), look).Facts["x"] = "y"
		if looks != 2 {
			t.Fatalf("looked %d times, want again after a look that was cut short", looks)
		}
		time.Sleep(postureLife - time.Second)
		if got := l.get(t.Context(), look).Facts; looks != 2 || len(got) != 1 {
			t.Errorf("looked %d times, facts %v", looks, got)
		}
		time.Sleep(time.Second)
		if l.get(t.Context(), look); looks != 3 {
			t.Errorf("looked %d times after two minutes, want 3", looks)
		}
		l.forget()
		if l.get(t.Context(), look); looks != 4 {
			t.Errorf("looked %d times after it was forgotten, want 4", looks)
		}
	})
}

// TestClaim: what a device says when it enrolls is a platform that profiles know.
func TestClaim(t *testing.T) {
	if c := claim(t.Context()); c.Platform == "" || c.Version != 1 {
		t.Errorf("claims %+v", c)
	}
}
