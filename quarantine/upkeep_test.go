package quarantine_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

func TestFreshness(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		time.Sleep(10 * time.Minute)
		b.wantRouted("d1", true, "ten minutes later")

		asked := firewall.Deadline(0)
		b.store.SetHook(func(ctx context.Context, step string, _ quarantine.ID) error {
			if step == "now" {
				asked = b.boot()
				time.Sleep(3 * time.Second) // a slow store: what it says is true of its beginning
			}
			return nil
		})
		time.Sleep(time.Minute)
		if got := b.enforcer.Freshness().Fresh; got > asked+firewall.Deadline(time.Minute) {
			t.Errorf("fresh until %d, more than a minute after the store was asked at %d", got, asked)
		}

		b.store.SetHook(func(ctx context.Context, step string, _ quarantine.ID) error {
			if step == "now" {
				return storetest.Stall(ctx)
			}
			return nil
		})
		time.Sleep(61 * time.Second)
		b.wantRouted("d1", false, "no linearizable read for a minute")

		b.up()
		time.Sleep(20 * time.Second)
		b.wantRouted("d1", true, "the store is back")
	})
}

// A watch that lags behind the store gives no freshness, however well reads go.
func TestFreshnessNeedsWatch(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.store.SetHook(func(ctx context.Context, step string, _ quarantine.ID) error {
			if step == "watch" {
				return storetest.Stall(ctx)
			}
			return nil
		})
		b.store.Touch() // wakes the watch, which then stalls
		b.store.Touch()
		time.Sleep(61 * time.Second)
		b.wantRouted("d1", false, "the watch is stuck")
		b.up()
		b.gate.Replan()
	})
}

func TestEnforcerComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.enforcer.Restart()
		b.gate.Replan()
		synctest.Wait()
		b.wantRouted("d1", true, "told of the restart")
		b.enforcer.Restart()
		time.Sleep(25 * time.Second)
		b.wantRouted("d1", true, "found out by a refused refresh")

		b.enforcer.SetHook(func(context.Context, string, quarantine.ID) error { return errors.New("no data plane") })
		p, err := b.gate.Approve(t.Context(), admin, "d1", "")
		if !errors.Is(err, quarantine.ErrNotEnforced) || p.Stage != quarantine.Routed {
			t.Errorf("a change without a data plane: %+v, %v; want ErrNotEnforced", p, err)
		}
		if _, err := b.gate.Block(t.Context(), admin, "d1", ""); !errors.Is(err, quarantine.ErrNotEnforced) {
			t.Errorf("a block without a data plane: %v; want ErrNotEnforced", err)
		}
		if x, err := b.gate.Explain("d1"); err != nil || x.Enforced || x.Problem == "" {
			t.Errorf("explained as enforced %v, problem %q, %v", x.Enforced, x.Problem, err)
		}
		b.enforcer.SetHook(nil)
		time.Sleep(10 * time.Second)
		if e := b.enforcer.Entry("d1"); !e.Key.IsZero() {
			t.Errorf("blocked, and the data plane holds %+v", e)
		}
		if x, err := b.gate.Explain("d1"); err != nil || !x.Enforced || x.Problem != "" || x.InForce.Stage != quarantine.Blocked {
			t.Errorf("explained as %+v, %v", x, err)
		}
	})
}

