package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// tunnelDevice is the name of a device's tunnel, the agent's default.
const tunnelDevice = "lazaret0"

// sessionEvery is the pace of the sessions with the management server.
const sessionEvery = 20 * time.Millisecond

// openTime bounds the opening of a flow: a tunnel's first handshake may be lost, and is tried
// again after five seconds.
const openTime = 15 * time.Second

// forcedTable is the routing table that leads the rogue's probes into its tunnel.
const forcedTable = 7000

// target is something a probe is sent to.
type target struct {
	name  string
	addrs testnet.Both
	port  uint16
}

// trial is one probe and what became of it.
type trial struct {
	target string
	spec   testnet.ProbeSpec
	result testnet.ProbeResult
}

func (t trial) String() string {
	return fmt.Sprintf("%s over %s to %s: %s", t.target, t.spec.Proto, t.spec.To.Addr(), t.result.Outcome)
}

// prober is who probes, as which of its addresses, and the other device of the two.
type prober struct {
	device
	from []testnet.Both
	peer device
}

// asRogue probes with the address of quarantine and with the one it would have if it
// were released, out of a tunnel that lets everything leave.
func (d *demo) asRogue() prober {
	return prober{d.rogue, []testnet.Both{d.rogue.quarantine, d.rogue.full}, d.honest}
}

// asRouted probes as dev1, whose released agent leads everything into the tunnel.
func (d *demo) asRouted() prober {
	return prober{d.honest, []testnet.Both{d.honest.full}, d.rogue}
}

// forbidden is what neither quarantine nor any pool lets a device reach.
func (d *demo) forbidden(who prober) []target {
	return []target{
		{"the other device", who.peer.quarantine, servicePort},
		{"the gateway's other ports, in the tunnel", tunnelGateway, otherPort},
		{"the gateway's other ports, on its intranet address", d.net.Plan.GatewayIntra, otherPort},
	}
}

// outer is what quarantine keeps a device from.
func (d *demo) outer() []target {
	return []target{
		{"the intranet server", d.net.Plan.Intranet, servicePort},
		{"an address outside", d.net.Plan.Outside, servicePort},
		{"another port of the management server", d.net.Plan.Management, otherPort},
	}
}

func (d *demo) managed() target {
	return target{"the management server", d.net.Plan.Management, servicePort}
}

// anyAddress leaves the source address to the routes.
var anyAddress = []testnet.Both{{}}

// How long a probe waits for its answer: where there shall be none, and where there shall.
const (
	silence  = 1200 * time.Millisecond
	patience = 6 * time.Second
)

// probe sends probes to all targets at once, over every protocol and both families,
// from each of these addresses and out of this interface, and none shall be answered.
func (d *demo) probe(ctx context.Context, h *testnet.Host, from []testnet.Both, device string, targets ...target) ([]trial, error) {
	return d.probeFor(ctx, silence, h, from, device, targets...)
}

// reach is probe where all shall be answered.
func (d *demo) reach(ctx context.Context, h *testnet.Host, from []testnet.Both, device string, targets ...target) ([]trial, error) {
	return d.probeFor(ctx, patience, h, from, device, targets...)
}

func (d *demo) probeFor(ctx context.Context, timeout time.Duration, h *testnet.Host, from []testnet.Both, device string, targets ...target) ([]trial, error) {
	var trials []trial
	for _, t := range targets {
		for _, source := range from {
			trials = append(trials, d.trials(t, source, device)...)
		}
	}
	var g errgroup.Group
	for i := range trials {
		g.Go(func() (err error) {
			trials[i].spec.Timeout = timeout
			trials[i].result, err = h.Probe(ctx, trials[i].spec)
			return err
		})
	}
	return trials, g.Wait()
}

// trials are the probes of one target from one source.
func (d *demo) trials(t target, from testnet.Both, device string) []trial {
	var trials []trial
	for i, a := range t.addrs.All() {
		for _, proto := range []testnet.Proto{testnet.TCP, testnet.UDP, testnet.ICMP} {
			to := netip.AddrPortFrom(a, t.port)
			if proto == testnet.ICMP {
				if t.port == otherPort && t.addrs == d.net.Plan.Management {
					continue // echo has no ports: that host's is allowed
				}
				to = netip.AddrPortFrom(a, 0)
			}
			trials = append(trials, trial{target: t.name, spec: testnet.ProbeSpec{
				Proto: proto, From: from.All()[i], To: to, Device: device,
			}})
		}
	}
	return trials
}

