package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

func (s *session) reportsPerRound() int {
	if s.quick {
		return 10
	}
	return 20
}

// Where the gateway of the lab listens, and what the device sends to.
const (
	enrollAt = "127.0.0.1:9443"
	apiAt    = "127.0.0.1:8443"
	sinkPort = 9000
	pace     = 200 * time.Microsecond
)

var fullPrefixes = []netip.Prefix{netip.MustParsePrefix("10.67.0.0/16"), netip.MustParsePrefix("fd67::/64")}

// field is a whole gateway, one device that sends without a pause, and who receives it.
type field struct {
	net         *testnet.Net
	others      int // devices that are there besides, enrolled before
	plane       *worker
	drive, sink *worker
}

// measureReports counts from the moment a management server sends its report until the
// first packet arrives, and compares that with the two kernel changes it comes down to.
//
// A report is answered when its record is on the disk, and the disks of shared machines
// take anything from microseconds to tens of milliseconds for that. So it is measured
// twice: with the gateway's state in memory, for what our own work takes, and on the disk
// that is here, for what it comes to.
func measureReports(ctx context.Context, s *session) error {
	memory, err := os.MkdirTemp("/dev/shm", "lazaret-bench-")
	if err != nil {
		return fmt.Errorf("making a directory in memory: %w", err)
	}
	defer os.RemoveAll(memory)
	if err := measureReportsIn(ctx, s, memory, "state in memory", number(5)); err != nil {
		return err
	}
	return measureReportsIn(ctx, s, "", "state on disk", nil)
}

func measureReportsIn(ctx context.Context, s *session, dir, where string, bound *float64) error {
	f, err := openField(ctx, s, dir, 0)
	if err != nil {
		return err
	}
	defer f.net.Close()
	disk, err := openDisk(f.net.Dir())
	if err != nil {
		return err
	}
	defer disk.Close()
	var got reports
	for r := range s.rounds + 1 { // the first is for warming up
		var next reports
		for range s.reportsPerRound() {
			if err := next.take(ctx, f); err != nil {
				return err
			}
			if err := disk.write(); err != nil {
				return err
			}
		}
		got.late = append(got.late, next.late...)
		if r > 0 {
			got.full, got.bare, got.answered = append(got.full, next.full...), append(got.bare, next.bare...), append(got.answered, next.answered...)
			got.nothing = append(got.nothing, next.nothing...)
		}
	}
	disk.rows(s, where+"; between the following: a report waits for its record")
	got.rows(s, where, bound)
	return nil
}

// reports is what was measured, a release by report and a bare one in turns.
type reports struct{ full, bare, answered, late, nothing samples }

// take makes one release of each kind.
func (r *reports) take(ctx context.Context, f *field) error {
	by, err := f.trial(ctx, f.drive)
	if err != nil {
		return err
	}
	bare, err := f.trial(ctx, f.plane)
	if err != nil {
		return err
	}
	r.full, r.answered, r.late = append(r.full, by.first), append(r.answered, by.answered), append(r.late, by.late)
	r.bare = append(r.bare, bare.first)
	var nothing span
	if err := f.drive.ask(ctx, order{Do: "nothing"}, &nothing); err != nil {
		return err
	}
	r.nothing = append(r.nothing, nothing.To.Sub(nothing.From))
	return nil
}

func (r *reports) rows(s *session, where string, bound *float64) {
	const way = "HTTPS on the loopback, API, gate, store, control socket, data plane, nftables, WireGuard"
	const idleWay = "HTTPS on the loopback and API alone, looking up the device: what this machine does to any call; in turns with the reports"
	const least = "one nftables transaction and one peer set; a packet every 0.2 ms"
	n := fmt.Sprintf("%d samples", len(r.full))
	add := func(name string, d time.Duration, with string, bound *float64) {
		s.add(row{Name: name + ", " + where, Value: millis(d), Unit: "ms", ComparedWith: with, Bound: bound})
	}
	add("report to its answer, p50", r.answered.median(), way, nil)
	add("a call that moves nothing to its answer, p50", r.nothing.median(), idleWay, nil)
	add("a call that moves nothing to its answer, p99", r.nothing.quantile(0.99), idleWay, nil)
	add("bare change to first packet, p50", r.bare.median(), least, nil)
	add("bare change to first packet, p99", r.bare.quantile(0.99), n, nil)
	add("report to first packet, p50", r.full.median(), way, nil)
	add("report to first packet, p99", r.full.quantile(0.99), n, nil)
	add("report to first packet in excess of the bare change, p50", r.full.median()-r.bare.median(), "p50 less p50", nil)
	add("report to first packet in excess of the bare change, p99", r.full.quantile(0.99)-r.bare.quantile(0.99),
		"p99 less p99, of "+n+" each, taken in turns", bound)
	add("demotion: last packet that passed, sent after the answer, max", r.late.quantile(1),
		fmt.Sprintf("negative: sent before; %d demotions", len(r.late)), number(0))
}

