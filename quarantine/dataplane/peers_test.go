package dataplane

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// peerless are the devices without a peer.
func (f *fixture) peerless() []quarantine.ID {
	var out []quarantine.ID
	for _, x := range f.unmet() {
		if x.Code == noPeer {
			out = append(out, x.Device)
		}
	}
	return out
}

// A device whose key the tunnel refuses costs itself the tunnel and nobody anything:
// not by a move, and not in a plan, whether the data plane had one before or not.
func TestRefusedPeer(t *testing.T) {
	for name, f := range map[string]*fixture{"in force": planned(t, in77(1, 5)), "freshly started": newFixture(t)} {
		t.Run(name, func(t *testing.T) {
			good, evil := in77(1, 5), in66(2, 11)
			f.link.refuse = map[tunnel.Key]bool{evil.Key: true}
			if f.planned {
				want(t, f.move(evil), quarantine.ErrPeer)
				want(t, f.prolong(fresh(10)), nil)
			}
			want(t, f.replace(somePlan(12, good, evil)), nil)
			same(t, "without a peer", f.peerless(), []quarantine.ID{evil.Device})
			if f.forwarded != 1 {
				t.Error("forwarding waits for one device's peer")
			}
			want(t, f.prolong(fresh(12)), nil)
			same(t, "the good device", f.link.allowed(good.Key), []string{"10.66.0.2", "10.77.0.2"})
			f.agree(t)

			// It is remembered: a move that touches no peer says so too.
			routed := evil
			routed.Revision, routed.Routed, routed.Mark, routed.Until = 13, evil.Quarantined, 7, epoch+60*second
			want(t, f.move(routed), quarantine.ErrPeer)
			want(t, f.move(in66(3, 14)), nil) // another device's move is none the worse
			want(t, f.prolong(fresh(14)), nil)

			// Another key, and all is well; or none, and nothing is missing.
			routed.Key, routed.Revision = peerKey(22), 15
			want(t, f.move(routed), nil)
			same(t, "without a peer", f.peerless(), nil)
			evil.Revision = 16
			want(t, f.move(evil), quarantine.ErrPeer)
			want(t, f.move(quarantine.Entry{Device: evil.Device, Revision: 17}), nil)
			same(t, "without a peer", f.peerless(), nil)
			f.agree(t)
		})
	}
}

// A peer that the tunnel did not take for no reason of its own is set again by itself; one
// that is refused is not.
func TestPeersAreSetAgain(t *testing.T) {
	f := planned(t, in77(1, 5))
	evil, late := in66(2, 11), in66(3, 12)
	f.link.refuse = map[tunnel.Key]bool{evil.Key: true}
	want(t, f.move(evil), quarantine.ErrPeer)
	f.link.fail = 3
	want(t, f.move(late), quarantine.ErrPeer)
	f.link.fail = 1
	f.retryPeers()
	if n := len(f.lacking); n != 2 {
		t.Errorf("%d peers missing after another failure, want 2", n)
	}
	f.nextRetry = time.Time{}
	f.retryPeers()
	same(t, "the late device", f.link.allowed(late.Key), []string{"10.66.0.4"})
	same(t, "without a peer", f.peerless(), []quarantine.ID{evil.Device})
	want(t, f.prolong(fresh(12)), nil)
	tried := f.link.tried
	f.nextRetry = time.Time{}
	f.retryPeers()
	if n := f.link.tried - tried; n != 0 {
		t.Errorf("%d changes tried for a refused peer", n)
	}
}

