package testnet

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"lazaret/quarantine/tunnel"
)

func newKey(t *testing.T) tunnel.PrivateKey {
	t.Helper()
	k, err := tunnel.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tunnelPair is two hosts with a tunnel between them, whose server does not know
// the client's address yet.
type tunnelPair struct {
	client, server *Host
	clientKey      tunnel.PrivateKey
	there          *WireGuard
	addrs          Both // the server's, in the tunnel
}

func newTunnel(t *testing.T) (tunnelPair, *WireGuard) {
	t.Helper()
	l := newLab(t, Config{})
	p := tunnelPair{client: newHost(t, l, "client"), server: newHost(t, l, "server"), clientKey: newKey(t),
		addrs: Both{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}}
	for h, a := range map[*Host]string{p.client: "2001:db8::1/64", p.server: "2001:db8::2/64"} {
		if err := l.Link(soon(t), h, "net", "eth0", netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	serverKey := newKey(t)
	var err error
	p.there, err = p.server.WireGuard(soon(t), WireGuardSpec{Device: "wg0", Key: serverKey, Port: 5555,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64")},
		Peers: []tunnel.Peer{{Key: p.clientKey.Public()}}})
	if err != nil {
		t.Fatal(err)
	}
	here, err := p.client.WireGuard(soon(t), WireGuardSpec{Device: "wg0", Key: p.clientKey,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24"), netip.MustParsePrefix("fd09::2/64")},
		Peers: []tunnel.Peer{{Key: serverKey.Public(), Endpoint: netip.MustParseAddrPort("[2001:db8::2]:5555"),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}}})
	if err != nil {
		t.Fatal(err)
	}
	return p, here
}

func (p tunnelPair) let(t *testing.T, allowed ...string) {
	t.Helper()
	peer := tunnel.Peer{Key: p.clientKey.Public()}
	for _, a := range allowed {
		peer.AllowedIPs = append(peer.AllowedIPs, netip.MustParsePrefix(a))
	}
	if err := p.there.SetPeer(soon(t), peer); err != nil {
		t.Fatal(err)
	}
}

// outcomes probes both addresses, each for as long as what it is to come to takes.
func (p tunnelPair) outcomes(t *testing.T, want ...Outcome) []Outcome {
	t.Helper()
	var out []Outcome
	for i, a := range p.addrs.All() {
		out = append(out, mustProbe(t, p.client, ProbeSpec{Proto: ICMP, To: netip.AddrPortFrom(a, 0), Timeout: within(want[i])}).Outcome)
	}
	return out
}

func TestWireGuardPeers(t *testing.T) {
	p, here := newTunnel(t)
	expect := func(when string, want ...Outcome) {
		t.Helper()
		if got := p.outcomes(t, want...); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	expect("no address allowed", Silent, Silent)
	p.let(t, "10.9.0.2/32", "fd09::2/128")
	expect("both allowed", Echoed, Echoed)
	p.let(t, "fd09::2/128")
	expect("one allowed", Silent, Echoed)
	if err := p.there.SetPeer(soon(t), tunnel.Peer{}); err == nil {
		t.Error("a peer without key was taken")
	}
	expect("after a refused change", Silent, Echoed)
	if err := here.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if got := p.outcomes(t, Silent, Silent); slices.Contains(got, Echoed) {
		t.Errorf("the tunnel outlived its process: %v", got)
	}
	if _, err := p.client.WireGuard(soon(t), WireGuardSpec{Device: "wg0"}); err == nil {
		t.Error("an interface without key came up")
	}
}

// A device may ignore the routes it was given, and send what it likes.
func TestForcedRoutesAndInjection(t *testing.T) {
	p, _ := newTunnel(t)
	p.let(t, "10.9.0.2/32", "fd09::2/128")
	c, err := p.server.Capture(soon(t), "wg0")
	if err != nil {
		t.Fatal(err)
	}
	astray := func(to string) ProbeResult {
		t.Helper()
		return mustProbe(t, p.client, ProbeSpec{Proto: UDP, To: netip.AddrPortFrom(netip.MustParseAddr(to), 9),
			Device: "wg0", Timeout: 100 * time.Millisecond})
	}
	// Over IPv4 the kernel takes every destination for a neighbour on such a link.
	if r := astray("2001:db8:99::9"); r.Outcome != NotSent {
		t.Errorf("before: %+v", r)
	}
	if err := p.client.ForceRoutes(soon(t), "wg0", 4242); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"203.0.113.9", "2001:db8:99::9"} {
		r := astray(to)
		if _, err := c.Await(soon(t), r.Is); err != nil || r.Outcome == NotSent {
			t.Errorf("%s: %+v, %v", to, r, err)
		}
	}
	// A fragment, from the client's own address: WireGuard lets no other pass.
	fragment := raw(t, "45000020 00010003 40110000 0a090002 c0000207"+"1f90 0035 000c 0000 61626364")
	forged := raw(t, "45000020 00010003 40110000 0a090003 c0000207"+"1f90 0035 000c 0000 61626364")
	if err := p.client.Inject(soon(t), "wg0", forged, fragment); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(soon(t), func(r Record) bool { return r.Fragment && r.From.Addr() == netip.MustParseAddr("10.9.0.2") }); err != nil {
		t.Error(err)
	}
	if got := c.Records(func(r Record) bool { return r.From.Addr() == netip.MustParseAddr("10.9.0.3") }); len(got) > 0 {
		t.Errorf("a forged source came through: %+v", got)
	}
	for name, err := range map[string]error{
		"no interface": p.client.Inject(soon(t), "nothere", fragment),
		"empty packet": p.client.Inject(soon(t), "wg0", nil),
	} {
		if err == nil {
			t.Errorf("%s: injected", name)
		}
	}
}
