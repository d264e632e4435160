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
// devices with what it costs where connection tracking is all there is. One gateway changes
// its rules between the turns, and everything else stays: the flows that are tracked, and
// where in memory, which makes up much of a packet's cost.
func measurePackets(ctx context.Context, s *session) error {
	n := s.most()
	r, err := startRigs(ctx, s, rigArgs{Rules: ctRules, Devices: n, Senders: n})
	if err != nil {
		return err
	}
	defer r.lab.Close()
	paths, names := []string{"routed up", "routed down", "quarantined up", "quarantined down"}, []string{noRules, ctRules, ourRules, freshRules}
	took := make(map[string]map[string]rounds)
	for _, path := range paths {
		took[path] = make(map[string]rounds)
	}
	for t := range s.rounds + 1 { // the first is for warming up
		for i := range names {
			name := names[(i+t)%len(names)]               // none is always the first
			for _, use := range []string{noRules, name} { // two tables of ours cannot be there at once
				if err := r.each[0].ask(ctx, order{Do: "use " + use}, nil); err != nil {
					return err
				}
			}
			for _, path := range paths { // every flow once, with each ruleset: none begins with flows that it has not seen
				if err := r.each[0].ask(ctx, order{Do: path, N: n}, nil); err != nil {
					return err
				}
			}
			for _, path := range paths {
				var got samples
				if err := r.each[0].ask(ctx, order{Do: path, N: s.packetsPerRound()}, &got); err != nil {
					return err
				}
				if t > 0 {
					took[path][name] = append(took[path][name], got)
				}
			}
		}
	}
	how := fmt.Sprintf("least of %d times %d packets, each from another device; ", s.rounds*(s.packetsPerRound()/slice), slice)
	for _, path := range paths {
		s.add(perPacket("packet, "+path+", connection tracking alone", took[path][ctRules], took[path][noRules], how+"forwarding without any rule", nil))
		s.add(perPacket(fmt.Sprintf("packet, %s, %d devices", path, n), took[path][ourRules], took[path][ctRules], how+"connection tracking alone", number(1.4)))
		s.add(perPacket(fmt.Sprintf("packet, %s, %d devices, looked up", path, n), took[path][freshRules], took[path][ctRules], how+"connection tracking alone; nothing remembered", nil))
	}
	return nil
}

func perPacket(name string, x, base rounds, how string, bound *float64) row {
	return row{Name: name, Value: float64(x.least()), Unit: "ns", Base: number(float64(base.least())), Ratio: number(x.leastOver(base)), ComparedWith: how, Bound: bound}
}
