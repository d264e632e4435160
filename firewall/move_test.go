package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// check sends steps through the filtered gateway only.
func (g *gateway) check(when string, steps ...step) {
	g.t.Helper()
	for _, s := range steps {
		if got := g.passes(s); got != s.want {
			g.t.Errorf("%s: %s: passes %v, want %v", when, s.name, got, s.want)
		}
	}
}

// both are the packets of a running UDP and TCP flow in both directions.
func both(f flow, want bool) []step {
	return []step{
		up("upload", f.udp(), want), down("download", f.back().udp(), want),
		segment("tcp upload", "lz0", "out0", f, ack, want), segment("tcp download", "out0", "lz0", f.back(), ack, want),
	}
}

// running opens f, which must be allowed.
func (g *gateway) running(f flow) {
	g.t.Helper()
	g.check("opening", segment("syn", "lz0", "out0", f, syn, true), segment("syn ack", "out0", "lz0", f.back(), syn|ack, true))
	g.check("opening", both(f, true)...)
}

// TestMoves changes placement under running flows, in both families.
func TestMoves(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	for _, w := range worlds {
		for name, move := range map[string]func(*testing.T, *gateway, world){
			"demotion": demotion, "fixed address": fixedAddress, "between pools": betweenPools,
			"freshness": freshness, "plan": plan, "nothing": nothing,
		} {
			t.Run(w.name+"/"+name, func(t *testing.T) {
				g.t = t
				must(t, g.table.Adopt(baseRuleset())) // no flow of an earlier case is placed
				must(t, g.table.Fill(leakRuleset(), leakElements()))
				g.remember()
				move(t, g, w)
			})
		}
	}
}

func demotion(t *testing.T, g *gateway, w world) {
	f, kept := flow{w.routed, w.other, 30000, 9}, flow{w.colleague, w.other, 30001, 9}
	g.running(f)
	g.running(kept)
	must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.routed}}))
	g.check("demoted", both(f, false)...)
	g.check("demoted", down("error about the old flow", flow{src: w.router, dst: w.routed}.tooBig(f.udp()), false))
	g.check("another device", both(kept, true)...)
	must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, After(time.Hour)}}}))
	g.check("promoted", both(f, true)...)
	must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, 0}}}))
	g.check("added without a deadline", both(f, false)...)
}

// fixedAddress has one address, routed over quarantined: a flow opened while routed
// must not live on, and the one to the management server must.
func fixedAddress(t *testing.T, g *gateway, w world) {
	f, session := flow{w.fixed, w.other, 30010, 9}, flow{w.fixed, w.management, 30011, 443}
	answers := func(want bool) []step { return both(session, want)[2:] }
	g.running(f)
	g.check("opening", segment("syn", "lz0", "out0", session, syn, true), segment("syn ack", "out0", "lz0", session.back(), syn|ack, true))
	old := flow{w.fixed, w.management, 30012, 22} // management, but not a port of quarantine
	g.running(old)
	elsewhere, datagrams := flow{w.fixed, w.other, 30013, 443}, flow{w.fixed, w.management, 30014, 443}
	g.running(elsewhere)
	g.check("opening", up("udp to management's tcp port", datagrams.udp(), true))
	must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.fixed}}))
	g.check("demoted", both(f, false)...)
	g.check("demoted", down("error about the same port elsewhere", flow{src: w.router, dst: w.fixed}.tooBig(elsewhere.tcp(ack)), false))
	g.check("demoted", down("error about the same port by other means", flow{src: w.router, dst: w.fixed}.tooBig(datagrams.udp()), false))
	g.check("demoted, management's other port", both(old, false)...)
	g.check("demoted, error about the old flow", down("too big", flow{src: w.router, dst: w.fixed}.tooBig(f.udp()), false))
	g.check("demoted, management's error about another port", down("refused", flow{src: w.management, dst: w.fixed}.refused(old.udp()), false))
	g.check("session", answers(true)...)
	g.check("session's path", down("too big", flow{src: w.router, dst: w.fixed}.tooBig(session.tcp(ack)), true))
	must(t, g.table.Apply(Change{AddRouted: []Routed{{w.fixed, 1, After(time.Hour)}}}))
	g.check("session, promoted", answers(true)...)
	must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.fixed}, DelQuarantined: []netip.Addr{w.fixed}}))
	g.check("session, gone", answers(false)...)
	must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.fixed}, DelQuarantined: []netip.Addr{w.fixed}})) // again: no fault
}

