package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// revoke is step m.
func (d *demo) revoke(ctx context.Context, r *result) error {
	if _, err := d.routed(ctx, 0); err != nil {
		return err
	}
	if err := d.revokeRunning(ctx, r); err != nil {
		return err
	}
	if err := d.refuseHandshake(ctx, r); err != nil {
		return err
	}
	if err := d.refuseCertificate(ctx, r); err != nil {
		return err
	}
	var raw refusal
	code := d.codes["alice-laptop"].Code
	if err := once(ctx, d.honest.host, "refused", code, &raw, d.enrollURL()); err != nil {
		return err
	}
	var e enrolled
	if err := once(ctx, d.honest.host, "enroll", code, &e, filepath.Join(d.honest.host.Dir(), "again"), d.enrollURL()); err != nil {
		return err
	}
	r.check(raw.Kind == "error" && bytes.Equal(raw.Body, d.uniform) && e.Error != "", "its one-time password is refused again, by the same %d bytes as any other", len(raw.Body))
	trials, err := d.reach(ctx, d.rogue.host, []testnet.Both{d.rogue.quarantine}, tunnelDevice, d.managed())
	if err != nil {
		return err
	}
	n, bad := count(trials, testnet.Echoed)
	r.figure("other_device_answered", n)
	r.check(n == len(trials), "dev2 is not touched: the management server answers it %d of %d times%s", n, len(trials), bad)
	var entries []api.AuditEntry
	if err := d.operator.get(ctx, "/api/v1/audit?device="+d.honest.enrolled.Device+"&limit=50", &entries); err != nil {
		return err
	}
	i := slices.IndexFunc(entries, func(a api.AuditEntry) bool { return a.Action == "device.revoke" })
	r.figure("audit_entries", len(entries))
	r.check(i >= 0, "the audit log tells who revoked it, among %d entries on this device", len(entries))
	return nil
}

// revokeRunning revokes dev1 while it sends to both servers, and goes on to.
func (d *demo) revokeRunning(ctx context.Context, r *result) error {
	s, err := d.running(ctx)
	if err != nil {
		return err
	}
	own, err := d.honest.host.Capture(ctx, tunnelDevice)
	if err != nil {
		return err
	}
	arriving, err := d.arrivals(ctx, d.rogue)
	if err != nil {
		return err
	}
	// The gateway's word that dev1 is revoked may overtake the data plane: an agent that
	// heard it would take the pool's address away, and dev1 would not send any more.
	if err := d.firewall(ctx, deafTable, "on"); err != nil {
		return err
	}
	var placed api.Placed
	a, err := d.operator.post(ctx, "/api/v1/devices/"+d.honest.enrolled.Name+"/revoke", api.ActionRequest{Why: "lost"}, &placed)
	if err != nil {
		return err
	}
	r.figure("revoke_answered_ms", a.Answered.Sub(a.Sent))
	r.check(placed.Decision.Stage == "revoked" && placed.Enforced, "dev1 is revoked while it sends: %s, enforced, answered after %s", placed.Decision.Stage, ms(a.Answered.Sub(a.Sent)))
	offered := func(p testnet.Record) bool { return p.Out && p.At > a.Answered && (p.Proto == 6 || p.Proto == 17) }
	flow := func(p testnet.Record) bool { return offered(p) && p.Stream == s.ID() }
	if _, err := own.AwaitN(ctx, 200, flow); err != nil {
		return d.stalled(ctx, err, s)
	}
	session := func(p testnet.Record) bool { return offered(p) && p.From == d.opened }
	if _, err := own.AwaitN(ctx, 2, session); err != nil {
		return err
	}
	if err := stopAll(ctx, append(arriving, own)...); err != nil {
		return err
	}
	sent, passed := own.Records(offered), 0
	for _, c := range arriving {
		passed += len(testnet.Arrived(sent, c.Records(func(p testnet.Record) bool { return !p.Out })))
	}
	toIntranet, toManagement := len(own.Records(flow)), len(own.Records(session))
	r.figure("offered_after_answer", len(sent))
	r.figure("offered_to_intranet", toIntranet)
	r.figure("offered_to_management", toManagement)
	r.figure("passed_after_answer", passed)
	r.check(passed == 0, "its agent hears nothing of it, and it goes on: of %d packets that it sent into the tunnel after the answer, %d of them to the intranet server and %d of its session with the management server, %d passed",
		len(sent), toIntranet, toManagement, passed)
	if err := d.firewall(ctx, deafTable, "off"); err != nil {
		return err
	}
	return s.Close(ctx)
}

