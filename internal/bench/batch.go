package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// batchSize is how many reports one call brings.
func (s *session) batchSize() int {
	if s.quick {
		return 1000
	}
	return 10_000
}

// pipelined is how many single reports are under way at once.
const pipelined = 32

// measureBatches has a management server report on very many devices in one call, against as
// many calls that are pipelined, while 1,000 other devices send: a whole gateway with its
// store, its packets and its peers as in the bulk group.
func measureBatches(ctx context.Context, s *session) error {
	lab, err := testnet.Start(ctx, testnet.Config{})
	if err != nil {
		return err
	}
	defer lab.Close()
	h, err := lab.AddHost(ctx, "reports")
	if err != nil {
		return err
	}
	n := s.batchSize()
	s.progress("starting a gateway with %d devices", n+bystanders)
	rig, drive, err := startBatches(ctx, h, n)
	if err != nil {
		return err
	}
	for _, direction := range []string{"down", "up"} {
		var batch, singles bulk
		got, err := watched(ctx, rig, func() error { return drive.ask(ctx, order{Do: "batch " + direction, N: n}, &batch) })
		if err != nil {
			return err
		}
		// Everybody back, so that the single reports move as many.
		back := map[string]string{"down": "up", "up": "down"}[direction]
		if err := drive.ask(ctx, order{Do: "batch " + back, N: n}, nil); err != nil {
			return err
		}
		meanwhile, err := watched(ctx, rig, func() error { return drive.ask(ctx, order{Do: "singles " + direction, N: n}, &singles) })
		if err != nil {
			return err
		}
		addBatch(s, n, map[string]string{"down": "demotions", "up": "releases"}[direction], batch, singles, got, meanwhile)
	}
	return nil
}

