package main

import (
	"context"
	"fmt"
)

// measureWays shows what the ways cost that were not taken: a rule for each device, a
// verdict map whose elements name chains, and a netlink connection for each change.
func measureWays(ctx context.Context, s *session) error {
	few, many, most := 1000, 10_000, 100_000
	if s.quick {
		many, most = 2000, 10_000
	}
	of := []rigArgs{
		{Rules: ourRules, Devices: few}, {Rules: ourRules, Devices: most},
		{Rules: mapRules, Devices: few}, {Rules: mapRules, Devices: most},
		{Rules: eachRules, Devices: few}, {Rules: eachRules, Devices: many},
		{Rules: plainRules, Devices: few}, {Rules: dialRules, Devices: few},
	}
	for i := range of {
		// The kernel keeps the tracked flows of all namespaces in one hash table, the latest
		// first: with too many of them, the rig that was loaded first would pay for the others.
		of[i].Senders = 5000
	}
	r, err := startRigs(ctx, s, of...)
	if err != nil {
		return err
	}
	defer r.lab.Close()
	moves, err := r.timeMoves(ctx, s)
	if err != nil {
		return err
	}
	// The last two have the same rules as each other, and what a packet costs is not their point.
	packets, err := (&rigs{lab: r.lab, each: r.each[:6]}).send(ctx, "routed up", slice, min(s.rounds, 7))
	if err != nil {
		return err
	}
	for i, a := range of[:6] {
		s.add(againstOurs(fmt.Sprintf("way: a move, %s, %d devices", a.Rules, a.Devices), moves, i, 1, most))
	}
	x := againstOurs(fmt.Sprintf("way: a move, %s, %d devices", of[7].Rules, few), moves, 7, 6, few)
	x.ComparedWith = "a move over a connection that stays, the same sets; median of rounds"
	s.add(x)
	for i, a := range of[:6] {
		x := row{Name: fmt.Sprintf("way: a packet, %s, %d devices", a.Rules, a.Devices), Value: float64(packets[i].least()), Unit: "ns"}
		if i != 1 {
			x.Base, x.Ratio = number(float64(packets[1].least())), number(packets[i].leastOver(packets[1]))
			x.ComparedWith = fmt.Sprintf("our sets with %d devices; least of %d times %d packets", most, min(s.rounds, 7), slice)
		}
		s.add(x)
	}
	return nil
}

// timeMoves has each rig make moves in turns.
func (r *rigs) timeMoves(ctx context.Context, s *session) ([]rounds, error) {
	moves := make([]rounds, len(r.each))
	for t := range s.rounds + 1 { // the first is for warming up
		for i := range r.each {
			i = (i + t) % len(r.each) // none is always the first
			var got samples
			if err := r.each[i].ask(ctx, order{Do: "move", N: 20}, &got); err != nil {
				return nil, err
			}
			if t > 0 {
				moves[i] = append(moves[i], got)
			}
		}
	}
	return moves, nil
}

// againstOurs is a row for the moves of rig i, divided by those of the rig ours.
func againstOurs(name string, moves []rounds, i, ours, devices int) row {
	x := row{Name: name, Value: millis(moves[i].median()), Unit: "ms"}
	if i != ours {
		x.Base, x.Ratio = number(millis(moves[ours].median())), number(moves[i].over(moves[ours]))
		x.ComparedWith = fmt.Sprintf("our sets with %d devices; median of %d rounds", devices, len(moves[i]))
	}
	return x
}
