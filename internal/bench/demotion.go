package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/internal/testnet"
)

const roleFlood = "flood"

func (s *session) trackedFlows() int {
	if s.quick {
		return 20_000
	}
	return 200_000
}

func (s *session) cutsPerRound() int {
	if s.quick {
		return 3
	}
	return 6
}

// conntrackLimit is how many flows may be tracked, and whether a namespace may change it.
const conntrackLimit = "/proc/sys/net/netfilter/nf_conntrack_max"

// measureDemotions compares the cut of a device's flows on a gateway that tracks very many
// other flows with the same on one that tracks next to none, and judges by captures whether
// anything passed that was sent after it.
func measureDemotions(ctx context.Context, s *session) error {
	flows := s.trackedFlows()
	if limit, err := readNumber(conntrackLimit); err == nil && flows > limit*9/10 {
		s.progress("this kernel tracks at most %d flows, which only the machine's own root can raise: measuring with %d", limit, limit*9/10)
		flows = limit * 9 / 10
	}
	var cuts [2]*cutting
	for i := range cuts {
		c, err := openCutting(ctx, s, i*flows)
		if err != nil {
			return err
		}
		defer c.net.Close()
		cuts[i] = c
	}
	var took [2]rounds
	for r := range s.rounds + 1 { // the first is for warming up
		for i := range cuts {
			i = (i + r) % len(cuts)
			var got samples
			for range s.cutsPerRound() {
				d, err := cuts[i].trial(ctx)
				if err != nil {
					return err
				}
				got = append(got, d)
			}
			if r > 0 {
				took[i] = append(took[i], got)
			}
		}
	}
	var tracked int
	if err := cuts[1].keeper.ask(ctx, order{Do: "tracked"}, &tracked); err != nil {
		return err
	}
	if tracked < flows {
		return fmt.Errorf("%d flows were tracked at the end, want %d", tracked, flows)
	}
	s.add(row{Name: fmt.Sprintf("demotion with %d tracked flows, p50", tracked), Value: millis(took[1].median()), Unit: "ms", Base: number(millis(took[0].median())),
		Ratio: number(took[1].over(took[0])), Bound: number(2),
		ComparedWith: fmt.Sprintf("with next to none; table and allowed addresses, the device's flows under way; median of %d rounds of %d", s.rounds, s.cutsPerRound())})
	for i, what := range []string{"next to no tracked flows", fmt.Sprintf("%d tracked flows", tracked)} {
		if err := cuts[i].judge(ctx, s, what); err != nil {
			return err
		}
	}
	return cuts[1].others(ctx, s, took[1])
}

// cutting is a passage with flows of the first seat under way in both directions, and who
// watches both ends.
type cutting struct {
	*passage
	near, far *testnet.Capture // at the device, in its tunnel, and at the server
	up, down  uint32           // the streams
	cuts      []cut
}

// cut is one demotion: when it was ordered and done, and when the next release began.
type cut struct{ done, until testnet.Stamp }

func openCutting(ctx context.Context, s *session, flows int) (*cutting, error) {
	p, err := openPassage(ctx, s, s.deviceCounts()[1])
	if err != nil {
		return nil, err
	}
	c := &cutting{passage: p}
	if err := c.start(ctx, s, flows); err != nil {
		p.net.Close()
		return nil, err
	}
	return c, nil
}

func (c *cutting) start(ctx context.Context, s *session, flows int) error {
	if err := c.keeper.ask(ctx, order{Do: "on"}, nil); err != nil {
		return err
	}
	at := netip.AddrPortFrom(c.net.Plan.Intranet.V4, sinkPort)
	server, err := c.net.Intranet.Serve(ctx, at)
	if err != nil {
		return err
	}
	if flows > 0 {
		if err := c.flood(ctx, s, flows); err != nil {
			return err
		}
	}
	if c.near, err = c.net.Dev1.Capture(ctx, "wg0"); err != nil {
		return err
	}
	if c.far, err = c.net.Intranet.Capture(ctx, "intra"); err != nil {
		return err
	}
	for direction, id := range map[testnet.Direction]*uint32{testnet.Upload: &c.up, testnet.Download: &c.down} {
		stream, err := c.net.Dev1.Stream(ctx, server, testnet.StreamSpec{
			Proto: testnet.UDP, Direction: direction, From: c.device, To: at, Every: time.Millisecond, Size: 64,
		})
		if err != nil {
			return err
		}
		*id = stream.ID()
	}
	return nil
}

// flood has the device's second seat open that many flows.
func (c *cutting) flood(ctx context.Context, s *session, flows int) error {
	for _, name := range []string{"udp_timeout", "udp_timeout_stream"} {
		if err := c.net.Gateway.Configure(ctx, testnet.NetConfig{Sysctls: map[string]string{"net/netfilter/nf_conntrack_" + name: "3600"}}); err != nil {
			return err
		}
	}
	s.progress("opening %d flows", flows)
	w, err := startWorker(ctx, c.net.Dev1, roleFlood, false, sendArgs{From: c.second, To: netip.AddrPortFrom(c.net.Plan.Intranet.V4, 0)}, nil)
	if err != nil {
		return err
	}
	for range 50 { // some get lost on the way
		var have int
		if err := c.keeper.ask(ctx, order{Do: "tracked"}, &have); err != nil {
			return err
		}
		if have >= flows {
			return w.Stop(ctx)
		}
		if err := w.ask(ctx, order{Do: "flood", N: min(flows-have+1000, 20_000)}, nil); err != nil {
			return err
		}
	}
	return fmt.Errorf("could not open %d flows", flows)
}

