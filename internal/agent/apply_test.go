package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// answering is a gateway's client whose answers come from f; they need no network.
func answering(f func(r *http.Request) any) *gateway {
	return &gateway{base: "https://gw", http: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		err := json.NewEncoder(w).Encode(f(r))
		return w.Result(), err
	})}}
}

// TestMoveThatFailsOnceIsNotLost: where the network could not be set up at first, the
// schedule of sessions still learns of the move, and the gateway is asked for the state as
// it is, soon, instead of for a change.
func TestMoveThatFailsOnceIsNotLost(t *testing.T) {
	a, f := newAgent(t)
	synctest.Test(t, func(t *testing.T) {
		a.moved = make(chan struct{}, 1)
		a.take(status("routed", true, 1))
		<-a.moved
		a.noteMove()
		if !a.state.Released {
			t.Fatal("not released")
		}
		var asked []string
		var at []time.Duration
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		a.api = answering(func(r *http.Request) any {
			asked, at = append(asked, r.URL.RawQuery), append(at, time.Since(begin))
			f.fail = map[bool]error{true: errors.New("no buffer space available")}[len(asked) < 4]
			if len(asked) == 5 {
				cancel()
			}
			return status("quarantined", false, 2)
		})
		if err := a.follow(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		want := []string{"after=1&wait=25", "", "", "", "after=2&wait=25"}
		if !slices.Equal(asked, want) || at[1] != retryFirst || at[2]-at[1] != 2*retryFirst {
			t.Errorf("asked %q at %v; want %q, each pause twice the last", asked, at, want)
		}
		select {
		case <-a.moved:
		default:
			t.Fatal("nobody was told of the move")
		}
		if a.noteMove(); a.state.Released {
			t.Error("the schedule was not started over")
		}
	})
}

// TestHalfAMoveIsUndone: a release that failed halfway, and was taken back before it was
// tried again, leaves nothing of the pool.
func TestHalfAMoveIsUndone(t *testing.T) {
	a, f := newAgent(t)
	a.take(status("quarantined", false, 1))
	f.fail = errors.New("no buffer space available")
	a.take(status("routed", true, 2))
	if !slices.Contains(f.has(), prefix("10.67.0.2/32")) {
		t.Fatal("nothing was done at all")
	}
	f.fail = nil
	a.take(status("quarantined", false, 3))
	if slices.Contains(f.has(), prefix("10.67.0.2/32")) || a.behind() {
		t.Errorf("back in quarantine with %v", f.has())
	}
}
