package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// pollEvery is how often the kernel is asked what it holds.
const pollEvery = 50 * time.Millisecond

// intranetTarget is what only a routed device reaches.
func (d *demo) intranetTarget() target {
	return target{"the intranet server", d.net.Plan.Intranet, servicePort}
}

// routed reports dev1 compliant and waits until it is through.
func (d *demo) routed(ctx context.Context, validity time.Duration) (apiAnswer, error) {
	a, _, err := d.operator.report(ctx, d.honest.enrolled.Name, "compliant", validity)
	if err != nil {
		return a, err
	}
	return a, d.untilThrough(ctx)
}

// untilThrough waits until the intranet server answers dev1.
func (d *demo) untilThrough(ctx context.Context) error {
	return until(ctx, pollEvery, func() (bool, error) {
		p, err := d.honest.host.Probe(ctx, testnet.ProbeSpec{
			Proto: testnet.UDP, To: netip.AddrPortFrom(d.net.Plan.Intranet.V4, servicePort), Timeout: 200 * time.Millisecond,
		})
		return p.Outcome == testnet.Echoed && p.Local.Addr() == d.honest.full.V4, err
	})
}

// kernel asks what sets of the gateway's table hold.
func (d *demo) kernel(ctx context.Context, sets ...string) (elements, error) {
	var e elements
	return e, once(ctx, d.net.Gateway, "elements", "", &e, sets...)
}

// left is the time that an element has left; zero if it is not there.
func (e elements) left(set, key string) time.Duration {
	for _, h := range e.Sets[set] {
		if h.Key == key {
			return h.Left
		}
	}
	return 0
}

const (
	tunnelName = "lz0"  // the gateway's WireGuard interface
	freshKey   = "ipv4" // one of the two of @fresh, which end together
)

// running is a flow of dev1 to the intranet server and back, to see when routing ends.
func (d *demo) running(ctx context.Context) (*testnet.Stream, error) {
	return d.honest.host.Stream(ctx, d.intranet, testnet.StreamSpec{
		Proto: testnet.UDP, Direction: testnet.Echo, From: d.honest.full.V4, To: netip.AddrPortFrom(d.net.Plan.Intranet.V4, servicePort), Every: 5 * time.Millisecond, Timeout: openTime,
	})
}

// killServe kills the control plane, and says when.
func (d *demo) killServe(ctx context.Context) (testnet.Stamp, error) {
	at := testnet.Now()
	if err := d.serve.Kill(ctx); err != nil {
		return 0, err
	}
	select {
	case <-d.plane.Done():
		return 0, fmt.Errorf("the data plane ended as well: %s", d.plane.Output())
	default:
		return at, nil
	}
}

// killControl is step h.
func (d *demo) killControl(ctx context.Context, r *result) error {
	if _, err := d.routed(ctx, 0); err != nil {
		return err
	}
	s, err := d.running(ctx)
	if err != nil {
		return err
	}
	before, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	killed, err := d.killServe(ctx)
	if err != nil {
		return err
	}
	r.check(d.serve.ExitCode() != 0, "lazaretd serve is killed with SIGKILL while dev1 is routed")
	if err := d.alone(ctx, r, killed); err != nil {
		return err
	}
	if err := d.untilStale(ctx, r, s, killed); err != nil {
		return err
	}
	return d.comeBack(ctx, r, before)
}

// alone shows what works, and what does not, right after the control plane died.
func (d *demo) alone(ctx context.Context, r *result, killed testnet.Stamp) error {
	trials, err := d.reach(ctx, d.honest.host, anyAddress, "", d.intranetTarget(), d.managed())
	if err != nil {
		return err
	}
	n, bad := count(trials, testnet.Echoed)
	r.figure("new_connections_answered", n)
	r.check(n == len(trials), "the tunnel goes on: new connections to intranet and management server open %s later, %d of %d%s", testnet.Now().Sub(killed).Round(time.Millisecond), n, len(trials), bad)
	routed, rogue := d.asRouted(), d.asRogue()
	if err := d.denied(ctx, r, "routed_", routed, d.forbidden(routed)...); err != nil {
		return err
	}
	if err := d.denied(ctx, r, "quarantined_", rogue, append(d.outer(), d.forbidden(rogue)...)...); err != nil {
		return err
	}
	if err := d.controlled(ctx, r, "routed_", d.honest.host, d.net.Plan.Dev1Control, d.forbidden(routed)...); err != nil {
		return err
	}
	e, err := d.kernel(ctx, "fresh")
	if err != nil {
		return err
	}
	left := e.left("fresh", freshKey)
	r.figure("freshness_left_after_probes_ms", left)
	r.check(left > 0, "all this while the freshness ran on: %s left of %s", left, freshness)
	return nil
}

