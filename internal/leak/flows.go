package leak

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/testnet"
)

// openVictims opens the flows of others that attacks are about, through both gateways.
func (s *site) openVictims(ctx context.Context) error {
	p := s.net.Plan
	for _, x := range []struct {
		out      *victimFlows
		from, to netip.Addr
		guest    netip.Addr
	}{
		{&s.flow4, s.victim.full.V4, p.Intranet.V4, s.guest.full.V4}, {&s.flow6, s.victim.full.V6, p.Intranet.V6, s.guest.full.V6},
		{&s.controlFlow4, p.Dev2Control.V4, p.Intranet.V4, netip.Addr{}}, {&s.controlFlow6, p.Dev2Control.V6, p.Intranet.V6, netip.Addr{}},
	} {
		device := s.victim.iface
		if !x.guest.IsValid() {
			device = testnet.ControlDevice
		}
		for proto, end := range map[testnet.Proto]*ends{testnet.UDP: &x.out.udp, testnet.TCP: &x.out.tcp} {
			st, err := s.open(ctx, s.net.Dev2, testnet.StreamSpec{Proto: proto, Direction: testnet.Echo, From: x.from, Device: device, To: netip.AddrPortFrom(x.to, servicePort)})
			if err != nil {
				return err
			}
			*end = ends{x.from, x.to, st.Local().Port(), servicePort}
		}
		if !x.guest.IsValid() {
			continue
		}
		st, err := s.open(ctx, s.net.Dev2, testnet.StreamSpec{Proto: testnet.TCP, Direction: testnet.Echo, From: x.guest, Device: s.guest.iface, To: netip.AddrPortFrom(x.to, servicePort)})
		if err != nil {
			return err
		}
		x.out.guestTCP = ends{x.guest, x.to, st.Local().Port(), servicePort}
		st, err = s.open(ctx, s.net.Dev2, testnet.StreamSpec{Proto: testnet.UDP, Direction: testnet.Echo, From: x.guest, Device: s.guest.iface, To: netip.AddrPortFrom(x.to, servicePort)})
		if err != nil {
			return err
		}
		x.out.guestUDP = ends{x.guest, x.to, st.Local().Port(), servicePort}
		rec, err := s.at(s.net.Intranet).Await(ctx, func(p testnet.Record) bool { return p.Stream == st.ID() && !p.Out })
		if err != nil {
			return err
		}
		if rec.From.Addr() == x.guest {
			return fmt.Errorf("the flow of a masqueraded device comes from %s", rec.From)
		}
		x.out.mapping, x.out.mapped = rec.From, rec.To
	}
	for there, here := range map[*victimFlows]victimFlows{&s.controlFlow4: s.flow4, &s.controlFlow6: s.flow6} {
		there.mapping, there.mapped, there.guestUDP, there.guestTCP = here.mapping, here.mapped, here.guestUDP, here.guestTCP
	}
	return nil
}

// flowPace is the time between messages of a flow.
const flowPace = 100 * time.Millisecond

func (s *site) open(ctx context.Context, h *testnet.Host, spec testnet.StreamSpec) (*testnet.Stream, error) {
	spec.Every, spec.Timeout = flowPace, 10*time.Second
	return h.Stream(ctx, s.server, spec)
}

// flow is a real connection that a device opened while it was routed.
type flow struct {
	name    string
	device  *device // nil: through the control
	stream  *testnet.Stream
	spec    testnet.StreamSpec
	before  int // packets that arrived before the cut
	sent    int // packets sent after it
	arrived int // of those, seen beyond the gateway
}

// openFlows opens flows of each kind from each device that will be demoted, and through
// the control.
func (s *site) openFlows(ctx context.Context) error {
	var g errgroup.Group
	add := func(d *device, host *testnet.Host, device string, from testnet.Both) {
		for _, proto := range []testnet.Proto{testnet.TCP, testnet.UDP} {
			for _, dir := range []testnet.Direction{testnet.Upload, testnet.Download} {
				for i, to := range s.net.Plan.Intranet.All() {
					f := &flow{name: fmt.Sprintf("%s %s ipv%d", proto, dir, 4+2*i), device: d, spec: testnet.StreamSpec{
						Proto: proto, Direction: dir, From: from.All()[i], Device: device, To: netip.AddrPortFrom(to, servicePort)}}
					s.flows = append(s.flows, f)
					g.Go(func() (err error) {
						f.stream, err = s.open(ctx, host, f.spec)
						return err
					})
				}
			}
		}
	}
	for _, d := range s.devices {
		if d.stage.released() {
			add(d, d.host, d.iface, d.routed())
		}
	}
	add(nil, s.net.Dev1, testnet.ControlDevice, s.net.Plan.Dev1Control)
	return g.Wait()
}

