package chaos

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// kills is how many processes TestKills kills: some for every step in the short run.
func kills(t testing.TB) int {
	n := 70
	if os.Getenv("LONG") == "1" {
		n = 10_000
	}
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		check(t, err)
	}
	return n
}

// tally counts what was killed, and where.
type tally struct {
	plane, control int
	at             map[string]int
}

// Either process is killed by SIGKILL, at every step and at random, while packets that
// nothing allows are sent from all sides, and the devices go up and down. None of them
// ever passes. After each kill the process is started again, and the kernel holds what was
// decided, no more and no less: nothing that was answered is lost.
func TestKills(t *testing.T) {
	if !inside(t, 8*time.Hour) {
		return
	}
	l := newLab(t)
	c := tally{at: map[string]int{}}
	began, all, told := time.Now(), kills(t), 0
	for c.plane+c.control < all {
		// The control plane takes seconds of its store's to start, the data plane none.
		if dice.IntN(6) == 0 {
			l.killControl(t, &c)
		} else {
			l.killPlane(t, &c)
		}
		l.settled(t)
		if n := c.plane + c.control; n >= told+100 {
			told = n
			t.Logf("%d kills after %s, %d packets sent (of them forbidden %d), forbidden passed 0", n, time.Since(began).Round(time.Second), l.sent.Load(), l.denied.Load())
		}
	}
	if l.passed.Load() == 0 || l.denied.Load() == 0 {
		t.Errorf("%d allowed packets passed, and %d forbidden ones were sent", l.passed.Load(), l.denied.Load())
	}
	t.Logf("killed at: %v", c.at)
	t.Logf("kills survived: %d (data plane %d, control plane %d), packets sent %d (of them forbidden %d), allowed passed %d, forbidden passed %d, in %s",
		c.plane+c.control, c.plane, c.control, l.sent.Load(), l.denied.Load(), l.passed.Load(), len(l.forbidden()), time.Since(began).Round(time.Second))
}

// least picks one of steps that came least often so far.
func (c *tally) least(role string, steps []string) string {
	best := steps[dice.IntN(len(steps))]
	for _, s := range steps {
		if c.at[role+" "+s] < c.at[role+" "+best] {
			best = s
		}
	}
	return best
}

// killPlane kills the data plane once while it works, or once more while it starts.
func (l *lab) killPlane(t *testing.T, c *tally) {
	switch step := c.least("plane", planeSteps); dice.IntN(3) {
	case 0:
		var done struct{}
		_ = l.plane.ask(planeOrder{Die: step}, &done)
		l.moveUntil(t, l.plane, step)
		c.at["plane "+step]++
	case 1:
		l.moveFor(time.Duration(dice.Int64N(int64(20 * time.Millisecond))))
		l.plane.kill()
		c.at["plane at random"]++
	default:
		l.plane.kill()
		c.at["plane at rest"]++
	}
	c.plane++
	l.note("data plane killed")
	l.whileDead(t)
	if dice.IntN(2) == 0 {
		step := c.least("plane boot", planeBoot)
		l.startPlane(t, step)
		l.awaitDeath(t, l.plane, step)
		l.note("data plane killed %s", step)
		c.at["plane boot "+step]++
		c.plane++
		l.whileDead(t)
	}
	l.startPlane(t, "")
}

// killControl does the same to the control plane.
func (l *lab) killControl(t *testing.T, c *tally) {
	switch step := c.least("control", controlSteps); dice.IntN(4) {
	case 0, 1:
		_, _ = l.control.order(controlOrder{Die: step})
		l.moveUntil(t, l.control.process, step)
		c.at["control "+step]++
	case 2:
		if _, err := l.control.order(controlOrder{Die: step}); err == nil { // and now nobody knows which of both comes first
			l.moveFor(time.Duration(dice.Int64N(int64(20 * time.Millisecond))))
		}
		l.control.kill()
		c.at["control at random"]++
	default:
		l.control.kill()
		c.at["control at rest"]++
	}
	c.control++
	l.note("control plane killed")
	l.whileDead(t)
	if dice.IntN(3) == 0 {
		step := c.least("control boot", controlBoot)
		l.startControl(t, step)
		l.awaitDeath(t, l.control.process, step)
		l.note("control plane killed %s", step)
		c.at["control boot "+step]++
		c.control++
	}
	l.startControl(t, "")
}

// moveUntil moves devices until p has died at its step.
func (l *lab) moveUntil(t *testing.T, p *process, step string) {
	t.Helper()
	for end := time.Now().Add(patience); !p.dead(); {
		l.move(1 + dice.IntN(movers))
		if time.Now().After(end) {
			t.Fatalf("%s never came to %q", p.name, step)
		}
	}
	p.await()
}

func (l *lab) moveFor(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.move(1 + dice.IntN(movers))
	}
}

// awaitDeath waits until p has died at a step of its start.
func (l *lab) awaitDeath(t *testing.T, p *process, step string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%s never came to %q", p.name, step)
	}
	p.await()
}

// whileDead lets every sort of packet be sent at what the dead process left behind, and
// now and then has a device moved meanwhile.
func (l *lab) whileDead(t *testing.T) {
	t.Helper()
	if dice.IntN(2) == 0 && !l.control.dead() {
		l.move(1 + dice.IntN(movers))
	}
	l.round(t)
}