func TestSettingsChange(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		s := settings()
		staff := s.Profiles["staff"]
		staff.Pool = "other"
		s.Profiles["staff"] = staff
		b.store.Save(s)
		synctest.Wait()
		if got := b.enforcer.Entry("d1").Routed; len(got) != 1 || got[0] != netip.MustParseAddr("10.3.0.2") {
			t.Errorf("the profile has another pool: routed %v", got)
		}
		b.reconciled("another pool")
		delete(s.Sources, "mdm")
		b.store.Save(s)
		synctest.Wait()
		b.wantRouted("d1", false, "its source is gone")
		b.reconciled("source gone")

		p := s.Pools["other"]
		p.IPv4 = netip.MustParsePrefix("10.1.2.0/24")
		s.Pools["other"] = p
		_, plans, _ := b.enforcer.Counts()
		b.store.Save(s)
		time.Sleep(2 * time.Minute)
		if _, after, _ := b.enforcer.Counts(); after != plans {
			t.Error("a plan with overlapping pools was sent")
		}
		if b.enforcer.Freshness().Fresh > b.boot() {
			t.Error("fresh, with pools that cannot be enforced")
		}
		if st := b.gate.Status(); !strings.Contains(st.Problem, "overlap") {
			t.Errorf("status %+v names no overlap", st)
		}
	})
}

func TestCompactedAndGone(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.enroll(enrolled(2, "staff", time.Now()))
		b.compliant("d2")
		b.down()
		b.store.Touch() // ends the watch
		synctest.Wait()
		b.store.Delete("d1")
		r, _ := b.store.Get("d2")
		r.Block = quarantine.Decision{By: admin, At: time.Now()}
		r = b.store.Put(r)
		b.store.Compact(r.Revision)
		b.up()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := b.enforcer.Entries(); len(got) != 0 {
			t.Errorf("one device is gone and one blocked, and the data plane holds %v", got)
		}
		if _, err := b.gate.Device("d1"); !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("the deleted device: %v", err)
		}
		b.enroll(enrolled(3, "staff", time.Now()))
		b.store.Delete("d3")
		synctest.Wait()
		if e := b.enforcer.Entry("d3"); !e.Key.IsZero() {
			t.Errorf("deleted, and the data plane holds %+v", e)
		}
		if b.store.Confirmed() == 0 {
			t.Error("no plan was confirmed to the store")
		}
	})
}

// late is a store whose watch begins with events that are over.
type late struct {
	quarantine.Store
	over []quarantine.Event
}

func (l late) Watch(ctx context.Context, after int64) <-chan quarantine.Event {
	out := make(chan quarantine.Event)
	go func() {
		defer close(out)
		for _, e := range l.over {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
		for e := range l.Store.Watch(ctx, after) {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Events that are not newer than what was read bring no deleted device back, and take none
// away that is there.
func TestLateEvents(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		ghost := b.enroll(enrolled(1, "skip", time.Now()))
		b.store.Delete("d1")
		b.enroll(enrolled(2, "skip", time.Now()))
		now, err := b.store.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.stop()
		b.through = func(s quarantine.Store) quarantine.Store {
			return late{s, []quarantine.Event{
				{Revision: ghost.Revision, Records: []quarantine.Record{ghost}},
				{Revision: now - 1, Gone: []quarantine.ID{"d2"}},
				{Revision: now, Gone: []quarantine.ID{"d2"}},
			}}
		}
		b.run()
		if _, err := b.gate.Device("d1"); !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("a deleted device is back: %v", err)
		}
		if e := b.enforcer.Entry("d1"); !e.Key.IsZero() {
			t.Errorf("a deleted device has a peer: %+v", e)
		}
		b.wantRouted("d2", true, "after late events")
		if got := b.gate.Status().Revision; got != now {
			t.Errorf("at revision %d, want %d", got, now)
		}
		b.enroll(enrolled(3, "skip", time.Now()))
		b.wantRouted("d3", true, "the watch goes on")
	})
}

func TestClockJump(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		ahead := time.Duration(0)
		var mu sync.Mutex
		b.stop()
		b.clock.Wall = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(ahead)
		}
		b.run()
		b.wantRouted("d1", true, "restarted")
		mu.Lock()
		ahead = 30 * time.Minute
		mu.Unlock()
		time.Sleep(3 * time.Second)
		if left := b.enforcer.Entry("d1").Until - b.boot(); left > firewall.Deadline(30*time.Minute) {
			t.Errorf("the wall clock went half an hour ahead, and the lease has %s left", time.Duration(left))
		}
	})
}
