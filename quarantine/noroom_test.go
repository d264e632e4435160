package quarantine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// TestNoRoomKeepsNobodyWaiting: devices whose records the store has no room for keep nobody
// else's record waiting, neither in the line with them nor once they were tried often.
func TestNoRoomKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.through = func(s quarantine.Store) quarantine.Store { return struct{ quarantine.Store }{s} } // records one by one
		b.run()
		defer func() { b.stop() }()
		for i := range 12 {
			b.enroll(enrolled(i+1, "staff", time.Now()))
			b.compliant(quarantine.ID(fmt.Sprintf("d%d", i+1)))
		}
		refused := map[quarantine.ID]bool{}
		var mu sync.Mutex // guards tries
		tries := map[quarantine.ID]int{}
		tried := func(id quarantine.ID) int {
			mu.Lock()
			defer mu.Unlock()
			return tries[id]
		}
		b.down()
		for i := range 11 {
			id := quarantine.ID(fmt.Sprintf("d%d", i+1))
			refused[id] = i < 10
			if _, err := b.gate.Block(t.Context(), admin, id, "stolen"); err != nil {
				t.Fatal(err)
			}
		}
		full := func(_ context.Context, step string, id quarantine.ID) error {
			switch {
			case step != "record":
				return nil
			case refused[id]:
				mu.Lock()
				defer mu.Unlock()
				tries[id]++
				return quarantine.ErrNoRoom
			}
			return nil
		}
		pending := func(id string, want int) {
			t.Helper()
			if x, err := b.gate.Explain(id); err != nil || len(x.Pending) != want {
				t.Errorf("%s has %d changes pending (%v), want %d", id, len(x.Pending), err, want)
			}
		}
		b.store.SetHook(full)
		for tried("d1") == 0 { // the recorder waits since the store was down
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		pending("d11", 0)
		pending("d1", 1)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := tried("d1"); n < 2 || n > 10000 {
			t.Errorf("tried %d times in an hour", n)
		}
		if _, err := b.gate.Block(t.Context(), admin, "d12", "stolen"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		pending("d12", 0)
		pending("d1", 1)
		b.up()
		time.Sleep(time.Hour)
		synctest.Wait()
		pending("d1", 0)
	})
}
