package poll

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// run starts the lab's poller, under the bubble's clock.
func run(t *testing.T, l *lab) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// gaps are the times between rounds.
func gaps(rounds []time.Time) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(rounds); i++ {
		out = append(out, rounds[i].Sub(rounds[i-1]))
	}
	return out
}

// TestIntervals: the first round is at once, the others an interval apart, a tenth more or less.
func TestIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, time.Time{}, nil)
		start := time.Now()
		run(t, l)
		time.Sleep(10 * time.Hour)
		rounds := l.product.rounds()
		if len(rounds) < 110 || len(rounds) > 130 || !rounds[0].Equal(start) {
			t.Fatalf("%d rounds in ten hours", len(rounds))
		}
		all := gaps(rounds)
		slices.Sort(all)
		if low, high := all[0], all[len(all)-1]; low < 270*time.Second || high > 330*time.Second+time.Second || high-low < 10*time.Second {
			t.Errorf("intervals from %s to %s", low, high)
		}
		if h := l.health(t); h.Next.Before(time.Now()) || h.Next.After(time.Now().Add(330*time.Second)) {
			t.Errorf("the next is said to be at %s, now is %s", h.Next, time.Now())
		}
	})
}

// TestBackoff: each failure in a row doubles the wait, up to half an hour; success ends it.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, time.Time{}, nil)
		l.product.set(errors.New("no route to host"))
		run(t, l)
		time.Sleep(5 * time.Hour)
		all := gaps(l.product.rounds())
		for i, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 30 * time.Minute, 30 * time.Minute} {
			if d := (all[i] - want).Abs(); d > want/10+time.Second {
				t.Errorf("wait %d is %s, want about %s", i, all[i], want)
			}
		}
		if h := l.health(t); h.Failures != len(all)+1 {
			t.Errorf("%d failures told of %d", h.Failures, len(all)+1)
		}
		l.product.set(nil)
		time.Sleep(33 * time.Minute)
		before := len(l.product.rounds())
		time.Sleep(30 * time.Minute)
		if n := len(l.product.rounds()) - before; n < 5 || n > 7 || l.health(t).Failures != 0 {
			t.Errorf("%d rounds in half an hour when it is well again", n)
		}
	})
}

// TestThrottledRounds: a product that wants to be left alone is, within reason.
func TestThrottledRounds(t *testing.T) {
	for after, want := range map[time.Duration]time.Duration{45 * time.Minute: 45 * time.Minute, 1000 * time.Hour: time.Hour, time.Second: 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, time.Time{}, nil)
			l.product.set(&Throttled{"mdm.example.com", after})
			run(t, l)
			time.Sleep(2 * time.Hour)
			if got := gaps(l.product.rounds())[0]; (got - want).Abs() > want/10+time.Second {
				t.Errorf("left alone for %s, asked to for %s", got, after)
			}
		})
	}
}

// TestHints: a hint asks for its host soon, many hints ask no more often, and none speeds up
// what is failing.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, time.Time{}, nil)
		l.product.set(nil, host(0))
		l.product.one = func(id string) (Host, error) {
			h := host(0)
			h.CheckedIn = time.Now()
			return h, nil
		}
		run(t, l)
		time.Sleep(time.Minute)
		l.Hint("1")
		synctest.Wait()
		if l.gate.Last("dev1").At != time.Now().UTC() && !l.gate.Last("dev1").At.Equal(time.Now()) {
			t.Errorf("a hint reported %+v", l.gate.Last("dev1"))
		}
		for range 1000 {
			l.Hint("1")
			l.Hint("2")
			time.Sleep(100 * time.Millisecond)
		}
		if n := l.product.single(); n > 25 {
			t.Errorf("%d hosts asked for in 100 seconds", n)
		}
		if n := len(l.product.rounds()); n != 1 {
			t.Errorf("hints made %d rounds", n)
		}
		time.Sleep(time.Minute)
		ones := l.product.single()
		for n := range 1000 { // too many to ask one by one
			l.Hint("host", string(rune('a'+n%26))+string(rune('a'+n/26)))
		}
		time.Sleep(3 * hintSpacing) // for those that came while the first were asked for, it asks once more
		if n := len(l.product.rounds()); n < 2 || n > 3 || l.product.single() > ones+maxHinted {
			t.Errorf("%d rounds, %d hosts one by one", len(l.product.rounds()), l.product.single()-ones)
		}
		l.product.set(errors.New("down"))
		time.Sleep(6 * time.Minute)
		failed := len(l.product.rounds())
		for range 10 {
			l.Hint()
			time.Sleep(time.Second)
		}
		if n := len(l.product.rounds()) - failed; n > 1 {
			t.Errorf("%d rounds by hints while it is down", n)
		}
	})
}

// TestDeadline: a product that never ends its answer ends its round.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, time.Time{}, nil)
		l.Product = endless{}
		if err := l.Round(t.Context()); !errors.Is(err, context.DeadlineExceeded) || l.health(t).Failures != 1 {
			t.Errorf("%v, %+v", err, l.health(t))
		}
	})
}

type endless struct{}

func (endless) Hosts(ctx ctx, _ *Client, take func([]Host) error) error {
	<-ctx.Done()
	return ctx.Err()
}
