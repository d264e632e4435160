package alert

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// moves is a Gate that remembers.
type moves struct {
	mu  sync.Mutex
	all []string
	by  quarantine.Actor
}

func (m *moves) Change(_ context.Context, by quarantine.Actor, c quarantine.Change) (quarantine.Placement, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all, m.by = append(m.all, string(c.Kind)+" "+string(c.Device)), by
	return quarantine.Placement{}, nil
}

// TestWatcher leaves a device alone for 91 days, with the gateway off for 30 of them.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept, tr, gate, mail := &memory{}, &trail{}, &moves{}, &ear{name: "mail", least: Warning}
		quiet := quarantine.Record{Device: quarantine.Device{ID: "d1", Name: "pc", Owner: "u", Stage: quarantine.Quarantined}, Seen: time.Now()}
		distrust := false
		run := func(d time.Duration) {
			b, err := OpenBook(t.Context(), kept, tr.audit, gateway)
			if err != nil {
				t.Fatal(err)
			}
			w, err := NewWatcher(Config{
				Book: b, Store: kept, Gate: gate, Log: discard, Every: 30 * time.Minute,
				View: func(context.Context) (View, error) {
					return View{Now: time.Now(), Devices: []quarantine.Record{quiet}}, nil
				},
				Outlets: func(context.Context) ([]Outlet, error) { return []Outlet{mail}, nil },
				Trusted: func(context.Context) (time.Time, error) {
					if distrust {
						return time.Time{}, errors.New("the clock is wrong")
					}
					return time.Now(), nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		}
		run(20 * day)
		if len(mail.heard) != 0 {
			t.Errorf("after 20 days: %v", mail.heard)
		}
		time.Sleep(30 * day) // off; a bubble's clock stands still for nobody
		run(2 * day)
		if got := strings.Join(mail.heard, ", "); got != "raised inactive-device/d1" {
			t.Errorf("after 22 days of listening: %q, want the device told of once", got)
		}
		run(67 * day)
		if len(gate.all) != 0 {
			t.Errorf("after 89 days of listening: %v", gate.all)
		}
		distrust = true
		run(5 * day)
		if len(gate.all) != 0 {
			t.Errorf("with a clock that is not trusted: %v", gate.all)
		}
		distrust = false
		run(2 * day)
		if len(gate.all) == 0 || gate.all[0] != "wipe d1" || gate.by != inactivity {
			t.Errorf("after 91 days of listening: %v by %v, want the device wiped by the rule of inactivity", gate.all, gate.by)
		}
	})
}
