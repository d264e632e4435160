package quarantine_test

import (
	"bytes"
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
