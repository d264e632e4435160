package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/testnet"
)

// The pace of a flow's messages. One goes quicker, to tell more closely when it ended.
const (
	flowEvery  = 8 * time.Millisecond
	quickEvery = 2 * time.Millisecond
)

// flow is one stream of a device to the intranet server.
type flow struct {
	device device
	spec   testnet.StreamSpec
	stream *testnet.Stream
}

func (f *flow) String() string {
	return fmt.Sprintf("%s %s of %s to %s", f.spec.Proto, f.spec.Direction, f.device.host.Name(), f.spec.To.Addr())
}

// openFlows opens uploads and downloads over TCP and UDP, in both families, from the
// address of the full pool.
func (d *demo) openFlows(ctx context.Context, v device) ([]*flow, error) {
	var flows []*flow
	var g errgroup.Group
	for i, to := range d.net.Plan.Intranet.All() {
		for _, proto := range []testnet.Proto{testnet.TCP, testnet.UDP} {
			for _, direction := range []testnet.Direction{testnet.Upload, testnet.Download} {
				f := &flow{device: v, spec: testnet.StreamSpec{
					Proto: proto, Direction: direction, From: v.full.All()[i], To: netip.AddrPortFrom(to, servicePort),
					Device: tunnelDevice, Every: flowEvery, Size: 512, Timeout: openTime,
				}}
				if to.Is4() && proto == testnet.TCP && direction == testnet.Upload {
					f.spec.Every = quickEvery
				}
				flows = append(flows, f)
				g.Go(func() (err error) { f.stream, err = v.host.Stream(ctx, d.intranet, f.spec); return err })
			}
		}
	}
	return flows, g.Wait()
}

