package testnet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

func newStandard(t *testing.T) *Net {
	t.Helper()
	testneed.Namespaces(t)
	n, err := Standard(soon(t), Config{Log: t.Output()}, Params{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

const port = 7777

func serveOn(t *testing.T, h *Host, addrs ...netip.Addr) *Server {
	t.Helper()
	var at []netip.AddrPort
	for _, a := range addrs {
		at = append(at, netip.AddrPortFrom(a, port))
	}
	s, err := h.Serve(soon(t), at...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustProbe(t *testing.T, h *Host, s ProbeSpec) ProbeResult {
	t.Helper()
	r, err := h.Probe(soon(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// within is how long a probe waits that is to have this outcome: long for an answer, which
// comes when it comes, and a moment where there is to be none.
func within(want Outcome) time.Duration {
	if want == Silent {
		return 300 * time.Millisecond
	}
	return 10 * time.Second
}

// probes are all three protocols to an address, from a source of its family.
func probes(from Both, to netip.Addr) []ProbeSpec {
	src := from.V4
	if to.Is6() {
		src = from.V6
	}
	return []ProbeSpec{
		{Proto: TCP, From: src, To: netip.AddrPortFrom(to, port)},
		{Proto: UDP, From: src, To: netip.AddrPortFrom(to, port)},
		{Proto: ICMP, From: src, To: netip.AddrPortFrom(to, 0)},
	}
}

// Every target of the demo answers through the control tunnel, over every
// protocol and both families, and each probe is seen to leave through it.
func TestControlTunnelReachesAll(t *testing.T) {
	n := newStandard(t)
	gateway := Both{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")}
	dev2 := Both{netip.MustParseAddr("10.66.0.3"), netip.MustParseAddr("fd66::3")}
	if err := n.OpenControl(soon(t), ControlSpec{
		Gateway: append(gateway.All(), n.Plan.GatewayIntra.All()...),
		Dev2:    dev2.All(),
	}); err != nil {
		t.Fatal(err)
	}
	// As if the real tunnel were open on the other device.
	if err := n.Dev2.Configure(soon(t), NetConfig{Links: []LinkConfig{{Name: "lo", Addrs: whole(dev2)}}}); err != nil {
		t.Fatal(err)
	}
	p := n.Plan
	for _, target := range []struct {
		name  string
		host  *Host
		addrs Both
	}{
		{"management server", n.Management, p.Management},
		{"intranet server", n.Intranet, p.Intranet},
		{"outside address", n.Intranet, p.Outside},
		{"gateway in the tunnel", n.Control, gateway},
		{"gateway's intranet address", n.Control, p.GatewayIntra},
		{"other device", n.Dev2, dev2},
	} {
		serveOn(t, target.host, target.addrs.All()...)
		there, err := target.host.Capture(soon(t), "")
		if err != nil {
			t.Fatal(err)
		}
		tunnel, err := n.Dev1.Capture(soon(t), ControlDevice)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range target.addrs.All() {
			for _, spec := range probes(p.Dev1Control, addr) {
				t.Run(fmt.Sprintf("%s/%s %s", target.name, spec.Proto, addr), func(t *testing.T) {
					spec.Timeout = within(Echoed)
					began := time.Now()
					r := mustProbe(t, n.Dev1, spec)
					if r.Outcome != Echoed || r.RTT <= 0 || r.RTT > time.Since(began) {
						t.Fatalf("%+v", r)
					}
					out, err := tunnel.Await(soon(t), r.Is)
					if err != nil || !out.Out {
						t.Errorf("not seen to leave through the tunnel: %+v, %v", out, err)
					}
					in, err := there.Await(soon(t), r.Is)
					if err != nil || in.From.Addr() != spec.From {
						t.Errorf("not seen to arrive from %s: %+v, %v", spec.From, in, err)
					}
				})
			}
		}
		for _, c := range []*Capture{tunnel, there} {
			if st, err := c.Stop(soon(t)); err != nil || st.Dropped != 0 || st.Written == 0 {
				t.Errorf("%s: capture %+v, %v", target.name, st, err)
			}
		}
	}
}

// The gateway forwards nothing before it is told to, so every way but the control
// gateway is closed; each outcome is told apart.
func TestProbeOutcomes(t *testing.T) {
	n := newStandard(t)
	p := n.Plan
	all := []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10::/64")}
	direct := NetConfig{Routes: []Route{{To: all[0], Via: p.GatewayOuter.V4}, {To: all[1], Via: p.GatewayOuter.V6}}}
	expect := func(name string, want map[Proto]Outcome, from Both, to netip.Addr) {
		t.Helper()
		for _, spec := range probes(from, to) {
			spec.Timeout = within(want[spec.Proto])
			if r := mustProbe(t, n.Dev1, spec); r.Outcome != want[spec.Proto] {
				t.Errorf("%s: %s to %s: got %s (%s), want %s", name, spec.Proto, to, r.Outcome, r.Detail, want[spec.Proto])
			}
		}
	}
	every := func(o Outcome) map[Proto]Outcome { return map[Proto]Outcome{TCP: o, UDP: o, ICMP: o} }

	expect("no route", every(NotSent), Both{}, p.Intranet.V4)
	expect("no route", every(NotSent), Both{}, p.Intranet.V6)
	if err := n.Dev1.Configure(soon(t), direct); err != nil {
		t.Fatal(err)
	}
	expect("gateway that does not forward", every(Silent), Both{}, p.Intranet.V4)
	expect("gateway that does not forward", every(Silent), Both{}, p.Intranet.V6)
	expect("no server", map[Proto]Outcome{TCP: Refused, UDP: Refused, ICMP: Echoed}, p.Dev1, p.Dev2.V4)
	expect("no server", map[Proto]Outcome{TCP: Refused, UDP: Refused, ICMP: Echoed}, p.Dev1, p.Dev2.V6)

	// Forwarding, but with a route to nowhere: the gateway answers with ICMP errors.
	if err := n.Gateway.Configure(soon(t), NetConfig{
		Sysctls: map[string]string{"net/ipv4/conf/all/forwarding": "1", "net/ipv6/conf/all/forwarding": "1"},
		Routes: []Route{{To: netip.PrefixFrom(p.Intranet.V4, 32), Blackhole: true},
			{To: netip.PrefixFrom(p.Intranet.V6, 128), Blackhole: true}},
	}); err != nil {
		t.Fatal(err)
	}
	expect("route to nowhere", every(Silent), Both{}, p.Intranet.V4)
	if err := n.Gateway.Configure(soon(t), NetConfig{Routes: []Route{{To: netip.PrefixFrom(p.Intranet.V4, 32), Unreachable: true},
		{To: netip.PrefixFrom(p.Intranet.V6, 128), Unreachable: true}}}); err != nil {
		t.Fatal(err)
	}
	expect("unreachable", every(Unreachable), Both{}, p.Intranet.V4)
	expect("unreachable", every(Unreachable), Both{}, p.Intranet.V6)
}

// A probe of a wrong kind is an error, and never a result that reads as silence.
func TestProbeRefusesNonsense(t *testing.T) {
	h := newHost(t, newLab(t, Config{}), "a")
	to := netip.MustParseAddrPort("127.0.0.1:9")
	for _, s := range []ProbeSpec{{Proto: "sctp", To: to}, {Proto: TCP}, {Proto: UDP, To: to, Size: 10}, {Proto: UDP, To: to, Size: 1 << 20}} {
		if r, err := h.Probe(soon(t), s); err == nil {
			t.Errorf("%+v: %+v", s, r)
		}
	}
	for _, s := range []ProbeSpec{
		{Proto: TCP, To: to, From: netip.MustParseAddr("192.0.2.1")},
		{Proto: UDP, To: to, From: netip.MustParseAddr("192.0.2.1")},
		{Proto: ICMP, To: to, From: netip.MustParseAddr("192.0.2.1")},
		{Proto: TCP, To: to, Device: "nothere"},
		{Proto: UDP, To: to, Device: "nothere"},
		{Proto: ICMP, To: to, Device: "nothere"},
	} {
		if r := mustProbe(t, h, s); r.Outcome != NotSent {
			t.Errorf("%+v: %+v", s, r)
		}
	}
}
