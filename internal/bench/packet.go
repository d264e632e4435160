package main

import (
	"context"
	"fmt"

	"lazaret/internal/testnet"
)

func (s *session) packetsPerRound() int {
	if s.quick {
		return 5000
	}
	return 20_000
}

// most is the largest number of devices.
func (s *session) most() int {
	sizes := s.deviceCounts()
	return sizes[len(sizes)-1]
}

// rigs are gateways side by side, each in a namespace of its own.
type rigs struct {
	lab  *testnet.Lab
	each []*worker
}

// startRigs starts them one after the other.
func startRigs(ctx context.Context, s *session, of ...rigArgs) (*rigs, error) {
	lab, err := testnet.Start(ctx, testnet.Config{})
	if err != nil {
		return nil, err
	}
	r := &rigs{lab: lab}
	for i, a := range of {
		name := a.Rules
		if name == noRules {
			name = "no rules"
		}
		s.progress("loading %s, %d devices", name, a.Devices)
		h, err := lab.AddHost(ctx, fmt.Sprintf("rig%d", i))
		if err == nil {
			var w *worker
			w, err = startWorker(ctx, h, roleRig, false, a, nil)
			r.each = append(r.each, w)
		}
		if err != nil {
			lab.Close()
			return nil, err
		}
	}
	return r, nil
}

// send has each rig send n packets on a path, in turns, and notes how long one packet took
// in each slice of them.
func (r *rigs) send(ctx context.Context, path string, n, times int) ([]rounds, error) {
	took := make([]rounds, len(r.each))
	for t := range times + 1 { // the first is for warming up
		for i := range r.each {
			i = (i + t) % len(r.each) // none is always the first
			var got samples
			if err := r.each[i].ask(ctx, order{Do: path, N: n}, &got); err != nil {
				return nil, err
			}
			if t > 0 {
				took[i] = append(took[i], got)
			}
		}
	}
	return took, nil
}

// measurePackets compares what a packet costs on its way through the gateway among many
// devices with what it costs where connection tracking is all there is.
func measurePackets(ctx context.Context, s *session) error {
	n := s.most()
	// The one that ours is compared with is loaded last: see maxSenders.
	r, err := startRigs(ctx, s, rigArgs{Rules: noRules, Devices: n}, rigArgs{Rules: ourRules, Devices: n}, rigArgs{Rules: ctRules, Devices: n})
	if err != nil {
		return err
	}
	defer r.lab.Close()
	for _, path := range []string{"routed up", "routed down", "quarantined up", "quarantined down"} {
		took, err := r.send(ctx, path, s.packetsPerRound(), 2*s.rounds)
		if err != nil {
			return err
		}
		how := fmt.Sprintf("least of %d times %d packets from %d devices; ", 2*s.rounds*(s.packetsPerRound()/slice), slice, n)
		nano := func(i int) float64 { return float64(took[i].least()) }
		s.add(row{Name: "packet, " + path + ", connection tracking alone", Value: nano(2), Unit: "ns", Base: number(nano(0)), Ratio: number(took[2].leastOver(took[0])),
			ComparedWith: how + "forwarding without any rule"})
		s.add(row{Name: fmt.Sprintf("packet, %s, %d devices", path, n), Value: nano(1), Unit: "ns", Base: number(nano(2)), Ratio: number(took[1].leastOver(took[2])),
			ComparedWith: how + "connection tracking alone", Bound: number(1.4)})
	}
	return nil
}