// untilStale waits until the freshness has run out, and shows that routing ended then.
func (d *demo) untilStale(ctx context.Context, r *result, s *testnet.Stream, killed testnet.Stamp) error {
	d.print.progress("waiting for the freshness of %s to run out", freshness)
	var e elements
	err := until(ctx, pollEvery, func() (bool, error) {
		var err error
		e, err = d.kernel(ctx, "fresh", "alive", "routed4", "routed6")
		return err == nil && e.left("fresh", freshKey) == 0, err
	})
	if err != nil {
		return err
	}
	gone := testnet.Now()
	before, err := s.Client(ctx)
	if err != nil {
		return err
	}
	end, err := s.Server(ctx)
	if err != nil {
		return err
	}
	took := end.LastSent.Sub(killed)
	r.figure("killed_to_last_packet_ms", took)
	r.check(took > freshness/2 && took < freshness+500*time.Millisecond, "the last packet that passed was sent %s after the kill, the freshness being %s", took.Round(time.Millisecond), freshness)
	lease := min(e.left("routed4", d.honest.full.V4.String()), e.left("routed6", d.honest.full.V6.String()))
	r.figure("lease_left_ms", lease)
	r.check(lease > time.Minute, "the kernel still holds dev1's lease (%s left): it was the freshness that ended", lease.Round(time.Second))
	who := d.asRouted()
	if err := d.denied(ctx, r, "stale_", who, d.intranetTarget(), target{"an address outside", d.net.Plan.Outside, servicePort}); err != nil {
		return err
	}
	after, err := s.Client(ctx)
	if err != nil {
		return err
	}
	if end, err = s.Server(ctx); err != nil {
		return err
	}
	r.check(end.LastSent <= gone && after.Sent > before.Sent, "of the running flow, which sent %d more messages, none passed", after.Sent-before.Sent)
	trials, err := d.reach(ctx, d.honest.host, anyAddress, "", d.managed())
	if err != nil {
		return err
	}
	n, bad := count(trials, testnet.Echoed)
	r.check(n == len(trials), "the management server still answers dev1, %d of %d%s", n, len(trials), bad)
	return s.Close(ctx)
}

// comeBack restarts the control plane and shows that dev1 is routed again without anybody's doing.
func (d *demo) comeBack(ctx context.Context, r *result, before api.Explanation) error {
	began := testnet.Now()
	if err := d.startServe(ctx); err != nil {
		return err
	}
	if err := d.untilThrough(ctx); err != nil {
		return err
	}
	took := testnet.Now().Sub(began)
	if err := d.awaitGateway(ctx); err != nil {
		return err
	}
	after, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	same := latest(before).Equal(latest(after)) && !latest(after).IsZero()
	r.figure("restart_to_routed_ms", took)
	r.check(same && after.Device.Stage == "routed", "lazaretd serve is started again: dev1 is back after %s, by the report of before", took.Round(time.Millisecond))
	return d.sessionLives(ctx, r, "", d.session, d.opened)
}

// latest is when the management server's last report came.
func latest(x api.Explanation) (at time.Time) {
	for _, p := range x.Reports {
		if p.Source == "management" {
			at = p.Received
		}
	}
	return at
}

// lease is the validity of the report in step i: shorter than the freshness that is left
// when the control plane is killed, which was prolonged at most a third of it ago.
const lease = 4 * time.Second

// expireLease is step i.
func (d *demo) expireLease(ctx context.Context, r *result) error {
	s, err := d.running(ctx)
	if err != nil {
		return err
	}
	a, _, err := d.operator.report(ctx, d.honest.enrolled.Name, "compliant", lease)
	if err != nil {
		return err
	}
	killed, err := d.killServe(ctx)
	if err != nil {
		return err
	}
	e, err := d.kernel(ctx, "fresh", "routed4", "routed6")
	if err != nil {
		return err
	}
	own, fresh := e.left("routed4", d.honest.full.V4.String()), e.left("fresh", freshKey)
	r.figure("lease_left_ms", own)
	r.figure("freshness_left_ms", fresh)
	r.check(own > 0 && own <= lease && fresh > own, "a report valid for %s, then serve is killed: %s of the lease left, %s of the freshness", lease, own, fresh)
	if err := d.untilLapsed(ctx, r, s, a, killed); err != nil {
		return err
	}
	if err := s.Close(ctx); err != nil {
		return err
	}
	return d.stays(ctx, r)
}

// untilLapsed waits until dev1's lease is over in the kernel, and shows that nothing else was.
func (d *demo) untilLapsed(ctx context.Context, r *result, s *testnet.Stream, reported apiAnswer, killed testnet.Stamp) error {
	var e elements
	err := until(ctx, pollEvery, func() (bool, error) {
		var err error
		e, err = d.kernel(ctx, "routed4", "routed6", "fresh")
		return err == nil && e.left("routed4", d.honest.full.V4.String()) == 0 && e.left("routed6", d.honest.full.V6.String()) == 0, err
	})
	if err != nil {
		return err
	}
	end, err := s.Server(ctx)
	if err != nil {
		return err
	}
	fresh := e.left("fresh", freshKey)
	// The lease began between the report and its answer.
	took := end.LastSent.Sub(reported.Sent)
	most := lease + reported.Answered.Sub(reported.Sent)
	r.figure("answer_to_last_packet_ms", end.LastSent.Sub(reported.Answered))
	r.figure("killed_to_last_packet_ms", end.LastSent.Sub(killed))
	r.figure("freshness_left_at_end_ms", fresh)
	r.check(took > lease/2 && took <= most+200*time.Millisecond && end.LastSent > killed, "the last packet that passed was sent %s after the report", took.Round(time.Millisecond))
	r.check(fresh > time.Second, "@fresh is still there when routing ends, for another %s: it was the lease that ended", fresh)
	if err := d.denied(ctx, r, "", d.asRouted(), d.intranetTarget()); err != nil {
		return err
	}
	if e, err = d.kernel(ctx, "fresh"); err != nil {
		return err
	}
	r.check(e.left("fresh", freshKey) > 0, "and is there after these probes as well: %s", e.left("fresh", freshKey))
	return nil
}

// stays restarts the control plane, which finds the lease over.
func (d *demo) stays(ctx context.Context, r *result) error {
	if err := d.startServe(ctx); err != nil {
		return err
	}
	if err := d.awaitGateway(ctx); err != nil {
		return err
	}
	x, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	r.check(x.Device.Stage == "quarantined", "after a restart explain says: %s (%s)", x.Device.Stage, x.Device.Reason)
	return d.sessionLives(ctx, r, "", d.session, d.opened)
}