func closeFlows(ctx context.Context, flows []*flow) error {
	for _, f := range flows {
		if err := f.stream.Close(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cut is step f: dev2, which obeys nobody, is cut first, and dev1's flows go on; then
// dev1 is cut, whose agent follows the move.
func (d *demo) cut(ctx context.Context, r *result) error {
	watch, err := d.watch(ctx)
	if err != nil {
		return err
	}
	theirs, err := d.openFlows(ctx, d.honest)
	if err != nil {
		return err
	}
	if err := d.cutOne(ctx, r, watch, d.rogue, "", "dev2 is reported non-compliant", d.reporting(d.rogue, "noncompliant")); err != nil {
		return err
	}
	if err := d.checkOthers(ctx, r, theirs); err != nil {
		return err
	}
	if err := closeFlows(ctx, theirs); err != nil {
		return err
	}
	if err := d.cutOne(ctx, r, watch, d.honest, "agent_", "dev1 is reported non-compliant", d.reporting(d.honest, "noncompliant")); err != nil {
		return err
	}
	a, err := d.ask(ctx, "status")
	if err != nil {
		return err
	}
	stage := ""
	if a.State.Status != nil {
		stage = a.State.Status.Stage
	}
	r.check(stage == "quarantined", "lazaret status on dev1 says: %s", stage)
	return watch.Stop(ctx)
}

// watch follows the gateway's firewall in the kernel.
func (d *demo) watch(ctx context.Context) (*testnet.Process, error) {
	p, err := d.net.Gateway.Run(ctx, "watch")
	if err != nil {
		return nil, err
	}
	return p, awaitReady(ctx, p)
}

// cutOne opens a device's flows, has it cut off, and judges by captures at
// both ends what passed of all that was sent after the kernel had committed the change.
func (d *demo) cutOne(ctx context.Context, r *result, watch *testnet.Process, v device, prefix, what string, report trigger) error {
	server, err := d.net.Intranet.Capture(ctx, "intra")
	if err != nil {
		return err
	}
	own, err := v.host.Capture(ctx, tunnelDevice)
	if err != nil {
		return err
	}
	flows, err := d.openFlows(ctx, v)
	if err != nil {
		return err
	}
	for _, f := range flows {
		if err := f.runs(ctx, own, server); err != nil {
			return err
		}
	}
	sent, answered, err := report(ctx)
	if err != nil {
		return err
	}
	commit, err := awaitCommit(ctx, watch, v)
	if err != nil {
		return err
	}
	for _, f := range flows {
		if v.host == d.honest.host && f.spec.Direction == testnet.Upload {
			continue // its agent takes the address away: it sends little or nothing more
		}
		if err := f.goesOn(ctx, own, server, commit); err != nil {
			return err
		}
	}
	if err := stopAll(ctx, server, own); err != nil {
		return err
	}
	r.figure(prefix+"report_answered_ms", answered.Sub(sent))
	r.figure(prefix+"report_to_commit_ms", commit.Sub(sent))
	judge(r, prefix, what, flows, own, server, commit, sent)
	last := lastOfTCP(flows, own, server)
	r.figure(prefix+"report_to_last_packet_ms", last.Sub(sent))
	r.figure(prefix+"answer_to_last_packet_ms", last.Sub(answered))
	r.check(last > 0 && last.Sub(answered) < time.Second, "of its open TCP flows, the last packet arrived %s the report was sent, %s the answer", beside(last.Sub(sent)), beside(last.Sub(answered)))
	return closeFlows(ctx, flows)
}

// ends are the captures where the flow's messages are sent and where they arrive.
func (f *flow) ends(own, server *testnet.Capture) (from, to *testnet.Capture) {
	if f.spec.Direction == testnet.Download {
		return server, own
	}
	return own, server
}

// enoughBefore is how many packets of a flow must have passed before its device was cut.
const enoughBefore = 30

// runs waits until enough of the flow's packets have passed, which is later than that they
// were sent.
func (f *flow) runs(ctx context.Context, own, server *testnet.Capture) error {
	from, to := f.ends(own, server)
	arrival := func(p testnet.Record) bool { return !p.Out && f.carries(p) }
	for n := enoughBefore; ; n += 10 { // segments are cut and merged on the way
		if _, err := to.AwaitN(ctx, n, arrival); err != nil {
			return fmt.Errorf("%s, before it is cut: %w", f, err)
		}
		sent := from.Records(func(p testnet.Record) bool { return p.Out && f.carries(p) })
		if len(testnet.Arrived(sent, to.Records(arrival))) >= enoughBefore {
			return nil
		}
	}
}

// goesOn waits until the flow's sender has offered a good deal after the commit.
func (f *flow) goesOn(ctx context.Context, own, server *testnet.Capture, commit testnet.Stamp) error {
	at, _ := f.ends(own, server)
	n := 60
	if f.spec.Proto == testnet.TCP {
		n = 2 // the window closes soon: old segments go out again, ever more seldom
	}
	offered := func(p testnet.Record) bool { return p.Out && p.At > commit && f.carries(p) }
	if _, err := at.AwaitN(ctx, n, offered); err != nil {
		return fmt.Errorf("%s, after it was cut: %w", f, err)
	}
	return nil
}

// carries accepts packets of the flow in its own direction, told by addresses and ports.
func (f *flow) carries(p testnet.Record) bool {
	if f.spec.Direction == testnet.Download {
		p.From, p.To = p.To, p.From
	}
	proto := uint8(17)
	if f.spec.Proto == testnet.TCP {
		proto = 6
	}
	return p.Proto == proto && p.From == f.stream.Local() && p.To == f.spec.To
}

// awaitCommit waits until the kernel has committed a change that takes both of the
// device's addresses of the full pool away.
func awaitCommit(ctx context.Context, watch *testnet.Process, v device) (testnet.Stamp, error) {
	for {
		var c commit
		if err := watch.Next(ctx, &c); err != nil {
			return 0, fmt.Errorf("waiting for the kernel's commit: %w", err)
		}
		if slices.Contains(c.Removed, "routed4 "+v.full.V4.String()) && slices.Contains(c.Removed, "routed6 "+v.full.V6.String()) {
			return c.At, nil
		}
	}
}

// stopAll ends captures; one that missed a packet is an error.
func stopAll(ctx context.Context, captures ...*testnet.Capture) error {
	for _, c := range captures {
		stat, err := c.Stop(ctx)
		if err != nil {
			return err
		}
		if stat.Dropped > 0 {
			return fmt.Errorf("a capture missed %d of %d packets: nothing can be said", stat.Dropped, stat.Seen)
		}
	}
	return nil
}

// lastOfTCP is when the last packet of any of the TCP flows came to its receiver.
func lastOfTCP(flows []*flow, own, server *testnet.Capture) (last testnet.Stamp) {
	for _, f := range flows {
		if f.spec.Proto != testnet.TCP {
			continue
		}
		_, at := f.ends(own, server)
		for _, p := range at.Records(func(p testnet.Record) bool { return !p.Out && f.carries(p) }) {
			last = max(last, p.At)
		}
	}
	return last
}

// beside says how long before or after something was.
func beside(t time.Duration) string {
	if t < 0 {
		return ms(-t) + " before"
	}
	return ms(t) + " after"
}

// judge counts what was offered after the commit, and what of it passed.
func judge(r *result, prefix, what string, flows []*flow, own, server *testnet.Capture, commit, reported testnet.Stamp) {
	total, passed, words := 0, 0, ""
	offered := map[string]int{}
	for _, f := range flows {
		from, to := f.ends(own, server)
		arrivals := to.Records(func(p testnet.Record) bool { return !p.Out && f.carries(p) })
		before := from.Records(func(p testnet.Record) bool { return p.Out && p.At < reported && f.carries(p) })
		after := from.Records(func(p testnet.Record) bool { return p.Out && p.At > commit && f.carries(p) })
		got := len(testnet.Arrived(after, arrivals))
		total, passed = total+len(after), passed+got
		offered[fmt.Sprintf("%s %s", f.spec.Proto, f.spec.Direction)] += len(after)
		if n := len(testnet.Arrived(before, arrivals)); n < enoughBefore || got > 0 {
			words += fmt.Sprintf("; %s: %d passed before, %d after", f, n, got)
			r.check(false, "%s carried %d packets before the report and %d after the commit", f, n, got)
		}
	}
	r.figure(prefix+"offered_after_commit", total)
	r.figure(prefix+"offered_by_kind", offered)
	r.figure(prefix+"passed_after_commit", passed)
	r.check(passed == 0 && total >= 100, "%s: of %d packets that its %d flows sent after the commit, %d passed%s", what, total, len(flows), passed, words)
}

// checkOthers shows that another device's same flows never stopped, and go on now that the
// gateway has tidied up after the cut. Of a pause those over UDP tell; TCP makes a long one of
// two packets that a busy machine loses.
func (d *demo) checkOthers(ctx context.Context, r *result, flows []*flow) error {
	now := testnet.Now()
	var received uint64
	var gap time.Duration
	ends := make([]testnet.StreamStat, len(flows))
	for i, f := range flows {
		var err error
		if ends[i], err = arrived(ctx, f, now); err != nil {
			return err
		}
	}
	limit, machine, err := d.pause(ctx)
	if err != nil {
		return err
	}
	on, words := 0, ""
	for i, f := range flows {
		end := ends[i]
		received, gap = received+end.Received, max(gap, end.MaxGap)
		if end.LastSent > now && (f.spec.Proto == testnet.TCP || end.MaxGap < limit) {
			on++
		} else {
			words += fmt.Sprintf("; %s: %+v", f, end)
		}
	}
	r.figure("other_device_flows_going_on", on)
	r.figure("other_device_messages", received)
	r.figure("other_device_longest_gap_ms", gap)
	r.figure("other_device_witness_longest_gap_ms", machine)
	r.check(on == len(flows) && on > 0, "dev1's %d same flows go on: %d messages, longest gap %s%s", on, received, ms(gap), words)
	return nil
}

// pause is how long a flow may be without a message, and what of it is the machine's own
// doing: the longest gap of a session that goes between the same hosts at the same pace, but
// through the control gateway.
func (d *demo) pause(ctx context.Context) (limit, machine time.Duration, err error) {
	w, err := d.witness.Client(ctx)
	return time.Second + w.MaxGap, w.MaxGap, err
}

// arrived is how a flow does where it arrives, as soon as something has arrived that was sent
// after an instant, or when nothing has for longer than any flow may pause even on a busy machine.
func arrived(ctx context.Context, f *flow, after testnet.Stamp) (testnet.StreamStat, error) {
	ask := f.stream.Server
	if f.spec.Direction == testnet.Download {
		ask = f.stream.Client
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for limit := time.After(10 * time.Second); ; {
		end, err := ask(ctx)
		if err != nil || end.LastSent > after {
			return end, err
		}
		select {
		case <-again.C:
		case <-limit:
			return end, nil
		case <-ctx.Done():
			return end, ctx.Err()
		}
	}
}

// checkSession is step g.
func (d *demo) checkSession(ctx context.Context, r *result) error {
	if err := d.sessionLives(ctx, r, "", d.session, d.opened); err != nil {
		return err
	}
	return d.sessionLives(ctx, r, "dev2_", d.second, d.second.Local())
}

// sessionLives checks a session with the management server from its opening until now.
func (d *demo) sessionLives(ctx context.Context, r *result, prefix string, s *testnet.Stream, opened netip.AddrPort) error {
	client, err := s.Client(ctx)
	if err != nil {
		return err
	}
	server, err := s.Server(ctx)
	if err != nil {
		return err
	}
	limit, machine, err := d.pause(ctx)
	if err != nil {
		return err
	}
	r.figure(prefix+"session", fmt.Sprintf("%s %s", client.Local, client.Remote))
	r.figure(prefix+"session_echoed", client.Received)
	r.figure(prefix+"session_longest_gap_ms", client.MaxGap)
	r.figure(prefix+"witness_longest_gap_ms", machine)
	r.check(client.Local == opened && server.Remote == opened && client.Error == "" && client.MaxGap <= limit && client.Received+uint64(limit/sessionEvery) > client.Sent && client.Received > 100,
		"one TCP connection %s to %s all along: %d of %d messages echoed, longest gap %s (%s through the control gateway)", client.Local, client.Remote, client.Received, client.Sent, ms(client.MaxGap), ms(machine))
	return nil
}
