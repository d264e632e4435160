package testnet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// newRouted is a lab whose gateway forwards, between devices and intranet.
func newRouted(t *testing.T) (*Net, *Server) {
	t.Helper()
	n := newStandard(t)
	p := n.Plan
	to := []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10::/64")}
	back := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:51::/64")}
	configs := map[*Host]NetConfig{
		n.Gateway:  {Sysctls: map[string]string{"net/ipv4/conf/all/forwarding": "1", "net/ipv6/conf/all/forwarding": "1"}},
		n.Dev1:     {Routes: []Route{{To: to[0], Via: p.GatewayOuter.V4}, {To: to[1], Via: p.GatewayOuter.V6}}},
		n.Dev2:     {Routes: []Route{{To: to[0], Via: p.GatewayOuter.V4}, {To: to[1], Via: p.GatewayOuter.V6}}},
		n.Intranet: {Routes: []Route{{To: back[0], Via: p.GatewayIntra.V4}, {To: back[1], Via: p.GatewayIntra.V6}}},
	}
	for h, c := range configs {
		if err := h.Configure(soon(t), c); err != nil {
			t.Fatal(err)
		}
	}
	return n, serveOn(t, n.Intranet, p.Intranet.All()...)
}

// flow is one stream of the test, with what becomes of it.
type flow struct {
	spec   StreamSpec
	dev    *Host
	stream *Stream
}

func (f flow) String() string {
	return fmt.Sprintf("%s %s %s from %s", f.spec.Proto, f.spec.Direction, f.spec.To.Addr(), f.dev.Name())
}

