package quarantine_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// Moves while there is no data plane fill no log: the first is told, then a count once a
// minute, and the rest when a plan has brought them.
func TestMovesInVainAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.stop()
		var log guarded
		b.made = func(g *quarantine.Gate) { g.Log = slog.New(slog.NewTextHandler(&log, nil)) }
		b.run()
		lines := func(what string) (all []string) {
			synctest.Wait()
			for l := range strings.Lines(log.String()) {
				if strings.Contains(l, what) {
					all = append(all, l)
				}
			}
			return all
		}
		b.refuse()
		for n := range 75 { // one each second
			b.enroll(enrolled(n+1, "staff", time.Now()))
			time.Sleep(time.Second)
		}
		told := lines("is not applied")
		if len(told) != 2 || !strings.Contains(told[0], "device=d1 ") || !strings.Contains(told[1], "device=d61 ") || !strings.Contains(told[1], "line\"=59\n") {
			t.Errorf("75 moves in vain are told as %q", told)
		}
		b.enforcer.SetHook(nil)
		time.Sleep(10 * time.Second)
		if told := lines("a plan brought"); len(told) != 1 || !strings.Contains(told[0], "them\"=14\n") {
			t.Errorf("and the last of them as %q", told)
		}
		b.refuse()
		b.enroll(enrolled(76, "staff", time.Now()))
		if told := lines("is not applied"); len(told) != 3 || !strings.Contains(told[2], "device=d76 ") {
			t.Errorf("the first of the next outage is told as %q", told)
		}
	})
}

// guarded is a log that is read while it is written.
type guarded struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(b)
}

func (g *guarded) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

// What is on its way to the data plane is not enforced yet: the plan that other settings ask
// for, and the move into another pool once that is recorded.
func TestOnItsWayIsNotEnforced(t *testing.T) {
	for _, step := range []string{"replace", "apply"} {
		bubble(t, func(t *testing.T, b *bench) {
			b.enroll(enrolled(1, "staff", time.Now()))
			b.compliant("d1")
			before, held := b.enforcer.Entry("d1"), make(chan struct{})
			b.enforcer.SetHook(func(_ context.Context, at string, _ quarantine.ID) error {
				if at == step {
					<-held
				}
				return nil
			})
			s := settings()
			s.Profiles["staff"] = quarantine.Profile{Name: "staff", Pool: "other"}
			b.store.Save(s)
			synctest.Wait()
			if x, err := b.gate.Explain("d1"); err != nil || x.Enforced {
				t.Errorf("before the %s: in force %s in pool %q, enforced %v, %v", step, x.InForce.Stage, x.InForce.Pool, x.Enforced, err)
			}
			close(held)
			synctest.Wait()
			x, err := b.gate.Explain("d1")
			if err != nil || !x.Enforced || x.InForce.Stage != quarantine.Routed || x.InForce.Pool != "other" {
				t.Errorf("after the %s: in force %s in pool %q, enforced %v, %v", step, x.InForce.Stage, x.InForce.Pool, x.Enforced, err)
			}
			if e := b.enforcer.Entry("d1"); len(e.Routed) == 0 || e.Mark == before.Mark {
				t.Errorf("after the %s the data plane holds %+v", step, e)
			}
		})
	}
}
