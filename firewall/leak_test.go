package firewall

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is the addresses of one family.
type world struct {
	name                                 string
	quarantined, neighbour               netip.Addr // in quarantine, agents' addresses
	routed, colleague                    netip.Addr // in the open pool
	guest                                netip.Addr // in the pool with a list
	fixed                                netip.Addr // quarantined and routed at once
	stranger                             netip.Addr // a pool address of nobody
	elsewhere                            netip.Addr // in a pool behind the outside interface
	management, other, listed, router    netip.Addr
	inside, insideFull, outside, spoofer netip.Addr // the gateway's addresses, and someone near it
}

var worlds = []world{
	{
		name:        "ipv4",
		quarantined: addr("10.99.0.2"), neighbour: addr("10.99.0.3"), routed: addr("10.98.0.2"), colleague: addr("10.98.0.3"),
		guest: addr("10.97.0.4"), fixed: addr("10.99.0.9"), stranger: addr("10.99.0.77"), elsewhere: addr("10.96.0.7"),
		management: addr("192.0.2.10"), other: addr("198.51.99.7"), listed: addr("198.51.100.7"), router: addr("203.0.113.254"),
		inside: addr("10.99.0.1"), insideFull: addr("10.98.0.1"), outside: addr("203.0.113.1"), spoofer: addr("203.0.113.66"),
	}, {
		name:        "ipv6",
		quarantined: addr("fd99::2"), neighbour: addr("fd99::3"), routed: addr("fd98::2"), colleague: addr("fd98::3"),
		guest: addr("fd97::4"), fixed: addr("fd99::9"), stranger: addr("fd99::77"), elsewhere: addr("fd96::7"),
		management: addr("2001:db8::10"), other: addr("2001:db8:99::7"), listed: addr("2001:db8:1::7"), router: addr("2001:db8:ff::fe"),
		inside: addr("fd99::1"), insideFull: addr("fd98::1"), outside: addr("2001:db8:ff::1"), spoofer: addr("2001:db8:ff::66"),
	},
}

// leakRuleset lets quarantine reach the management server on tcp/443 and udp/5000.
func leakRuleset() Ruleset {
	r := baseRuleset()
	r.Gateway = addrs("10.99.0.1", "10.98.0.1", "10.97.0.1", "fd99::1", "fd98::1", "fd97::1")
	var reach []Reach
	for _, w := range worlds {
		host := netip.PrefixFrom(w.management, w.management.BitLen())
		reach = append(reach, Reach{To: host, Protocol: "tcp", From: 443, Up: 443}, Reach{To: host, Protocol: "udp", From: 5000, Up: 5000})
	}
	r.Pools = []Pool{
		{Name: "quarantine", IPv4: pfx("10.99.0.0/16"), IPv6: pfx("fd99::/64"), Reach: reach},
		{Name: "staff", Mark: 1, IPv4: pfx("10.98.0.0/20"), IPv6: pfx("fd98::/64")},
		{Name: "guests", Mark: 7, IPv4: pfx("10.97.0.0/24"), IPv6: pfx("fd97::/64"), Reach: []Reach{
			{To: pfx("198.51.100.0/24"), Protocol: "tcp", From: 80, Up: 80}, {To: pfx("2001:db8:1::/48"), Protocol: "tcp", From: 80, Up: 80},
			{To: pfx("0.0.0.0/0"), Protocol: "udp", From: 9000, Up: 9001}, {To: pfx("::/0"), Protocol: "udp", From: 9000, Up: 9001},
			{To: pfx("198.51.100.0/24"), Protocol: "icmp"}, {To: pfx("2001:db8:1::/48"), Protocol: "icmp"},
		}},
	}
	// A pool that is reached by another way than this tunnel is inside all the same.
	r.Pools = append(r.Pools, Pool{Name: "elsewhere", Mark: 9, IPv4: pfx("10.96.0.0/24"), IPv6: pfx("fd96::/64")})
	r.Inside = []Service{{Protocol: "udp", Port: 53}, {Protocol: "tcp", Port: 8443}}
	r.Outside = []Service{{Protocol: "udp", Port: 700}, {Protocol: "tcp", Port: 22, From: []netip.Prefix{pfx("203.0.113.0/26"), pfx("2001:db8:ff::/122")}}}
	r.Out = []Service{{Protocol: "udp", Port: 123}}
	return r
}