func (s *site) countFlows() int { return len(s.flows) }

// cut is the moment after which nothing of the flow may pass. The control's is the last
// one of all: it must go on passing.
func (s *site) cutOf(f *flow) testnet.Stamp {
	if f.device != nil {
		return f.device.cut
	}
	var last testnet.Stamp
	for _, d := range s.devices {
		last = max(last, d.cut)
	}
	return last
}

// sender is where the flow's messages are sent: the capture, and what of it is them.
func (s *site) sender(f *flow) (*testnet.Capture, func(testnet.Record) bool) {
	cut := s.cutOf(f)
	local, remote := f.stream.Local(), f.spec.To
	proto := map[testnet.Proto]uint8{testnet.TCP: 6, testnet.UDP: 17}[f.spec.Proto]
	if f.spec.Direction == testnet.Upload {
		return s.at(s.net.Dev1), func(p testnet.Record) bool {
			return p.Out && p.Device == f.spec.Device && p.At > cut && p.Proto == proto && p.From == local && p.To == remote
		}
	}
	// A masqueraded flow keeps its port if it can, and then the stream's number tells.
	return s.at(s.net.Intranet), func(p testnet.Record) bool {
		return p.Out && p.Device == "intra" && p.At > cut && p.Proto == proto && p.From == remote && (p.Stream == f.stream.ID() || p.To == local)
	}
}

// wanted is how many packets of a flow must have been sent after the cut to judge it: a
// cut connection only repeats itself, ever more slowly.
func (f *flow) wanted() int {
	if f.spec.Proto == testnet.TCP {
		return 2
	}
	return 5
}

// awaitFlows waits until enough was sent after the cut on every flow.
func (s *site) awaitFlows(ctx context.Context) error {
	for _, f := range s.flows {
		at, mine := s.sender(f)
		if _, err := at.AwaitN(ctx, f.wanted(), mine); err != nil {
			return fmt.Errorf("flow %s of a device %q: %w", f.name, stageOf(f.device), err)
		}
	}
	return nil
}

func stageOf(d *device) Stage {
	if d == nil {
		return "control"
	}
	return d.stage
}

// closeFlows ends all flows, so that nothing more is recorded of them.
func (s *site) closeFlows(ctx context.Context) error {
	for _, f := range s.flows {
		if err := f.stream.Close(ctx); err != nil {
			return err
		}
	}
	return nil
}

// exits are the packets that a gateway sent on, by what a packet keeps on its way.
type exits struct {
	segments map[uint32][]testnet.Record // of TCP, by the sender's time stamp
	messages map[uint32][]testnet.Record // others, by stream
	streams  map[uint32][]testnet.Record // all, by stream
}

// exitsOf are those towards the tunnel, or those away from it.
func (s *site) exitsOf(h *testnet.Host, tunnel string, into bool) exits {
	e := exits{make(map[uint32][]testnet.Record), make(map[uint32][]testnet.Record), make(map[uint32][]testnet.Record)}
	for _, p := range s.at(h).Records(func(p testnet.Record) bool { return p.Out && (p.Device == tunnel) == into }) {
		switch {
		case p.Proto == 6:
			e.segments[p.TCPTime] = append(e.segments[p.TCPTime], p)
		case p.Stream != 0:
			e.messages[p.Stream] = append(e.messages[p.Stream], p)
		}
		if p.Stream != 0 {
			e.streams[p.Stream] = append(e.streams[p.Stream], p)
		}
	}
	return e
}

// holds reports whether a packet is among them.
func (e exits) holds(p testnet.Record) bool {
	list := e.messages[p.Stream]
	if p.Proto == 6 {
		list = e.segments[p.TCPTime]
	}
	return slices.ContainsFunc(list, p.Alike)
}

// judgeFlows looks for what was sent after the cut beyond the gateway.
func (s *site) judgeFlows() {
	type way struct{ control, into bool }
	beyond := make(map[way]exits)
	for _, into := range []bool{false, true} {
		beyond[way{false, into}] = s.exitsOf(s.net.Gateway, link, into)
		beyond[way{true, into}] = s.exitsOf(s.net.Control, testnet.ControlDevice, into)
	}
	for _, f := range s.flows {
		e := beyond[way{f.device == nil, f.spec.Direction == testnet.Download}]
		at, mine := s.sender(f)
		for _, p := range at.Records(mine) {
			f.sent++
			if e.holds(p) {
				f.arrived++
			}
		}
		cut := s.cutOf(f)
		for _, p := range e.streams[f.stream.ID()] {
			if p.Sent < cut {
				f.before++
			}
		}
	}
}