// runFlood is the role that opens flows: packets of all ports, made by hand, into the
// device's tunnel.
func runFlood(ctx context.Context, args []string) error {
	var a sendArgs
	if err := arguments(args, &a); err != nil {
		return err
	}
	w, err := openWire("wg0", 0)
	if err != nil {
		return err
	}
	defer w.Close()
	next := 0
	return obey(ctx, nil, func(_ context.Context, o order) (any, error) {
		if o.Do != "flood" {
			return unknown(o)
		}
		b := make([]byte, frameSize)
		pause := time.NewTicker(time.Millisecond)
		defer pause.Stop()
		for i := range o.N {
			if i%50 == 0 {
				<-pause.C // the tunnel's queues are short
			}
			from, to := netip.AddrPortFrom(a.From, uint16(1024+next%60_000)), netip.AddrPortFrom(a.To.Addr(), uint16(20_000+next/60_000))
			next++
			putFrame(b, nil, nil, flow{from, to})
			// A tunnel's interface takes packets without Ethernet's header.
			if _, err := unix.Write(w.fd, b[14:]); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return nil, os.NewSyscallError("write", err)
			}
		}
		return nil, nil
	})
}

// enough is how many messages in each direction are sent after a cut before the next release.
const enough = 20

// trial releases the device, waits for both streams to arrive, cuts it, and waits until
// enough was sent that must not pass.
func (c *cutting) trial(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var up, down span
	if err := c.keeper.ask(ctx, order{Do: "release"}, &up); err != nil {
		return 0, err
	}
	if n := len(c.cuts); n > 0 {
		c.cuts[n-1].until = up.From
	}
	if err := c.await(ctx, up.To, 1, c.far, c.near); err != nil {
		return 0, fmt.Errorf("waiting for a release to show: %w", err)
	}
	if err := c.keeper.ask(ctx, order{Do: "cut"}, &down); err != nil {
		return 0, err
	}
	c.cuts = append(c.cuts, cut{done: down.To})
	if err := c.await(ctx, down.To, enough, c.near, c.far); err != nil {
		return 0, fmt.Errorf("waiting for what is sent after a cut: %w", err)
	}
	return down.To.Sub(down.From), nil
}

// await waits until n messages of each stream, sent after a moment, were seen: those going
// up by one capture, those going down by the other.
func (c *cutting) await(ctx context.Context, after testnet.Stamp, n int, up, down *testnet.Capture) error {
	for _, x := range []struct {
		by     *testnet.Capture
		stream uint32
	}{{up, c.up}, {down, c.down}} {
		if _, err := x.by.AwaitN(ctx, n, func(r testnet.Record) bool { return r.Stream == x.stream && r.Sent > after }); err != nil {
			return err
		}
	}
	return nil
}

// judge counts what passed that was sent between the end of a cut and the next release.
func (c *cutting) judge(ctx context.Context, s *session, what string) error {
	within := func(r testnet.Record, stream uint32) bool {
		if r.Stream != stream {
			return false
		}
		for _, x := range c.cuts {
			// What was on its way to the gateway when the next release began may pass then.
			if r.Sent > x.done && (x.until == 0 || r.Sent < x.until && r.At < x.until) {
				return true
			}
		}
		return false
	}
	count := func(by *testnet.Capture, stream uint32) (int, error) {
		if st, err := by.Stat(ctx); err != nil || st.Dropped > 0 {
			return 0, errors.Join(err, fmt.Errorf("a capture missed %d packets", st.Dropped))
		}
		return len(by.Records(func(r testnet.Record) bool { return within(r, stream) })), nil
	}
	var n [4]int
	for i, x := range []struct {
		by     *testnet.Capture
		stream uint32
	}{{c.near, c.up}, {c.far, c.down}, {c.far, c.up}, {c.near, c.down}} {
		var err error
		if n[i], err = count(x.by, x.stream); err != nil {
			return err
		}
	}
	s.add(row{Name: "demotion: packets sent after it that passed, " + what, Value: float64(n[2] + n[3]), Unit: "packets", Bound: number(0),
		ComparedWith: fmt.Sprintf("captures at both ends; %d sent, in both directions, after %d demotions", n[0]+n[1], len(c.cuts))})
	return nil
}

// others times the ways of cutting that were not taken: accepting what is established, and
// deleting the device's entries.
func (c *cutting) others(ctx context.Context, s *session, ours rounds) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, x := range []struct{ do, name, how string }{
		{"delete", "way: tracked flows listed and the device's deleted", "a demotion; all entries are read, and the device's deleted one by one"},
		{"forget", "way: the device's tracked flows deleted by the kernel's filter", "a demotion; what tidying does later, for one address, by both tuples"},
	} {
		var took samples
		for range 5 {
			var up span
			if err := c.keeper.ask(ctx, order{Do: "release"}, &up); err != nil {
				return err
			}
			// Only the upward flow comes back by itself once its entry is gone.
			if _, err := c.far.Await(ctx, func(r testnet.Record) bool { return r.Stream == c.up && r.Sent > up.To }); err != nil {
				return err
			}
			var d time.Duration
			if err := c.keeper.ask(ctx, order{Do: x.do}, &d); err != nil {
				return err
			}
			took = append(took, d)
		}
		s.add(row{Name: x.name, Value: millis(took.median()), Unit: "ms", Base: number(millis(ours.median())),
			Ratio: number(float64(took.median()) / float64(ours.median())), ComparedWith: x.how + "; median of 5"})
	}
	return nil
}