func leakElements() Elements {
	e := Elements{Fresh: After(time.Minute), Alive: After(time.Hour)}
	until := After(time.Hour)
	for _, w := range worlds {
		e.Quarantined = append(e.Quarantined, w.quarantined, w.neighbour, w.fixed)
		e.Routed = append(e.Routed, Routed{w.routed, 1, until}, Routed{w.colleague, 1, until}, Routed{w.fixed, 1, until}, Routed{w.guest, 7, until})
	}
	return e
}

// up and down are steps through the tunnel's side; answer is one that the gateway answers.
func up(name string, packet []byte, want bool) step {
	return step{name, "lz0", packet, "out0", want, marked}
}

func down(name string, packet []byte, want bool) step {
	return step{name, "out0", packet, "lz0", want, marked}
}

func answer(name, port string, packet []byte, want bool) step {
	return step{name, port, packet, port, want, marked}
}

// segment is a TCP segment forwarded as it is.
func segment(name string, in, out string, f flow, flags byte, want bool) step {
	return step{name, in, f.tcp(flags), out, want, ofFlow(f)}
}

// cases are steps in order, whose flows build on each other within a case.
func cases(w world) map[string][]step {
	q443 := flow{w.quarantined, w.management, 40000, 443}
	q5000 := flow{w.quarantined, w.management, 40001, 5000}
	r9 := flow{w.routed, w.other, 40002, 9}
	to := func(src, dst netip.Addr, dport uint16) flow { return flow{src, dst, 41000 + dport%1000, dport} }
	list := map[string][]step{
		"quarantined reaches management": {
			segment("syn", "lz0", "out0", q443, syn, true), segment("syn ack", "out0", "lz0", q443.back(), syn|ack, true),
			segment("data", "lz0", "out0", q443, ack, true), segment("answer", "out0", "lz0", q443.back(), ack, true),
			down("router: too big", flow{src: w.router, dst: w.quarantined}.tooBig(q443.tcp(ack)), true),
			up("udp", q5000.udp(), true), down("udp answer", q5000.back().udp(), true),
			down("closed port", flow{src: w.management, dst: w.quarantined}.refused(q5000.udp()), true),
			up("device's closed port", flow{src: w.quarantined, dst: w.management}.refused(q5000.back().udp()), true),
			up("device's error to someone else", flow{src: w.quarantined, dst: w.other}.refused(q5000.back().udp()), false),
		},
		"quarantined reaches nothing else": {
			segment("other port", "lz0", "out0", to(w.quarantined, w.management, 80), syn, false),
			up("other protocol", to(w.quarantined, w.management, 443).udp(), false),
			up("ping", to(w.quarantined, w.management, 1).ping(), false),
			up("other protocol number", ip(w.quarantined, w.management, 253, []byte(marker)), false),
			segment("other host", "lz0", "out0", to(w.quarantined, w.other, 443), syn, false),
			{"other quarantined device", "lz0", to(w.quarantined, w.neighbour, 5000).udp(), "lz0", false, marked},
			{"routed device", "lz0", to(w.quarantined, w.routed, 5000).udp(), "lz0", false, marked},
			answer("gateway port", "lz0", to(w.quarantined, w.inside, 22).udp(), false),
			answer("gateway ping", "lz0", to(w.quarantined, w.inside, 22).ping(), false),
			answer("gateway's outside service, inside", "lz0", to(w.quarantined, w.inside, 700).udp(), false),
			answer("gateway's outside service, outside", "lz0", to(w.quarantined, w.outside, 700).udp(), false),
			answer("gateway's inside service, outside", "lz0", to(w.quarantined, w.outside, 53).udp(), false),
			answer("gateway's tunnel port", "lz0", to(w.quarantined, w.inside, 51820).udp(), false),
		},
		"nothing is opened towards a device": {
			segment("by management", "out0", "lz0", flow{w.management, w.quarantined, 443, 50000}, syn, false),
			down("by management, udp", flow{w.management, w.quarantined, 5000, 50001}.udp(), false),
			segment("by management to a port it serves itself", "out0", "lz0", flow{w.management, w.quarantined, 50002, 443}, syn, false),
			segment("an answer to nothing", "out0", "lz0", flow{w.management, w.quarantined, 443, 50003}, syn|ack, false),
			down("an error about nothing", flow{src: w.router, dst: w.quarantined}.tooBig(flow{w.quarantined, w.management, 50004, 443}.tcp(ack)), false),
			down("an error about nothing, routed", flow{src: w.router, dst: w.routed}.tooBig(flow{w.routed, w.other, 50005, 9}.udp()), false),
			down("by another host", to(w.other, w.quarantined, 1).ping(), false),
			down("towards a routed device", to(w.other, w.routed, 80).udp(), false),
			segment("towards a routed device, tcp", "out0", "lz0", to(w.other, w.routed, 80), syn, false),
		},
		"services on the gateway": {
			answer("dns, quarantined", "lz0", to(w.quarantined, w.inside, 53).udp(), true),
			answer("dns, routed", "lz0", to(w.routed, w.insideFull, 53).udp(), true),
			answer("ping, routed", "lz0", to(w.routed, w.insideFull, 53).ping(), false),
			answer("other port, routed", "lz0", to(w.routed, w.insideFull, 54).udp(), false),
			answer("outside address, routed", "lz0", to(w.routed, w.outside, 700).udp(), false),
			answer("dns, stranger", "lz0", to(w.stranger, w.inside, 53).udp(), false),
			{"api", "lz0", to(w.quarantined, w.inside, 8443).tcp(syn), "lz0", true, ofFlow(to(w.quarantined, w.inside, 8443).back())},
		},
		"routed reaches all": {
			up("udp", r9.udp(), true), down("answer", r9.back().udp(), true),
			segment("tcp", "lz0", "out0", to(w.routed, w.other, 22), syn, true), segment("tcp answer", "out0", "lz0", to(w.routed, w.other, 22).back(), syn|ack, true),
			up("ping", r9.ping(), true), down("pong", r9.back().pong(), true),
			up("any protocol", ip(w.routed, w.other, 253, []byte(marker)), true),
			down("router: too big", flow{src: w.router, dst: w.routed}.tooBig(r9.udp()), true),
			{"other device", "lz0", to(w.routed, w.colleague, 9).udp(), "lz0", false, marked},
			{"quarantined device", "lz0", to(w.routed, w.quarantined, 9).udp(), "lz0", false, marked},
			up("device elsewhere", to(w.routed, w.elsewhere, 9).udp(), false),
		},
		"a fixed address is routed": {
			up("udp", to(w.fixed, w.other, 9).udp(), true), down("answer", to(w.fixed, w.other, 9).back().udp(), true),
			{"other device", "lz0", to(w.fixed, w.colleague, 9).udp(), "lz0", false, marked},
		},
		"a pool with a list": {
			segment("listed", "lz0", "out0", to(w.guest, w.listed, 80), syn, true), segment("answer", "out0", "lz0", to(w.guest, w.listed, 80).back(), syn|ack, true),
			up("listed ping", to(w.guest, w.listed, 5).ping(), true), down("pong", to(w.guest, w.listed, 5).back().pong(), true),
			up("port anywhere", to(w.guest, w.other, 9000).udp(), true), down("answer", to(w.guest, w.other, 9000).back().udp(), true),
			down("opened towards the device", to(w.other, w.guest, 9001).udp(), false),
			segment("other port", "lz0", "out0", to(w.guest, w.listed, 81), syn, false),
			up("other protocol", to(w.guest, w.listed, 80).udp(), false),
			segment("other host", "lz0", "out0", to(w.guest, w.other, 80), syn, false),
		},
		"strangers": {
			segment("to management", "lz0", "out0", to(w.stranger, w.management, 443), syn, false),
			segment("foreign source", "lz0", "out0", to(w.listed, w.management, 443), syn, false),
		},
		"neighbour's errors": {
			up("a routed flow", r9.udp(), true), down("its answer", r9.back().udp(), true),
			up("quoted by a quarantined neighbour", flow{src: w.neighbour, dst: w.other}.refused(r9.back().udp()), false),
			up("quoted by a stranger", flow{src: w.stranger, dst: w.other}.refused(r9.back().udp()), false),
			{"quoted to the device itself", "lz0", flow{src: w.neighbour, dst: w.routed}.refused(r9.udp()), "lz0", false, marked},
			down("quoted from outside to another device", flow{src: w.router, dst: w.quarantined}.tooBig(r9.udp()), false),
		},
		"forged sources from outside": {
			{"routed address to the world", "out0", to(w.routed, w.other, 80).udp(), "out0", false, marked},
			{"quarantined address to the world", "out0", to(w.quarantined, w.management, 5000).udp(), "out0", false, marked},
			down("device to device", to(w.colleague, w.routed, 80).udp(), false),
			{"to a service", "out0", to(w.quarantined, w.inside, 53).udp(), "lz0", false, marked},
			answer("inside address from outside", "out0", to(w.spoofer, w.inside, 53).udp(), false),
			answer("outside service at the inside address", "out0", to(w.spoofer, w.inside, 700).udp(), false),
			{"from a device elsewhere", "out0", to(w.elsewhere, w.outside, 700).udp(), "out0", false, marked},
		},
		"the host": {
			answer("service", "out0", to(w.spoofer, w.outside, 700).udp(), true),
			answer("ping", "out0", to(w.spoofer, w.outside, 3).ping(), true),
			answer("other port", "out0", to(w.spoofer, w.outside, 701).udp(), false),
			answer("wireguard", "out0", to(w.spoofer, w.outside, 51820).udp(), true),
			{"listed source", "out0", to(w.outside.Next(), w.outside, 22).tcp(syn), "out0", true, ofFlow(to(w.outside.Next(), w.outside, 22).back())},
			{"unlisted source", "out0", to(w.spoofer, w.outside, 22).tcp(syn), "out0", false, ofFlow(to(w.spoofer, w.outside, 22).back())},
			{"transit", "out0", to(w.spoofer, w.other, 80).udp(), "out0", false, marked},
		},
	}
	for name, dport := range map[string]uint16{"allowed": 5000, "forbidden": 6000} {
		for _, size := range []int{8, 24} {
			pieces := flow{w.quarantined, w.management, 42000 + uint16(size), dport}.fragments(size)
			first := up("first", pieces[0], false)
			first.fits = nil // carries no marker; only the last piece can show
			list[fmt.Sprintf("fragments %s %d", name, size)] = []step{first, up("last", pieces[1], dport == 5000)}
		}
	}
	list["lone fragment"] = []step{up("last", flow{w.quarantined, w.management, 42100, 6000}.fragments(8)[1], false)}
	if w.management.Is6() {
		options, routing := byte(unix.IPPROTO_DSTOPTS), byte(unix.IPPROTO_ROUTING)
		pad := [6]byte{1, 4}
		list["extension headers"] = []step{
			up("options, allowed", q5000.extended(options, pad), true),
			up("options, forbidden", to(w.quarantined, w.management, 6000).extended(options, pad), false),
			up("hop by hop, forbidden", to(w.quarantined, w.management, 6000).extended(unix.IPPROTO_HOPOPTS, pad), false),
			up("routing header", q5000.extended(routing, [6]byte{253, 0}), false),
		}
	}
	return list
}

