package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"lazaret/internal/testnet"
	"lazaret/quarantine"
)

// bystanders are devices that send all the while and are not moved.
const bystanders = 1000

// quietTime is how long bystanders are watched with nothing going on.
const quietTime = 3 * time.Second

func (s *session) bulkSizes() []int {
	if s.quick {
		return []int{1000, 5000}
	}
	if s.long {
		return []int{10_000, 100_000}
	}
	return []int{10_000}
}

// measureBulk moves very many devices at once, as after an outage of a management server,
// and watches the packets of others meanwhile: those go through the real table on a link that
// stands in for the tunnel, while the data plane changes the peers of a real one beside it.
func measureBulk(ctx context.Context, s *session) error {
	lab, err := testnet.Start(ctx, testnet.Config{})
	if err != nil {
		return err
	}
	defer lab.Close()
	h, err := lab.AddHost(ctx, "bulk")
	if err != nil {
		return err
	}
	sizes := s.bulkSizes()
	n := sizes[len(sizes)-1]
	s.progress("loading %d devices", n)
	rig, err := startWorker(ctx, h, roleRig, false, rigArgs{Idle: true, Devices: n}, nil)
	if err != nil {
		return err
	}
	socket := filepath.Join(h.Dir(), "control")
	if _, err := startWorker(ctx, h, rolePlane, false, planeArgs{Dir: h.Dir(), Socket: socket, Peers: movers, Link: "wg0"}, nil); err != nil {
		return err
	}
	gate, err := startWorker(ctx, h, roleGate, true, gateArgs{h.Dir(), socket, n + bystanders}, nil)
	if err != nil {
		return err
	}
	quiet, err := watched(ctx, rig, func() error {
		t := time.NewTimer(quietTime)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return err
	}
	for _, n := range sizes {
		s.progress("moving %d devices there and back", n)
		var away, back bulk
		got, err := watched(ctx, rig, func() error {
			return errors.Join(gate.ask(ctx, order{Do: "demote", N: n}, &away), gate.ask(ctx, order{Do: "release", N: n}, &back))
		})
		if err != nil {
			return err
		}
		addBulk(s, n, away, back, quiet, got)
	}
	return nil
}

// watched has the bystanders send while do runs.
func watched(ctx context.Context, rig *worker, do func() error) (paced, error) {
	var p paced
	if err := rig.ask(ctx, order{Do: "pace", N: bystanders}, nil); err != nil {
		return p, err
	}
	err := do()
	return p, errors.Join(err, rig.ask(ctx, order{Do: "paced"}, &p))
}

func addBulk(s *session, n int, away, back bulk, quiet, got paced) {
	what := fmt.Sprintf("bulk of %d", n)
	how := fmt.Sprintf("reports through gate, journal, control socket, data plane, nftables; store that answers at once; %d real peers", movers)
	for _, x := range []struct {
		name string
		bulk
	}{{"demotions", away}, {"releases", back}} {
		s.add(row{Name: what + " " + x.name + ", whole", Value: x.Took.Seconds(), Unit: "s", ComparedWith: how})
		s.add(row{Name: what + " " + x.name + ", each", Value: millis(x.Took) / float64(n), Unit: "ms", ComparedWith: "the whole divided by their number"})
	}
	first := ""
	if away.First+back.First != "" {
		first = "; the first: " + away.First + back.First
	}
	s.add(row{Name: what + ", moves that failed", Value: float64(away.Failed + back.Failed), Unit: "moves", Bound: number(0),
		ComparedWith: "any error: none for want of buffers, or other" + first})
	s.add(row{Name: what + ", packets of bystanders lost", Value: float64(got.Sent - got.Passed), Unit: "packets", Bound: number(0),
		ComparedWith: fmt.Sprintf("%d sent by %d devices", got.Sent, bystanders)})
	for _, x := range []struct {
		name      string
		got, base time.Duration
	}{{"p99", got.P99, quiet.P99}, {"worst", got.Worst, quiet.Worst}} {
		s.add(row{Name: what + ", latency of bystanders, " + x.name, Value: millis(x.got), Unit: "ms", Base: number(millis(x.base)),
			Ratio: number(float64(x.got) / float64(max(x.base, 1))), ComparedWith: fmt.Sprintf("before it began; %d and %d packets; both with whatever else the machine does", got.Seen, quiet.Seen)})
	}
}

// bulk is what many moves took.
type bulk struct {
	Took   time.Duration
	Failed int
	First  string // error
}

// bulk reports on the first n devices at once.
func (m *mover) bulk(ctx context.Context, v quarantine.Verdict, want quarantine.Stage, n int) bulk {
	m.moves++
	reports := make([]quarantine.Report, n)
	for i := range reports {
		reports[i] = verdict(deviceID(i), v, time.Now(), 2*m.moves)
	}
	start := time.Now()
	results := m.gate.Reports(ctx, moverSource(), reports)
	b := bulk{Took: time.Since(start)}
	for i, r := range results {
		err := r.Err
		if err == nil && r.Placement.Stage != want {
			err = fmt.Errorf("device %s is %s, want %s", reports[i].Device, r.Placement.Stage, want)
		}
		if err != nil {
			if b.Failed++; b.First == "" {
				b.First = err.Error()
			}
		}
	}
	return b
}
