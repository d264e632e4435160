package dataplane

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"lazaret/quarantine"
)

// cutOnes takes everything that waits to be forgotten, sorted.
func (f *fixture) cutOnes() []netip.Addr {
	var all []netip.Addr
	for some := f.takeCut(); len(some) > 0; some = f.takeCut() {
		all = append(all, some...)
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

// The queue has an end, and a flood costs nothing but connections that end by themselves.
func TestForgetIsBounded(t *testing.T) {
	f := newFixture(t)
	var many []netip.Addr
	for n := range 2 * maxForget {
		many = append(many, address(77, n))
	}
	f.forget(many)
	f.forget(many)
	if n := len(f.cutOnes()); n != maxForget {
		t.Errorf("%d addresses wait, want %d", n, maxForget)
	}
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