// TestForgedSourceReachesNoSocket asks the gateway's own socket whether a packet from
// outside with a device's address came in.
func TestForgedSourceReachesNoSocket(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, control := newGateway(t, true), newGateway(t, false)
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	for _, w := range worlds {
		forged, honest := flow{w.routed, w.outside, 45000, 700}.udp(), flow{w.spoofer, w.outside, 45000, 700}.udp()
		if !control.receives(w, forged) || !g.receives(w, honest) {
			t.Errorf("%s: the probes do not even arrive where they may", w.name)
		}
		if g.receives(w, forged) {
			t.Errorf("%s: a forged source arrived", w.name)
		}
	}
}

// receives says whether a socket on port 700 gets the packet that comes from outside.
func (g *gateway) receives(w world, packet []byte) (got bool) {
	g.t.Helper()
	g.do(func() error {
		domain, local := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: 700})
		if w.outside.Is6() {
			domain, local = unix.AF_INET6, &unix.SockaddrInet6{Port: 700}
		}
		fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, local); err != nil {
			return err
		}
		g.send("out0", packet)
		n, _, err := unix.Recvfrom(fd, make([]byte, 2000), 0)
		got = err == nil && n == len(marker)
		return nil
	})
	return got
}

// TestLeaks sends every probe through a gateway with the table and through one without.
// A probe that does not get through the second proves nothing about the first.
func TestLeaks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, control := newGateway(t, true), newGateway(t, false)
	for _, w := range worlds {
		for name, steps := range cases(w) {
			t.Run(w.name+"/"+name, func(t *testing.T) {
				g.t, control.t = t, t
				must(t, g.table.Fill(leakRuleset(), leakElements()))
				g.remember()
				for _, s := range steps {
					if !control.passes(s) && s.fits != nil {
						t.Errorf("%s: does not even pass without a firewall", s.name)
					}
					if got := g.passes(s); got != s.want {
						t.Errorf("%s: passes %v, want %v", s.name, got, s.want)
					}
				}
			})
		}
	}
}