// openTunnels starts dev1's agent, dev2's tunnel that obeys nobody, and the control tunnel.
func (d *demo) openTunnels(ctx context.Context) error {
	var err error
	if d.agent, err = d.honest.host.Start(ctx, testnet.Spec{Role: "agent", Args: []string{d.honest.dir, d.socket()}}); err != nil {
		return err
	}
	if err := awaitReady(ctx, d.agent); err != nil {
		return err
	}
	if err := d.openRogue(ctx); err != nil {
		return err
	}
	spec := testnet.ControlSpec{
		Gateway: append(tunnelGateway.All(), d.net.Plan.GatewayIntra.All()...),
		Dev1:    append(d.honest.quarantine.All(), d.honest.full.All()...),
		Dev2:    append(d.rogue.quarantine.All(), d.rogue.full.All()...),
	}
	if err := d.net.OpenControl(ctx, spec); err != nil {
		return err
	}
	at := append(ports(tunnelGateway, otherPort), ports(d.net.Plan.GatewayIntra, otherPort)...)
	if d.control, err = d.net.Control.Serve(ctx, at...); err != nil {
		return err
	}
	for _, v := range []device{d.honest, d.rogue} {
		if _, err := v.host.Serve(ctx, ports(v.quarantine, servicePort)...); err != nil {
			return err
		}
	}
	return nil
}

// openRogue opens a tunnel with dev2's enrolled key that takes every destination and
// already bears the address it would have when released.
func (d *demo) openRogue(ctx context.Context) error {
	v := d.rogue
	key, err := tunnel.LoadOrCreateKey(filepath.Join(v.dir, "wireguard.key"))
	if err != nil {
		return err
	}
	gateway, err := tunnel.ParseKey(v.enrolled.WireGuard)
	if err != nil {
		return err
	}
	endpoint, err := netip.ParseAddrPort(v.enrolled.Endpoint)
	if err != nil {
		return err
	}
	var own []netip.Prefix
	for _, a := range append(v.quarantine.All(), v.full.All()...) {
		own = append(own, netip.PrefixFrom(a, a.BitLen()))
	}
	_, err = v.host.WireGuard(ctx, testnet.WireGuardSpec{Device: tunnelDevice, Key: key, Addrs: own, Peers: []tunnel.Peer{{
		Key: gateway, Endpoint: endpoint, KeepAlive: 5 * time.Second,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	}}})
	if err != nil {
		return err
	}
	if err := v.host.ForceRoutes(ctx, tunnelDevice, forcedTable); err != nil {
		return err
	}
	// What an agent has as well: the way to the gateway and the management server.
	var c testnet.NetConfig
	for _, b := range []testnet.Both{tunnelGateway, d.net.Plan.Management} {
		for _, a := range b.All() {
			from := v.quarantine.V4
			if a.Is6() {
				from = v.quarantine.V6
			}
			c.Routes = append(c.Routes, testnet.Route{To: netip.PrefixFrom(a, a.BitLen()), Device: tunnelDevice, From: from})
		}
	}
	return v.host.Configure(ctx, c)
}

// probeQuarantine is step d.
func (d *demo) probeQuarantine(ctx context.Context, r *result) error {
	if err := d.openTunnels(ctx); err != nil {
		return err
	}
	spec := testnet.StreamSpec{
		Proto: testnet.TCP, Direction: testnet.Echo, To: netip.AddrPortFrom(d.net.Plan.Management.V4, servicePort), Every: sessionEvery, Timeout: openTime,
	}
	var err error
	if d.session, err = d.honest.host.Stream(ctx, d.management, spec); err != nil {
		return err
	}
	spec.From, spec.Device = d.rogue.quarantine.V4, tunnelDevice
	if d.second, err = d.rogue.host.Stream(ctx, d.management, spec); err != nil {
		return err
	}
	spec.From, spec.Device = d.net.Plan.Dev1Control.V4, testnet.ControlDevice
	if d.witness, err = d.honest.host.Stream(ctx, d.management, spec); err != nil {
		return err
	}
	d.opened = d.session.Local()
	r.check(d.opened.Addr() == d.honest.quarantine.V4, "dev1's agent is up; its management session runs from %s", d.opened)

	allowed, err := d.reach(ctx, d.rogue.host, []testnet.Both{d.rogue.quarantine}, tunnelDevice, d.managed())
	if err != nil {
		return err
	}
	n, bad := count(allowed, testnet.Echoed)
	r.figure("allowed", len(allowed))
	r.figure("allowed_answered", n)
	r.check(n == len(allowed) && n == 6, "the management server answers dev2 %d of %d times (TCP, UDP, ICMP; IPv4, IPv6)%s", n, len(allowed), bad)
	who := d.asRogue()
	targets := append(d.outer(), d.forbidden(who)...)
	if err := d.denied(ctx, r, "", who, targets...); err != nil {
		return err
	}
	return d.controlled(ctx, r, "", d.rogue.host, d.net.Plan.Dev2Control, targets...)
}