// betweenPools replaces the mark of an element in place.
func betweenPools(t *testing.T, g *gateway, w world) {
	open, listed := flow{w.routed, w.other, 30020, 9}, flow{w.routed, w.listed, 30021, 80}
	g.running(open)
	g.check("open pool", segment("syn", "lz0", "out0", listed, syn, true))
	must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 7, After(time.Hour)}}}))
	g.check("pool with a list", both(open, false)...)
	g.check("pool with a list", segment("syn ack", "out0", "lz0", listed.back(), syn|ack, true), segment("ack", "lz0", "out0", listed, ack, true))
}

// freshness is refused and given without touching any device.
func freshness(t *testing.T, g *gateway, w world) {
	f, q := flow{w.routed, w.other, 30030, 9}, flow{w.quarantined, w.management, 30031, 5000}
	x := flow{w.fixed, w.other, 30032, 9}
	session := flow{w.fixed, w.management, 30033, 5000}
	quarantine := func(q flow, want bool) []step { return both(q, want)[:2] }
	g.running(f)
	g.running(x)
	g.check("opening", quarantine(q, true)...)
	g.check("opening", quarantine(session, true)...)
	must(t, g.table.Refresh(0, After(time.Minute)))
	g.check("not fresh", both(f, false)...)
	g.check("not fresh, fixed", both(x, false)...)
	g.check("not fresh, quarantine", quarantine(q, true)...)
	g.check("not fresh, fixed in quarantine", quarantine(session, true)...)
	dns := answer("dns", "lz0", flow{w.routed, w.insideFull, 30034, 53}.udp(), false)
	g.check("not fresh, service", dns)
	must(t, g.table.Refresh(After(time.Minute), 0))
	g.check("fresh alone", both(f, true)...)
	g.check("not alive", quarantine(q, false)...)
	g.check("not alive, service", answer("dns", "lz0", flow{w.quarantined, w.inside, 30035, 53}.udp(), false))
	must(t, g.table.Refresh(-1, -1))
	g.check("neither", both(f, false)...)
	g.check("neither", quarantine(q, false)...)
	must(t, g.table.Refresh(After(time.Minute), After(time.Minute)))
	g.check("both", both(f, true)...)
	g.check("both", quarantine(q, true)...)
}

// plan replaces everything, with the same ruleset and with another.
func plan(t *testing.T, g *gateway, w world) {
	f := flow{w.routed, w.other, 30040, 9}
	g.running(f)
	e := leakElements()
	e.Routed = nil
	must(t, g.table.Fill(leakRuleset(), e))
	g.check("not in the plan", both(f, false)...)
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	g.check("in the plan", both(f, true)...)
	r := leakRuleset()
	r.Pools[1].Reach = []Reach{{To: netip.PrefixFrom(w.listed, w.listed.BitLen())}}
	must(t, g.table.Fill(r, leakElements()))
	g.check("pool reaches less", both(f, false)...)
	r.Pools, r.Gateway = r.Pools[:1], addrs("10.99.0.1", "fd99::1")
	must(t, g.table.Fill(r, leakElements())) // leaves out elements of pools that are gone
	g.check("pool is gone", both(f, false)...)
	q := flow{w.quarantined, w.management, 30041, 5000}
	g.check("the others stay", both(q, true)[:2]...)
}

// nothing is what a device that never had a place gets, and all get after Adopt.
func nothing(t *testing.T, g *gateway, w world) {
	f := flow{w.routed, w.other, 30050, 9}
	g.running(f)
	must(t, g.table.Adopt(baseRuleset()))
	g.check("adopted", both(f, false)...)
	g.check("adopted", answer("dns", "lz0", flow{w.quarantined, w.inside, 30051, 53}.udp(), false))
	g.check("adopted", up("management", flow{w.quarantined, w.management, 30052, 5000}.udp(), false))
}