// A tunnel that is full refuses those who come last, and tries them again when there is
// room and they move. What it lacks is not tried at every other device's move.
func TestFullTunnel(t *testing.T) {
	f := newFixture(t)
	f.link.most = 3
	var all []quarantine.Entry
	for n := 1; n <= 5; n++ {
		all = append(all, in66(n, 5))
	}
	want(t, f.replace(somePlan(10, all...)), nil)
	out := f.peerless()
	if len(out) != 2 {
		t.Fatalf("without a peer: %v", out)
	}
	want(t, f.prolong(fresh(10)), nil)
	f.link.tried = 0
	again := all[slices.IndexFunc(all, func(e quarantine.Entry) bool { return e.Device == out[0] })]
	again.Revision = 11
	want(t, f.move(again), quarantine.ErrPeer)
	if f.link.tried > 2 { // its own, and once more after comparing
		t.Errorf("%d peers were tried for one move", f.link.tried)
	}
	in := slices.IndexFunc(all, func(e quarantine.Entry) bool { return !slices.Contains(out, e.Device) })
	want(t, f.move(quarantine.Entry{Device: all[in].Device, Revision: 12}), nil)
	want(t, f.move(again), nil)
	same(t, "without a peer", f.peerless(), out[1:])
	f.agree(t)
}

// A peer too many ends freshness, for nobody knows what it may do.
func TestPeerTooMany(t *testing.T) {
	f := planned(t, in66(1, 5))
	f.link.fail = 1000
	want(t, f.move(in66(2, 11)), quarantine.ErrPeer)
	want(t, f.replace(somePlan(12, in66(1, 5), in66(2, 11))), nil)
	want(t, f.prolong(fresh(12)), nil) // only device 2 is behind
	want(t, f.replace(somePlan(13)), errTunnel)
	want(t, f.prolong(fresh(13)), quarantine.ErrNotEnforced) // device 1 has a peer still
	f.link.fail = 0
	want(t, f.replace(somePlan(14, in66(2, 11))), nil)
	want(t, f.prolong(fresh(14)), nil)
	f.agree(t)
}

// An address too many is as bad as a peer too many.
func TestAddressTooMany(t *testing.T) {
	f := planned(t, in77(1, 5), in66(2, 5))
	f.link.fail = 1000
	want(t, f.move(in66(1, 11)), errTunnel)
	want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
	f.link.fail = 0
	want(t, f.move(in66(2, 12)), nil)
	want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced) // another device's move mends nothing
	want(t, f.move(in66(1, 11)), nil)
	want(t, f.prolong(fresh(11)), nil)
	f.agree(t)
}

// A table that failed is not excused by a peer that is missing as well.
func TestTableAndPeerFail(t *testing.T) {
	f := planned(t, in77(1, 5), in66(2, 5))
	f.table.fail["apply"], f.table.fail["fill"] = []error{errKernel}, []error{errKernel}
	next := in66(1, 11)
	next.Key = peerKey(99)
	f.link.refuse = map[tunnel.Key]bool{next.Key: true}
	err := f.move(next)
	want(t, err, errKernel)
	if errors.Is(err, quarantine.ErrPeer) {
		t.Errorf("the error %v says that only a peer is missing", err)
	}
	want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
}

// A device whose current key is refused still moves to its next one; one whose next
// key is refused keeps the current one.
func TestRotationBesideARefusedKey(t *testing.T) {
	for name, refused := range map[string]tunnel.Key{"current": peerKey(1), "next": peerKey(50)} {
		t.Run(name, func(t *testing.T) {
			e := in66(1, 5)
			e.Next = peerKey(50)
			f := newFixture(t)
			f.link.refuse = map[tunnel.Key]bool{refused: true}
			want(t, f.replace(somePlan(10, e, in66(2, 5))), nil)
			same(t, "without a peer", f.peerless(), []quarantine.ID{e.Device})
			if refused == e.Key {
				f.link.shaken[e.Next] = time.Now()
			}
			f.watchHandshakes()
			active := map[bool]tunnel.Key{true: e.Next, false: e.Key}[refused == e.Key]
			same(t, "the other key", f.link.allowed(active), []string{"10.66.0.2"})
			want(t, f.prolong(fresh(10)), nil)
			want(t, f.move(in77(2, 11)), nil)
			want(t, f.prolong(fresh(11)), nil)
			f.agree(t)
		})
	}
}

