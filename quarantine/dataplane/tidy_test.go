package dataplane

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// cutOnes takes everything that waits to be forgotten, sorted.
func (f *fixture) cutOnes() []netip.Addr {
	f.tidy()
	var all []netip.Addr
	for a, ok := f.nextCut(); ok; a, ok = f.nextCut() {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// Only addresses that stand in no set any more are forgotten: not those of a fixed address
// that falls back to quarantine, nor what was given again meanwhile.
func TestWhatIsForgotten(t *testing.T) {
	f := planned(t, in77(1, 5), in77(2, 5), in77(3, 5))
	want(t, f.move(in66(1, 11)), nil)
	same(t, "demoted", f.cutOnes(), []netip.Addr{address(77, 1)})
	want(t, f.move(quarantine.Entry{Device: id(2), Revision: 12}), nil)
	same(t, "blocked", f.cutOnes(), []netip.Addr{address(66, 2), address(77, 2)})
	want(t, f.move(in66(3, 13)), nil)
	want(t, f.move(in77(3, 14)), nil)
	same(t, "given again", f.cutOnes(), nil)
	fixed := in66(4, 15)
	fixed.Routed, fixed.Mark, fixed.Until = fixed.Quarantined, 7, epoch+60*second
	want(t, f.move(fixed), nil)
	want(t, f.move(in66(4, 16)), nil)
	same(t, "a fixed address", f.cutOnes(), nil)
	want(t, f.replace(somePlan(20, in66(1, 20), in66(3, 20))), nil)
	same(t, "by a plan", f.cutOnes(), []netip.Addr{address(66, 4), address(77, 3)})
}

// What an order cut waits for its answer.
func TestNothingIsForgottenBeforeTheAnswer(t *testing.T) {
	f := planned(t, in77(1, 5), in77(2, 5))
	want(t, f.move(in66(1, 11)), nil)
	f.tidy()
	want(t, f.move(in66(2, 12)), nil)
	if a, ok := f.nextCut(); !ok || a != address(77, 1) {
		t.Errorf("answered was the cut of %s, and forgotten is %s (%v)", address(77, 1), a, ok)
	}
	if a, ok := f.nextCut(); ok {
		t.Errorf("%s is forgotten before the answer", a)
	}
	same(t, "answered", f.cutOnes(), []netip.Addr{address(77, 2)})
}

// A bulk of thousands of demotions queues some of them, says once how many were left, and
// has the kernel walk its table a twentieth of the time, however long a walk takes; the end
// of the data plane waits for none of it.
func TestForgetIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		var log bytes.Buffer
		f.log = slog.New(slog.NewTextHandler(&log, nil))
		f.flows.fail = errKernel
		var began []time.Time
		const walk = 100 * time.Millisecond
		var takes atomic.Int64
		takes.Store(int64(walk))
		f.flows.called = func() {
			f.mu.Lock()
			began = append(began, time.Now())
			f.mu.Unlock()
			time.Sleep(time.Duration(takes.Load())) // of the bubble's clock
		}
		walks := func() []time.Time {
			f.mu.Lock()
			defer f.mu.Unlock()
			return slices.Clone(began)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); f.tidyFlows(ctx) }()
		f.mu.Lock()
		for n := range 5000 {
			f.forget([]netip.Addr{address(77, n)})
		}
		f.mu.Unlock()
		f.tidy()
		time.Sleep(100*20*walk - time.Nanosecond)
		synctest.Wait()
		if n := len(walks()); n != 100 {
			t.Errorf("%d walks of %s in %s, want 100", n, walk, 100*20*walk)
		}
		takes.Store(10 * int64(walk))
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(f.flows.forgot); n != 256 {
			t.Errorf("%d addresses were forgotten, want 256", n)
		}
		for i, all := 101, walks(); i < len(all); i++ {
			if d := all[i].Sub(all[i-1]); d < 20*time.Second {
				t.Errorf("two walks of a second each begin %s apart", d)
			}
		}
		if n, left := strings.Count(log.String(), "\n"), strings.Contains(log.String(), `"no room in the queue"=4744 failed=256`); n != 2 || !left {
			t.Errorf("the log has %d lines:\n%s", n, log.String())
		}
		f.mu.Lock()
		f.forget([]netip.Addr{address(77, 1), address(77, 2)})
		f.mu.Unlock()
		f.tidy()
		time.Sleep(10 * walk)
		synctest.Wait() // it rests
		end := time.Now()
		cancel()
		<-ended
		if n := len(f.flows.forgot); n != 257 || !time.Now().Equal(end) {
			t.Errorf("%d addresses forgotten; ended after %s more", n, time.Since(end))
		}
	})
}

// countedConn counts what was written.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.writes.Add(1)
	return n, err
}

// A cut is answered before anything is tidied up, and tidying that fails, or that does not
// end, keeps nobody waiting; it ends with the data plane.
func TestTidyAfterTheAnswer(t *testing.T) {
	ours, theirs := net.Pipe()
	var writes, answered atomic.Int64
	called := make(chan struct{}, 10)
	hold := make(chan struct{})
	r := run(t, func(c *Config) {
		c.Listen, c.Conn = nil, countedConn{ours, &writes}
		flows := c.Flows.(*fakeFlows)
		flows.fail = errKernel
		flows.called = func() { answered.Store(writes.Load()); called <- struct{}{}; <-hold }
	})
	c := NewClient(theirs)
	defer c.Close()
	expect(t, c, Connected)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	want(t, c.Replace(ctx, somePlan(10, in77(1, 5), in77(2, 5))), nil)
	before := writes.Load()
	want(t, c.Apply(ctx, in66(1, 11)), nil)
	<-called
	if answered.Load() <= before {
		t.Error("connections were forgotten before the answer")
	}
	want(t, c.Apply(ctx, in66(2, 12)), nil) // while the first one hangs
	want(t, c.Refresh(ctx, fresh(12)), nil)
	hold <- struct{}{}
	<-called
	close(hold)
	want(t, r.stop(), nil)
	same(t, "forgotten", r.flows.forgot, []netip.Addr{address(77, 1), address(77, 2)})
}