// startBatches starts a gateway with n devices and the bystanders, all of them released.
func startBatches(ctx context.Context, h *testnet.Host, n int) (rig, drive *worker, err error) {
	if rig, err = startWorker(ctx, h, roleRig, false, rigArgs{Idle: true, Devices: n}, nil); err != nil {
		return nil, nil, err
	}
	pools := moverPools()
	both := func(name string) []netip.Prefix { return []netip.Prefix{pools[name].IPv4, pools[name].IPv6} }
	g := gatewayPlan{dir: h.Dir(), outer: outsideSide.Addr(), management: quarantinedTarget.Addr(), quarantine: both("quarantine"), full: both(fullPool), devices: n + bystanders}
	made, err := g.init(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := startWorker(ctx, h, rolePlane, false, planeArgs{Dir: g.dir, Socket: g.socket(), Peers: movers, Link: "wg0"}, nil); err != nil {
		return nil, nil, err
	}
	if _, err := startWorker(ctx, h, roleServe, true, filepath.Join(g.dir, "lazaret.toml"), nil); err != nil {
		return nil, nil, err
	}
	if drive, err = startWorker(ctx, h, roleDrive, true, driveArgs{AdminDir: made.AdminDir, TokenFile: made.TokenFile}, nil); err != nil {
		return nil, nil, err
	}
	return rig, drive, releaseAll(ctx, drive, n+bystanders)
}

// releaseAll releases n devices. A gateway that has just started answers before it has read
// so many, and says so: then it is asked again.
func releaseAll(ctx context.Context, drive *worker, n int) error {
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	enough := time.NewTimer(time.Minute)
	defer enough.Stop()
	for {
		var all bulk
		if err := drive.ask(ctx, order{Do: "batch up", N: n}, &all); err != nil {
			return err
		}
		if all.Failed == 0 {
			return nil
		}
		select {
		case <-again.C:
		case <-enough.C:
			return fmt.Errorf("releasing %d devices failed for %d: %s", n, all.Failed, all.First)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func addBatch(s *session, n int, what string, batch, singles bulk, got, meanwhile paced) {
	name := fmt.Sprintf("%d reports in one call, %s", n, what)
	how := fmt.Sprintf("HTTPS on the loopback, API, gate, store, journal, control socket, data plane, nftables; %d real peers; state on disk", movers)
	s.add(row{Name: name + ", whole", Value: batch.Took.Seconds(), Unit: "s", Base: number(singles.Took.Seconds()),
		Ratio: number(float64(batch.Took) / float64(max(singles.Took, 1))), ComparedWith: fmt.Sprintf("as many calls, %d at once; %s", pipelined, how)})
	s.add(row{Name: name + ", each", Value: millis(batch.Took) / float64(n), Unit: "ms", Base: number(millis(singles.Took) / float64(n)), ComparedWith: "the whole divided by their number"})
	first := ""
	if batch.First+singles.First != "" {
		first = "; the first: " + batch.First + singles.First
	}
	s.add(row{Name: name + ", failed", Value: float64(batch.Failed + singles.Failed), Unit: "reports", Bound: number(0),
		ComparedWith: "refused, not enforced or another placement, of both" + first})
	s.add(row{Name: name + ", packets of bystanders lost", Value: float64(got.Sent - got.Passed + meanwhile.Sent - meanwhile.Passed), Unit: "packets", Bound: number(0),
		ComparedWith: fmt.Sprintf("%d sent by %d devices during the call, %d during the single ones", got.Sent, bystanders, meanwhile.Sent)})
}

// facts are those that the baseline set asks for.
func facts(now time.Time) map[string]string {
	return map[string]string{
		"disk.encrypted": "true", "screen.lock": "true", "screen.lock_after": "10m0s", "firewall.enabled": "true", "os.patched_at": now.Add(-72 * time.Hour).UTC().Format(time.RFC3339),
		"device.tampered": "false", "agent.version": "1.0",
	}
}

// requests are reports on the first n devices, and on the driver's own if it has one.
func (d *driver) requests(direction string, n int) []api.ReportRequest {
	verdict, _ := verdicts(direction)
	now := time.Now()
	d.sequence++
	var all []api.ReportRequest
	for i := range n {
		all = append(all, api.ReportRequest{Device: string(deviceID(i)), Verdict: string(verdict), At: now, Sequence: d.sequence, Validity: "2h", Facts: facts(now)})
	}
	if d.device != "" {
		all = append(all, api.ReportRequest{Device: d.device, Verdict: string(verdict), At: now, Sequence: d.sequence, Validity: "2h", Facts: facts(now)})
	}
	return all
}

// mostReports is how many reports one call may bring.
const mostReports = 10_000

// batch reports in as few calls as there can be.
func (d *driver) batch(ctx context.Context, direction string, n int) (bulk, error) {
	_, want := verdicts(direction)
	all := d.requests(direction, n)
	var b bulk
	start := time.Now()
	for at := 0; at < len(all); at += mostReports {
		var got []api.Reported
		if err := d.post(ctx, d.reports, "/api/v1/reports/batch", d.token, all[at:min(at+mostReports, len(all))], &got); err != nil {
			return b, err
		}
		for _, r := range got {
			if r.Problem != nil || !r.Enforced || r.Decision == nil || r.Decision.Stage != string(want) {
				if b.Failed++; b.First == "" {
					b.First = fmt.Sprintf("%s: %+v %+v", r.Device, r.Problem, r.Decision)
				}
			}
		}
	}
	b.Took = time.Since(start)
	return b, nil
}

// singles reports in a call each, some of them at once.
func (d *driver) singles(ctx context.Context, direction string, n int) (bulk, error) {
	_, want := verdicts(direction)
	all := d.requests(direction, n)
	var next, failed atomic.Int64
	var mu sync.Mutex
	var faults []error
	var workers sync.WaitGroup
	start := time.Now()
	for range pipelined {
		workers.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(all) {
					return
				}
				var placed api.Placed
				err := d.post(ctx, d.reports, "/api/v1/reports", d.token, all[i], &placed)
				if err == nil && (!placed.Enforced || placed.Decision.Stage != string(want)) {
					err = fmt.Errorf("%s is %s", placed.Device, placed.Decision.Stage)
				}
				if err != nil && failed.Add(1) <= 3 {
					mu.Lock()
					faults = append(faults, err)
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	b := bulk{Took: time.Since(start), Failed: int(failed.Load())}
	if err := errors.Join(faults...); err != nil {
		b.First = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return b, nil
}