func openAll(t *testing.T, n *Net, srv *Server) []*flow {
	t.Helper()
	var flows []*flow
	var g errgroup.Group
	for _, dev := range []*Host{n.Dev1, n.Dev2} {
		for _, to := range n.Plan.Intranet.All() {
			for _, proto := range []Proto{TCP, UDP} {
				for _, d := range []Direction{Upload, Download, Echo} {
					f := &flow{dev: dev, spec: StreamSpec{Proto: proto, Direction: d, To: netip.AddrPortFrom(to, port), Every: 4 * time.Millisecond}}
					flows = append(flows, f)
					g.Go(func() (err error) { f.stream, err = dev.Stream(soon(t), srv, f.spec); return err })
				}
			}
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return flows
}

// moving accepts packets with messages of the stream that were sent after a time,
// in the stream's own direction.
func (f *flow) moving(after Stamp) func(Record) bool {
	return func(r Record) bool {
		return r.Stream == f.stream.ID() && r.Sent > after && (r.To == f.spec.To) == (f.spec.Direction != Download)
	}
}

// Streams in every direction run, one device's are cut at a gateway, and the
// records tell exactly what passed after that: nothing of the one, and the other's
// as before.
func TestStreamsCutAtGateway(t *testing.T) {
	n, srv := newRouted(t)
	server, err := n.Intranet.Capture(soon(t), "intra")
	if err != nil {
		t.Fatal(err)
	}
	device, err := n.Dev1.Capture(soon(t), "outer")
	if err != nil {
		t.Fatal(err)
	}
	flows := openAll(t, n, srv)
	for _, f := range flows {
		if _, err := server.AwaitN(soon(t), 50, f.moving(0)); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
	}
	var cut NetConfig
	for i, everything := range []string{"0.0.0.0/0", "::/0"} {
		p := whole(n.Plan.Dev1)[i]
		cut.Routes = append(cut.Routes, Route{To: netip.MustParsePrefix(everything), Blackhole: true, Table: 99})
		cut.Rules = append(cut.Rules, Rule{Priority: 9, From: p, Table: 99}, Rule{Priority: 9, To: p, Table: 99})
	}
	if err := n.Gateway.Configure(soon(t), cut); err != nil {
		t.Fatal(err)
	}
	commit := Now()
	for _, f := range flows {
		offeredAt := server
		switch {
		case f.dev == n.Dev1 && f.spec.Proto == TCP:
			continue // only old segments go out again: looked at by assertCut
		case f.dev == n.Dev1 && f.spec.Direction != Download:
			offeredAt = device
		}
		if _, err := offeredAt.AwaitN(soon(t), 50, f.moving(commit)); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	assertCut(t, n, device, server, commit)
	for _, f := range flows {
		checkEnds(t, n, f, commit)
		if err := f.stream.Close(soon(t)); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if _, err := f.stream.Client(soon(t)); err == nil {
			t.Errorf("%s: still there after Close", f)
		}
	}
}

// assertCut judges by the captures what passed before and after the cut.
func assertCut(t *testing.T, n *Net, device, server *Capture, commit Stamp) {
	t.Helper()
	tcp := func(r Record) bool { return r.Out && r.Proto == protoTCP && r.At > commit }
	if _, err := device.AwaitN(soon(t), 3, tcp); err != nil {
		t.Errorf("no segments offered after the cut: %v", err)
	}
	for _, c := range []*Capture{device, server} {
		if st, err := c.Stop(soon(t)); err != nil || st.Dropped != 0 {
			t.Fatalf("capture: %+v, %v", st, err)
		}
	}
	ofDev1 := func(r Record) bool {
		return r.From.Addr() == n.Plan.Dev1.V4 || r.From.Addr() == n.Plan.Dev1.V6 || r.To.Addr() == n.Plan.Dev1.V4 || r.To.Addr() == n.Plan.Dev1.V6
	}
	for name, way := range map[string][2]*Capture{"up": {device, server}, "down": {server, device}} {
		before := way[0].Records(func(r Record) bool {
			return r.Out && r.At < commit.Add(-50*time.Millisecond) && ofDev1(r) && r.Proto != protoICMPv6
		})
		after := way[0].Records(func(r Record) bool { return r.Out && r.At > commit && ofDev1(r) && r.Proto != protoICMPv6 })
		arrivals := way[1].Records(func(r Record) bool { return !r.Out })
		if got := len(Arrived(before, arrivals)); got != len(before) || got < 100 {
			t.Errorf("%s: %d of %d packets sent before the cut arrived", name, got, len(before))
		}
		if got := Arrived(after, arrivals); len(got) > 0 || len(after) < 50 {
			t.Errorf("%s: %d of %d packets sent after the cut arrived: %+v", name, len(got), len(after), got[:min(3, len(got))])
		}
	}
}

// checkEnds asks both ends what they saw, which must tell the same story.
func checkEnds(t *testing.T, n *Net, f *flow, commit Stamp) {
	t.Helper()
	client, err := f.stream.Client(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	server, err := f.stream.Server(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	from, to := client, server
	if f.spec.Direction == Download {
		from, to = server, client
	}
	if client.Local != server.Remote || client.Local != f.stream.Local() {
		t.Errorf("%s: four-tuple: client %s, server sees %s", f, client.Local, server.Remote)
	}
	if from.Sent < 50 || from.Due < from.Sent {
		t.Errorf("%s: sent %+v", f, from)
	}
	cut := f.dev == n.Dev1
	if passed := to.LastSent > commit; passed == cut {
		t.Errorf("%s: cut %v, but the message read last was sent %v after that", f, cut, to.LastSent.Sub(commit))
	}
	if !cut && (to.Received+20 < from.Sent || to.MaxGap > 10*time.Second) {
		t.Errorf("%s: %d sent, %d received, gap %v", f, from.Sent, to.Received, to.MaxGap)
	}
	if f.spec.Direction == Echo && !cut && client.Received+20 < client.Sent {
		t.Errorf("%s: %d sent, %d came back", f, client.Sent, client.Received)
	}
}

func TestStreamThatCannotOpen(t *testing.T) {
	n, srv := newRouted(t)
	nowhere := netip.AddrPortFrom(n.Plan.Dev2.V4, 9)
	for name, s := range map[string]StreamSpec{
		"refused":   {Proto: TCP, Direction: Upload, To: nowhere},
		"silent":    {Proto: UDP, Direction: Download, To: nowhere, Timeout: 200 * time.Millisecond},
		"nonsense":  {Proto: ICMP, Direction: Upload, To: nowhere},
		"direction": {Proto: UDP, Direction: "sideways", To: nowhere},
		"size":      {Proto: UDP, Direction: Upload, To: nowhere, Size: 8},
	} {
		if _, err := n.Dev1.Stream(soon(t), srv, s); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// A server that is closed answers no more.
func TestServerClose(t *testing.T) {
	n, srv := newRouted(t)
	spec := ProbeSpec{Proto: TCP, To: netip.AddrPortFrom(n.Plan.Intranet.V4, port)}
	if r := mustProbe(t, n.Dev1, spec); r.Outcome != Echoed {
		t.Fatalf("%+v", r)
	}
	if err := srv.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	if r := mustProbe(t, n.Dev1, spec); r.Outcome != Refused {
		t.Errorf("%+v", r)
	}
}