// TestFillLosesNothing probes while plans are filled, of one ruleset and of two by turns.
func TestFillLosesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, w := newGateway(t, true), worlds[0]
	other := leakRuleset()
	other.Pools = append(other.Pools, Pool{Name: "new", Mark: 11, IPv4: pfx("10.95.0.0/24")})
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	may, mayNot := flow{w.routed, w.other, 30090, 9}, flow{w.quarantined, w.other, 30091, 9}
	session := flow{w.quarantined, w.management, 30092, 5000}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		for i := range 60 {
			r := leakRuleset()
			if i%4 > 1 {
				r = other
			}
			if err := g.table.Fill(r, leakElements()); err != nil {
				done <- err
				return
			}
		}
	}()
	for probes := 0; ; probes++ {
		for f, want := range map[flow]bool{may: true, mayNot: false, session: true} {
			if got := g.passes(up("probe", f.udp(), want)); got != want {
				t.Fatalf("probe %d of %v: passes %v, want %v", probes, f, got, want)
			}
		}
		select {
		case err := <-done:
			must(t, err)
			t.Logf("%d probes of each flow", probes)
			if probes < 100 {
				t.Error("too few probes to say anything")
			}
			return
		default:
		}
	}
}

// TestLeaseEndsOnTime lets elements run out by themselves, with probes all the while.
func TestLeaseEndsOnTime(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	w := worlds[0]
	life := 1500 * time.Millisecond
	routed, fixed := flow{w.routed, w.other, 30060, 9}, flow{w.fixed, w.other, 30061, 9}
	session, mine := flow{w.fixed, w.management, 30062, 5000}, flow{w.quarantined, w.management, 30063, 5000}
	var slowest time.Duration
	for name, c := range map[string]struct {
		arm   func(Deadline)
		ends  []flow
		stays []flow
	}{
		"routed element": {func(d Deadline) {
			must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, d}, {w.fixed, 1, d}}}))
		}, []flow{routed, fixed}, []flow{session, mine}},
		"routed element, filled": {func(d Deadline) {
			e := leakElements()
			e.Routed = []Routed{{w.routed, 1, d}, {w.fixed, 1, d}}
			must(t, g.table.Fill(leakRuleset(), e))
		}, []flow{routed, fixed}, []flow{session, mine}},
		"routed element, shortened": {func(d Deadline) {
			must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, After(time.Hour)}}}))
			must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, d}}}))
		}, []flow{routed}, []flow{fixed, session, mine}},
		"fresh": {func(d Deadline) { must(t, g.table.Refresh(d, After(time.Hour))) }, []flow{routed, fixed}, []flow{session, mine}},
		"alive": {func(d Deadline) { must(t, g.table.Refresh(After(time.Minute), d)) }, []flow{mine}, []flow{routed, fixed, session}},
	} {
		t.Run(name, func(t *testing.T) {
			g.t = t
			before := Now()
			must(t, g.table.Fill(leakRuleset(), leakElements()))
			slowest = max(slowest, time.Duration(Now()-before))
			g.remember()
			deadline := After(life)
			c.arm(deadline)
			slowest = max(slowest, life-time.Duration(deadline-Now()))
			most := 3*moment + 4*slowest                           // a slow write is repeated with more room, and the next one begins with as much
			last, lost := map[flow]Deadline{}, map[flow]Deadline{} // when the last one that passed was sent; when the first one was lost for certain
			probes := 0
			// A machine that has no time for probes while it matters sends them later.
			for Now() < deadline+Deadline(100*time.Millisecond) || len(lost) < len(c.ends) && Now() < deadline+Deadline(10*time.Second) {
				for _, f := range c.ends {
					before := Now()
					if g.passes(up("probe", f.udp(), true)) {
						last[f] = before
					} else if lost[f] == 0 {
						lost[f] = Now()
					}
				}
				for _, f := range c.stays {
					if !g.passes(up("probe", f.udp(), true)) {
						t.Fatalf("a probe of %v was lost, %s before the deadline", f, time.Duration(deadline-Now()))
					}
				}
				probes++
				runtime.Gosched()
			}
			for _, f := range c.ends {
				t.Logf("%d probes, the last one passed %s before the deadline", probes, time.Duration(deadline-last[f]))
				if last[f] > deadline {
					t.Errorf("a probe passed that was sent %s after the deadline", time.Duration(last[f]-deadline))
				}
				if early := time.Duration(deadline - lost[f]); lost[f] == 0 || early > most {
					t.Errorf("a probe was lost %s before the deadline already, want at most %s", early, most)
				}
			}
		})
	}
}