// stalled adds to an error why dev1 may have stopped to send.
func (d *demo) stalled(ctx context.Context, err error, s *testnet.Stream) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // of the step nothing is left
	defer cancel()
	sender, unknown := s.Client(ctx)
	said := d.agent.Output()
	return fmt.Errorf("%w; its sender: %+v (%v); its agent: %s", err, sender, unknown, said[max(0, len(said)-2000):])
}

// refuseHandshake tries the revoked key anew: a fresh tunnel gets no answer at all.
func (d *demo) refuseHandshake(ctx context.Context, r *result) error {
	if err := d.agent.Stop(ctx); err != nil {
		return err
	}
	key, err := tunnel.LoadOrCreateKey(filepath.Join(d.honest.dir, "wireguard.key"))
	if err != nil {
		return err
	}
	gateway, err := tunnel.ParseKey(d.honest.enrolled.WireGuard)
	if err != nil {
		return err
	}
	endpoint, err := netip.ParseAddrPort(d.honest.enrolled.Endpoint)
	if err != nil {
		return err
	}
	seen, err := d.net.Gateway.Capture(ctx, "outer")
	if err != nil {
		return err
	}
	own := netip.PrefixFrom(d.honest.quarantine.V4, 32)
	if _, err = d.honest.host.WireGuard(ctx, testnet.WireGuardSpec{Device: "lazaret1", Key: key, Addrs: []netip.Prefix{own}, Peers: []tunnel.Peer{{
		Key: gateway, Endpoint: endpoint, KeepAlive: time.Second, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	}}}); err != nil {
		return err
	}
	if err := d.honest.host.ForceRoutes(ctx, "lazaret1", forcedTable); err != nil {
		return err
	}
	p, err := d.honest.host.Probe(ctx, testnet.ProbeSpec{Proto: testnet.UDP, From: d.honest.quarantine.V4, Device: "lazaret1",
		To: netip.AddrPortFrom(d.net.Plan.Management.V4, servicePort), Timeout: 2 * time.Second})
	if err != nil {
		return err
	}
	if _, err := seen.Stop(ctx); err != nil {
		return err
	}
	calls := seen.Records(func(p testnet.Record) bool { return !p.Out && p.From.Addr() == d.net.Plan.Dev1.V4 && p.To == endpoint })
	answers := seen.Records(func(p testnet.Record) bool { return p.Out && p.To.Addr() == d.net.Plan.Dev1.V4 && p.From == endpoint })
	r.figure("handshakes_tried", len(calls))
	r.figure("handshakes_answered", len(answers))
	r.check(len(calls) > 0 && len(answers) == 0 && p.Outcome == testnet.Silent, "a new tunnel with its key: %d handshakes arrive at the gateway, %d are answered", len(calls), len(answers))
	return nil
}

// refuseCertificate tries to renew the revoked certificate, and dev2's, which is good.
func (d *demo) refuseCertificate(ctx context.Context, r *result) error {
	var revoked, good renewed
	if err := once(ctx, d.rogue.host, "renew", "", &good, d.rogue.dir); err != nil {
		return err
	}
	if err := once(ctx, d.honest.host, "renew", "", &revoked, d.honest.dir); err != nil {
		return err
	}
	r.figure("renewal", revoked.Error)
	r.check(good.Serial != "" && good.Error == "", "dev2's certificate can be renewed: %s%s", good.Serial, good.Error)
	r.check(revoked.Error != "" && revoked.Serial == "", "dev1's is refused by the same message: %s", revoked.Error)
	return nil
}
