package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A heart beats while the store answers, and not when it fails or hangs.
func TestHeartbeatFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var beats atomic.Int32
		var answer atomic.Value
		answer.Store(func(context.Context) error { return nil })
		h := heartbeat{
			every: 5 * time.Second, log: slog.New(slog.DiscardHandler),
			look: func(ctx context.Context) error { return answer.Load().(func(context.Context) error)(ctx) },
			tell: func(state string) {
				if state != "WATCHDOG=1" {
					t.Errorf("told %q", state)
				}
				beats.Add(1)
			},
		}
		done := make(chan error)
		go func() { done <- h.run(ctx) }()
		for _, x := range []struct {
			answer func(context.Context) error
			least  int32
			most   int32
		}{
			{func(context.Context) error { return nil }, 11, 13},
			{func(context.Context) error { return errors.New("no quorum") }, 0, 0},
			{func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 0, 0},
			{func(context.Context) error { return nil }, 11, 13},
		} {
			time.Sleep(6 * time.Second) // synctest's clock: what was under way ends
			answer.Store(x.answer)
			beats.Store(0)
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := beats.Load(); n < x.least || n > x.most {
				t.Errorf("%d beats in a minute, want %d to %d", n, x.least, x.most)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