// TestMasquerade hides a pool behind the gateway's address and cuts it like any other.
func TestMasquerade(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	r := leakRuleset()
	r.Pools[1].Masquerade = true
	must(t, g.table.Fill(r, leakElements()))
	g.remember()
	for _, w := range worlds {
		f := flow{w.routed, w.other, 30070, 9}
		out := g.send("lz0", f.udp())["out0"]
		if len(out) != 1 {
			t.Fatalf("%s: %d packets came out, want 1", w.name, len(out))
		}
		src, dst, _, rest := parse(out[0])
		if src != w.outside || dst != w.other {
			t.Fatalf("%s: came out as %s to %s, want %s to %s", w.name, src, dst, w.outside, w.other)
		}
		hidden := flow{w.outside, w.other, binary.BigEndian.Uint16(rest), 9}
		back := []step{
			down("answer", hidden.back().udp(), true),
			down("error", flow{src: w.router, dst: w.outside}.tooBig(hidden.udp()), true),
		}
		g.check(w.name, back...)
		must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.routed}}))
		back[0].want, back[1].want = false, false
		g.check(w.name+", demoted", back...)
		g.check(w.name+", demoted", up("upload", f.udp(), false))
		q := flow{w.quarantined, w.management, 30071, 5000}
		if out := g.send("lz0", q.udp())["out0"]; len(out) != 1 || !bytes.Contains(out[0], w.quarantined.AsSlice()) {
			t.Errorf("%s: quarantine does not keep its own address", w.name)
		}
	}
}

// TestSegmentSize opens connections both ways through a tunnel of 1420 bytes.
func TestSegmentSize(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	for _, w := range worlds {
		f := flow{w.routed, w.other, 30080, 80}
		want := 1420 - 40
		if w.other.Is6() {
			want -= 20
		}
		for _, s := range []step{segment("syn", "lz0", "out0", f, syn, true), segment("syn ack", "out0", "lz0", f.back(), syn|ack, true)} {
			out := g.send(s.in, s.packet)[s.out]
			if len(out) != 1 {
				t.Fatalf("%s %s: %d packets came out, want 1", w.name, s.name, len(out))
			}
			_, _, _, rest := parse(out[0])
			if got := int(binary.BigEndian.Uint16(rest[22:])); got != want {
				t.Errorf("%s %s: segment size %d, want %d", w.name, s.name, got, want)
			}
		}
	}
}

// TestHostSends has the gateway itself send, which the table denies by default too.
func TestHostSends(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, control := newGateway(t, true), newGateway(t, false)
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	for _, w := range worlds {
		for _, c := range []struct {
			name string
			to   flow // sport zero: any
			port string
			want bool
		}{
			{"listed", flow{dst: w.other, dport: 123}, "out0", true},
			{"unlisted", flow{dst: w.other, dport: 124}, "out0", false},
			{"wireguard", flow{dst: w.other, sport: 51820, dport: 4000}, "out0", true},
			{"to a quarantined device", flow{dst: w.quarantined, dport: 123}, "lz0", false},
			{"to a routed device", flow{dst: w.routed, dport: 123}, "lz0", false},
			{"to a routed device from the service's port", flow{dst: w.routed, sport: 53, dport: 4000}, "lz0", false},
			{"to itself", flow{dst: w.inside, dport: 4000}, "", true},
		} {
			if err := control.sends(c.to); err != nil {
				t.Errorf("%s, %s: does not even go without a firewall: %v", w.name, c.name, err)
			}
			err := g.sends(c.to)
			if c.want && err != nil || !c.want && !errors.Is(err, syscall.EPERM) {
				t.Errorf("%s, %s: %v, want sent %v", w.name, c.name, err, c.want)
			}
			// The kernel's own multicast reports (RFC 3810) may come out at any time.
			out := slices.DeleteFunc(g.drain()[c.port], func(p []byte) bool { return !bytes.Contains(p, []byte(marker)) })
			if c.port != "" && (len(out) == 1) != c.want {
				t.Errorf("%s, %s: %d packets came out: %x", w.name, c.name, len(out), out)
			}
		}
	}
}

// sends sends a datagram from a socket of the gateway.
func (g *gateway) sends(f flow) (err error) {
	g.drain()
	g.do(func() error {
		err = sendDatagram(f)
		return nil
	})
	return err
}

func sendDatagram(f flow) error {
	domain := unix.AF_INET
	if f.dst.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := func(a netip.Addr, port uint16) unix.Sockaddr {
		if f.dst.Is6() {
			return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
		}
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	if f.sport != 0 {
		local := netip.IPv4Unspecified()
		if f.dst.Is6() {
			local = netip.IPv6Unspecified()
		}
		if err := unix.Bind(fd, to(local, f.sport)); err != nil {
			return fmt.Errorf("binding: %w", err)
		}
	}
	return unix.Sendto(fd, []byte(marker), 0, to(f.dst, f.dport))
}