// What the control plane learns: the plan is taken, Faults and an event name the
// device, and moves keep Faults up to date.
func TestFaultsAreTold(t *testing.T) {
	r := run(t, nil)
	evil := in66(2, 5)
	r.link.mu.Lock()
	r.link.refuse = map[tunnel.Key]bool{evil.Key: true}
	r.link.mu.Unlock()
	c := r.dial(t)
	ctx := t.Context()
	want(t, c.Replace(ctx, somePlan(10, in77(1, 5), evil)), nil)
	if e := expect(t, c, NoPeer); e.Device != evil.Device || e.Detail == "" {
		t.Errorf("event %+v", e)
	}
	told := func(ids ...quarantine.ID) {
		t.Helper()
		faults, more := c.Faults()
		if len(faults) != len(ids) || more != 0 {
			t.Errorf("faults %v and %d more, want %v", faults, more, ids)
		}
		for _, id := range ids {
			want(t, faults[id], quarantine.ErrPeer)
		}
	}
	told(evil.Device)
	want(t, c.Refresh(ctx, fresh(10)), nil)
	want(t, c.Apply(ctx, in66(1, 11)), nil)
	told(evil.Device)
	want(t, c.Apply(ctx, quarantine.Entry{Device: evil.Device, Revision: 12}), nil)
	told()
	evil.Revision = 13
	want(t, c.Apply(ctx, evil), quarantine.ErrPeer)
	told(evil.Device)
	want(t, c.Replace(ctx, somePlan(14, in77(1, 14))), nil)
	told()
}

// An answer never outgrows a frame, and says how much it leaves out.
func TestManyFaultsFitOneFrame(t *testing.T) {
	var all []fault
	for range 3 * maxFaults {
		all = append(all, fault{Device: quarantine.ID(strings.Repeat("\x01", maxID)), Code: noPeer, Text: strings.Repeat("\x01", maxReason)})
	}
	m := withFaults(message{ID: 7, Kind: answer}, all)
	if b, err := frame(m); err != nil || len(b) > maxFrame+4 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if len(m.Faults) < 100 || len(m.Faults)+m.More != len(all) {
		t.Errorf("%d listed, %d left out of %d", len(m.Faults), m.More, len(all))
	}
	if m := withFaults(message{Kind: answer}, nil); len(m.Faults) > 0 || m.More != 0 {
		t.Errorf("an answer without faults: %+v", m)
	}
}

// A real link's own key, as every device is told it: a device that claims it has no
// peer, and everybody else goes on, through a move, a plan and a restart.
func TestDeviceWithTheGatewaysKey(t *testing.T) {
	if !inside(t) {
		return
	}
	s := newSite(t)
	ctx := t.Context()
	check(t, s.c.Replace(ctx, s.plan(10, s.routed(5, 0))))
	s.restartPhone(t)
	s.refresh(t, 10)
	s.sees(t, "routed", true, true)
	evil := in66(2, 11)
	evil.Key = publicKey(t, s)
	want(t, s.c.Apply(ctx, evil), quarantine.ErrPeer)
	s.refresh(t, 10)
	check(t, s.c.Replace(ctx, s.plan(12, s.routed(5, 0), evil)))
	s.refresh(t, 12)
	s.sees(t, "beside it", true, true)
	expect(t, s.c, NoPeer)
	s.kill(t)
	s.start(t, "")
	s.connected(t)
	check(t, s.c.Replace(ctx, s.plan(13, s.routed(5, 0), evil)))
	s.refresh(t, 13)
	if faults, _ := s.c.Faults(); len(faults) != 1 || !errors.Is(faults[evil.Device], quarantine.ErrPeer) {
		t.Errorf("faults %v", faults)
	}
	s.restartPhone(t)
	s.sees(t, "beside it, started again", true, true)
}