// count returns how many trials ended so, and the others in words.
func count(trials []trial, want testnet.Outcome) (n int, others string) {
	for _, t := range trials {
		if t.result.Outcome == want {
			n++
		} else {
			others += "; " + t.String()
		}
	}
	return n, others
}

// denied probes what must not be reached: every probe must be seen to leave through the
// tunnel, none to arrive, and none to be answered.
func (d *demo) denied(ctx context.Context, r *result, prefix string, who prober, targets ...target) error {
	leaving, err := who.host.Capture(ctx, tunnelDevice)
	if err != nil {
		return err
	}
	gateway, err := d.net.Gateway.Capture(ctx, tunnelName)
	if err != nil {
		return err
	}
	arriving, err := d.arrivals(ctx, who.peer)
	if err != nil {
		return err
	}
	all, err := d.probe(ctx, who.host, who.from, tunnelDevice, targets...)
	if err != nil {
		return err
	}
	left, lost, words, err := tally(ctx, all, leaving, func(p testnet.Record) bool { return p.Out })
	if err != nil {
		return err
	}
	reached, lostThere, err := tallyAll(ctx, all, []*testnet.Capture{gateway})
	if err != nil {
		return err
	}
	arrived, lostBehind, err := tallyAll(ctx, all, arriving)
	if err != nil {
		return err
	}
	lost += lostThere + lostBehind
	answered := 0
	for _, t := range all {
		if t.result.Passed() {
			answered++
			words += "; answered: " + t.String()
		}
	}
	r.figure(prefix+"denied", len(all))
	r.figure(prefix+"denied_left_through_tunnel", left)
	r.figure(prefix+"denied_reached_gateway", reached)
	r.figure(prefix+"denied_arrived", arrived)
	r.figure(prefix+"denied_answered", answered)
	r.check(left == len(all) && lost == 0 && left > 0, "%d probes from %s to %s: %d seen to leave through the tunnel", len(all), who.host.Name(), names(targets), left)
	// What has an address that is not the device's yet ends in WireGuard; all else must
	// have come to the gateway, to end there by the firewall's decision.
	r.check(reached >= len(all)/len(who.from), "%d of them come out of the tunnel at the gateway", reached)
	r.check(answered == 0 && arrived == 0, "%d arrive and %d are answered%s", arrived, answered, words)
	return nil
}

// tally ends a capture and counts the trials of which it holds a packet; lost is the
// number of packets that it failed to record.
func tally(ctx context.Context, trials []trial, c *testnet.Capture, match func(testnet.Record) bool) (n int, lost uint64, others string, err error) {
	stat, err := c.Stop(ctx)
	if err != nil {
		return 0, 0, "", err
	}
	for _, t := range trials {
		if len(c.Records(func(p testnet.Record) bool { return match(p) && t.result.Is(p) })) > 0 {
			n++
		} else {
			others += "; not seen: " + t.String()
		}
	}
	return n, stat.Dropped, others, nil
}

// tallyAll ends captures and counts the trials that arrived at any of them.
func tallyAll(ctx context.Context, trials []trial, captures []*testnet.Capture) (arrived int, lost uint64, err error) {
	for _, c := range captures {
		n, dropped, _, err := tally(ctx, trials, c, func(p testnet.Record) bool { return !p.Out })
		if err != nil {
			return 0, 0, err
		}
		arrived, lost = arrived+n, lost+dropped
	}
	return arrived, lost, nil
}

// arrivals captures where forbidden packets would arrive; what the gateway's own
// addresses get is judged by answers alone.
func (d *demo) arrivals(ctx context.Context, peer device) ([]*testnet.Capture, error) {
	var all []*testnet.Capture
	for _, x := range []struct {
		host   *testnet.Host
		device string
	}{{d.net.Intranet, "intra"}, {d.net.Management, "mgmt"}, {peer.host, tunnelDevice}} {
		c, err := x.host.Capture(ctx, x.device)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func names(targets []target) string {
	text := ""
	for i, t := range targets {
		switch {
		case i > 0 && i == len(targets)-1:
			text += " and "
		case i > 0:
			text += ", "
		}
		text += t.name
	}
	return text
}

// controlled shows that the same probes get through where nothing filters: the silence
// in the real tunnel is the gateway's doing.
func (d *demo) controlled(ctx context.Context, r *result, prefix string, h *testnet.Host, from testnet.Both, targets ...target) error {
	trials, err := d.reach(ctx, h, []testnet.Both{from}, testnet.ControlDevice, targets...)
	if err != nil {
		return err
	}
	n, bad := count(trials, testnet.Echoed)
	r.figure(prefix+"control", len(trials))
	r.figure(prefix+"control_answered", n)
	r.check(n == len(trials) && n > 0, "through the control gateway, the same tunnel without a firewall, %d of %d are answered%s", n, len(trials), bad)
	return nil
}
