package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

var errBusy = errors.New("the name is taken")

// goneLink is a link that is asked for its peers and addresses after its interface is gone.
type goneLink struct{ *fakeLink }

func (goneLink) SetAddresses([]netip.Prefix) error   { return tunnel.ErrLost }
func (goneLink) Peers() ([]tunnel.PeerStatus, error) { return nil, tunnel.ErrLost }

// A plan that meets the loss before anybody looked has filled the table, and failed: the
// table is emptied before a tunnel is opened all the same.
func TestLostWhilePlanning(t *testing.T) {
	f := planned(t, in77(1, 5))
	f.Plane.link = goneLink{f.link}
	f.link.gone = true
	if err := f.replace(somePlan(11, in77(1, 5))); err == nil || f.planned {
		t.Fatalf("a plan without a tunnel: %v, planned %v", err, f.planned)
	}
	var opened int
	f.config.OpenLink = func(context.Context) (Link, error) {
		opened++
		if n := len(f.table.quarantined) + len(f.table.routed); n != 0 || f.table.fresh != 0 || f.table.alive != 0 {
			t.Errorf("a tunnel is opened in front of %d addresses, fresh until %d, alive until %d", n, f.table.fresh, f.table.alive)
		}
		return nil, errBusy
	}
	f.watchLink(t.Context())
	f.watchLink(t.Context())
	if opened != 2 {
		t.Errorf("opened %d times, want at each look", opened)
	}
}

// A tunnel that is lost, in whatever way, shuts the table before anything else, is opened
// again, and comes back with the next plan alone.
func TestLostTunnel(t *testing.T) {
	for name, lose := range map[string]func(*fixture){
		"deleted":             func(f *fixture) { f.link.gone = true },
		"another of its name": func(f *fixture) { f.link.opened += 7 },
		"addresses stuck":     func(f *fixture) { f.link.addresses, f.link.stuck = nil, true },
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5), in66(2, 5))
			s := &session{out: make(chan message, 10), closed: make(chan struct{})}
			f.current = s
			old := f.link
			lose(f)
			var shut bool
			f.config.OpenLink = func(context.Context) (Link, error) {
				shut = len(f.table.quarantined)+len(f.table.routed) == 0 && f.table.fresh == 0 && f.table.alive == 0
				return nil, errBusy
			}
			f.watchLink(t.Context())
			if !shut || !old.closed {
				t.Errorf("opened again with the table shut: %v, the old link closed: %v", shut, old.closed)
			}
			want(t, f.replace(somePlan(11, in77(1, 5))), quarantine.ErrNotEnforced)
			want(t, f.move(in77(1, 12)), quarantine.ErrNotEnforced)
			want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
			if len(f.table.routed) != 0 {
				t.Error("a plan opened the table without a tunnel")
			}
			f.link = newFakeLink()
			f.link.opened = 100
			f.config.OpenLink = func(context.Context) (Link, error) { return f.link, nil }
			f.config.Interface = f.link.look
			f.watchLink(t.Context())
			for range 2 {
				if m := <-s.out; m.Event == nil || m.Event.Kind != NeedPlan {
					t.Errorf("told %+v", m)
				}
			}
			want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
			want(t, f.replace(somePlan(11, in77(1, 5), in66(2, 5))), nil)
			want(t, f.prolong(fresh(11)), nil)
			f.agree(t)
			if f.link.allowed(peerKey(1)) == nil || len(f.link.addresses) == 0 {
				t.Error("the new tunnel has no peers or addresses")
			}
		})
	}
}

// While the table cannot be emptied there is no new tunnel.
func TestLostTunnelAndTable(t *testing.T) {
	f := planned(t, in77(1, 5))
	f.link.gone = true
	f.table.fail["fill empty"], f.table.fail["adopt"] = []error{errKernel}, []error{errKernel}
	opened := 0
	f.config.OpenLink = func(context.Context) (Link, error) { opened++; f.link.gone = false; return f.link, nil }
	f.watchLink(t.Context())
	want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
	if opened != 0 {
		t.Error("there is a tunnel in front of a table that is not shut")
	}
	f.table.fail["fill empty"] = nil
	f.watchLink(t.Context())
	if opened != 1 || len(f.table.routed) != 0 {
		t.Errorf("opened %d times, %d addresses routed", opened, len(f.table.routed))
	}
}

// Addresses that somebody took away, added, or an interface set down, are mended in place.
func TestTunnelIsMended(t *testing.T) {
	for name, harm := range map[string]func(*fakeLink){
		"one taken": func(l *fakeLink) { l.addresses = l.addresses[1:] },
		"flushed":   func(l *fakeLink) { l.addresses = nil },
		"one too many": func(l *fakeLink) {
			l.addresses = append(slices.Clone(l.addresses), netip.MustParsePrefix("192.0.2.1/24"))
		},
		"down": func(l *fakeLink) { l.down = true },
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5))
			harm(f.link)
			f.watchLink(t.Context())
			f.agree(t)
			seen, _ := f.link.look("")
			if !seen.has(f.rules.own) || f.link.closed || !f.planned || f.table.fresh == 0 {
				t.Errorf("%+v, closed %v, planned %v, fresh %d", seen, f.link.closed, f.planned, f.table.fresh)
			}
			same(t, "calls", f.table.calls(), nil)
		})
	}
}

// What is as it should be is left alone, and one look that fails is nothing.
func TestTunnelIsLeftAlone(t *testing.T) {
	f := planned(t, in77(1, 5))
	f.link.addresses = append(slices.Clone(f.link.addresses), netip.MustParsePrefix("fe80::1/64"))
	was := f.link.addresses
	looks := 0
	f.config.Interface = func(name string) (Interface, error) {
		if looks++; looks == 1 {
			return Interface{}, errKernel
		}
		return f.link.look(name)
	}
	f.watchLink(t.Context())
	same(t, "addresses", f.link.addresses, was)
	same(t, "calls", f.table.calls(), nil)
	if f.lost || looks != 2 {
		t.Errorf("lost %v after %d looks", f.lost, looks)
	}
}

// Forwarding is looked after once it was switched on, and not before.
func TestForwardingIsKept(t *testing.T) {
	f := newFixture(t)
	for range verifyEvery {
		f.tick(t.Context())
	}
	if f.forwarded != 0 {
		t.Error("forwarding without a plan")
	}
	want(t, f.replace(somePlan(10)), nil)
	for range verifyEvery {
		f.tick(t.Context())
	}
	if f.forwarded != 2 {
		t.Errorf("switched on %d times, want with the plan and at the look", f.forwarded)
	}
}