// trial is one release and one demotion.
type trial struct {
	first    time.Duration // from the order to the first packet
	answered time.Duration // from the order to its answer
	late     time.Duration // from the demotion's answer to the sending of the last packet that passed
}

// trial has w release the device and demote it again.
func (f *field) trial(ctx context.Context, w *worker) (trial, error) {
	var t trial
	if err := f.sink.ask(ctx, order{Do: "arm"}, nil); err != nil {
		return t, err
	}
	var up, down span
	if err := w.ask(ctx, order{Do: "up"}, &up); err != nil {
		return t, err
	}
	var first, last arrival
	if err := f.sink.ask(ctx, order{Do: "first"}, &first); err != nil {
		return t, err
	}
	if err := w.ask(ctx, order{Do: "down"}, &down); err != nil {
		return t, err
	}
	if err := f.sink.ask(ctx, order{Do: "last"}, &last); err != nil {
		return t, err
	}
	t.first, t.answered, t.late = first.At.Sub(up.From), up.To.Sub(up.From), last.Sent.Sub(down.To)
	if t.first <= 0 {
		return t, fmt.Errorf("a packet arrived %s before it could", -t.first)
	}
	return t, nil
}

// openField makes the lab, and in it a gateway with its two processes, one enrolled
// device and its tunnel, and others without one.
func openField(ctx context.Context, s *session, dir string, others int) (*field, error) {
	s.progress("starting a gateway with %d devices", others+1)
	n, err := testnet.Standard(ctx, testnet.Config{Dir: dir}, testnet.Params{})
	if err != nil {
		return nil, err
	}
	f := &field{net: n, others: others}
	if err := f.start(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return f, nil
}

func (f *field) start(ctx context.Context) error {
	gateway := f.net.Gateway
	g := gatewayPlan{dir: gateway.Dir(), outer: f.net.Plan.GatewayOuter.V4, management: f.net.Plan.Management.V4, devices: f.others,
		quarantine: []netip.Prefix{netip.MustParsePrefix("10.66.0.0/16"), netip.MustParsePrefix("fd66::/64")}, full: fullPrefixes}
	made, err := g.init(ctx)
	if err != nil {
		return err
	}
	f.plane, err = startWorker(ctx, gateway, rolePlane, false, planeArgs{Dir: gateway.Dir(), Socket: g.socket()}, nil)
	if err != nil {
		return err
	}
	if _, err := startWorker(ctx, gateway, roleServe, true, made.ConfigPath, nil); err != nil {
		return err
	}
	key, err := tunnel.GeneratePrivateKey()
	if err != nil {
		return err
	}
	var welcome enrolled
	f.drive, err = startWorker(ctx, gateway, roleDrive, true, driveArgs{AdminDir: made.AdminDir, TokenFile: made.TokenFile, Key: key.Text()}, &welcome)
	if err != nil {
		return err
	}
	return f.connect(ctx, key, welcome)
}

// connect starts the device's tunnel, its packets, and their receiver.
func (f *field) connect(ctx context.Context, key tunnel.PrivateKey, e enrolled) error {
	p := f.net.Plan
	gatewayKey, err := tunnel.ParseKey(e.Gateway)
	if err != nil {
		return err
	}
	pool := quarantine.Pool{Name: fullPool, IPv4: fullPrefixes[0], IPv6: fullPrefixes[1]}
	v4, v6, err := pool.Address(quarantine.Seat(f.others + 1)) // once it is released
	if err != nil {
		return err
	}
	own := append([]netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)}, e.Quarantine...)
	to := netip.PrefixFrom(p.Intranet.V4, 32)
	if _, err := f.net.Dev1.WireGuard(ctx, testnet.WireGuardSpec{Device: "wg0", Key: key, Addrs: own, Peers: []tunnel.Peer{{
		Key: gatewayKey, AllowedIPs: []netip.Prefix{to}, Endpoint: netip.AddrPortFrom(p.GatewayOuter.V4, tunnelPort), KeepAlive: time.Second,
	}}}); err != nil {
		return err
	}
	if err := f.net.Dev1.Configure(ctx, testnet.NetConfig{Routes: []testnet.Route{{To: to, Device: "wg0", From: v4}}}); err != nil {
		return err
	}
	sink := netip.AddrPortFrom(p.Intranet.V4, sinkPort)
	if f.sink, err = startWorker(ctx, f.net.Intranet, roleSink, true, sink, nil); err != nil {
		return err
	}
	_, err = startWorker(ctx, f.net.Dev1, roleSend, true, sendArgs{From: v4, To: sink}, nil)
	return err
}
