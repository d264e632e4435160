package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/testnet"
)

// knockEvery is the pace of the packets that wait for a way to open.
const knockEvery = time.Millisecond

// release is step e.
func (d *demo) release(ctx context.Context, r *result) error {
	if err := d.selfReports(ctx, r); err != nil {
		return err
	}
	// dev1 follows the move itself: its agent takes the new address and routes.
	took, enforced, err := d.timeRelease(ctx, d.honest, netip.Addr{}, "", d.reporting(d.honest, "compliant"))
	if err != nil {
		return err
	}
	r.figure("report_to_first_packet_ms", took)
	r.figure("report_answered_ms", enforced)
	r.check(took > 0 && took < 2*time.Second, "management server: dev1 is compliant; first packet at the intranet server %s after the report was sent (answered after %s)", ms(took), ms(enforced))
	// dev2 has its address already: this is the gateway's part alone.
	took, enforced, err = d.timeRelease(ctx, d.rogue, d.rogue.full.V4, tunnelDevice, d.reporting(d.rogue, "compliant"))
	if err != nil {
		return err
	}
	r.figure("gateway_report_to_first_packet_ms", took)
	r.figure("gateway_report_answered_ms", enforced)
	r.check(took > 0 && took < time.Second, "the same for dev2, which waits with its new address: %s (answered after %s)", ms(took), ms(enforced))
	trials, err := d.reach(ctx, d.honest.host, anyAddress, "", target{"the intranet server", d.net.Plan.Intranet, servicePort}, d.managed())
	if err != nil {
		return err
	}
	n, bad := count(trials, testnet.Echoed)
	r.figure("routed_answered", n)
	r.check(n == len(trials), "intranet and management server answer dev1 %d of %d times (TCP, UDP, ICMP; IPv4, IPv6)%s", n, len(trials), bad)
	return nil
}

// selfReports has both devices call themselves compliant, and shows that it opened nothing.
func (d *demo) selfReports(ctx context.Context, r *result) error {
	a, err := d.ask(ctx, "report", "compliant")
	if err != nil {
		return err
	}
	stage := ""
	if a.State.Status != nil {
		stage = a.State.Status.Stage
	}
	r.check(a.Error == "" && stage == "quarantined", "lazaret report --verdict compliant on dev1: taken, and the device is still %s", stage)
	var st agentapi.Status
	if err := once(ctx, d.rogue.host, "self-report", "", &st, d.rogue.dir); err != nil {
		return err
	}
	for _, v := range []device{d.honest, d.rogue} {
		x, err := d.operator.explain(ctx, v.enrolled.Name)
		if err != nil {
			return err
		}
		held := false
		for _, p := range x.Reports {
			held = held || p.Source == "agent" && p.Verdict == "compliant" && !p.Releases
		}
		r.figure(v.enrolled.Name+"_reports", x.Reports)
		r.figure(v.enrolled.Name+"_stage", x.Decided.Stage)
		r.check(held && x.Decided.Stage == "quarantined", "explain %s: the agent's report is there, compliant and not releasing; decided: %s", v.enrolled.Name, x.Decided.Stage)
	}
	return d.denied(ctx, r, "self_", d.asRogue(), target{"the intranet server", d.net.Plan.Intranet, servicePort}, target{"an address outside", d.net.Plan.Outside, servicePort})
}

// timeRelease knocks at the intranet server while what releases the device is sent, and
// returns the time from then to the first packet there, and to the answer.
func (d *demo) timeRelease(ctx context.Context, v device, from netip.Addr, iface string, release trigger) (took, answered time.Duration, err error) {
	there, err := d.net.Intranet.Capture(ctx, "intra")
	if err != nil {
		return 0, 0, err
	}
	k, err := json.Marshal(knocker{From: from, Device: iface, To: netip.AddrPortFrom(d.net.Plan.Intranet.V4, servicePort), Every: knockEvery})
	if err != nil {
		return 0, 0, err
	}
	p, err := v.host.Run(ctx, "knock", string(k))
	if err != nil {
		return 0, 0, err
	}
	var local netip.AddrPort
	if err := p.Next(ctx, &local); err != nil {
		return 0, 0, err
	}
	sent, done, err := release(ctx)
	if err != nil {
		return 0, 0, err
	}
	first, err := there.Await(ctx, func(p testnet.Record) bool {
		return !p.Out && p.From.Port() == local.Port() && p.From.Addr() == v.full.V4
	})
	if err != nil {
		return 0, 0, err
	}
	if err := p.Stop(ctx); err != nil {
		return 0, 0, err
	}
	_, err = there.Stop(ctx)
	return first.At.Sub(sent), done.Sub(sent), err
}
