package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// eventDevices is how many devices the gateway has when events are measured.
func (s *session) eventDevices() int {
	if s.quick {
		return 1000
	}
	return 10_000
}

// mostExcess is how much longer than the bare change an event may take, p99, in ms.
const mostExcess = 25

// eventKinds are the ways in which an event comes.
var eventKinds = []struct{ name, how string }{
	{"caep", "Security Event Token, ES256, pushed by HTTPS"},
	{"webhook", "signed webhook, HMAC-SHA-256, by HTTPS"},
}

// measureEvents counts from the moment a transmitter sends an event until the first packet
// passes, or until the last one was sent that did, among many devices that a policy set with
// facts releases, and compares that with the two kernel changes it comes down to. As with
// reports, with the state in memory and on the disk that is here.
func measureEvents(ctx context.Context, s *session) error {
	memory, err := os.MkdirTemp("/dev/shm", "lazaret-bench-")
	if err != nil {
		return fmt.Errorf("making a directory in memory: %w", err)
	}
	defer os.RemoveAll(memory)
	if err := measureEventsIn(ctx, s, memory, "state in memory", s.rounds, number(mostExcess)); err != nil {
		return err
	}
	return measureEventsIn(ctx, s, "", "state on disk", (s.rounds+2)/3, nil)
}

func measureEventsIn(ctx context.Context, s *session, dir, where string, rounds int, bound *float64) error {
	f, err := openField(ctx, s, dir, s.eventDevices()-1)
	if err != nil {
		return err
	}
	defer f.net.Close()
	if err := f.drive.ask(ctx, order{Do: "prepare", N: f.others}, nil); err != nil {
		return err
	}
	if err := f.plane.ask(ctx, order{Do: "count", N: s.eventDevices()}, nil); err != nil { // that the table holds them all
		return err
	}
	bare, byKind := events{}, make([]events, len(eventKinds))
	for r := range rounds + 1 { // the first is for warming up
		if r == 1 {
			bare, byKind = events{}, make([]events, len(eventKinds))
		}
		for range s.reportsPerRound() {
			for i, k := range eventKinds {
				if err := byKind[i].take(ctx, f, f.drive, k.name+" "); err != nil {
					return fmt.Errorf("%s: %w", k.name, err)
				}
			}
			if err := bare.take(ctx, f, f.plane, ""); err != nil {
				return fmt.Errorf("bare change: %w", err)
			}
		}
	}
	addEvents(s, where, bare, byKind, bound)
	return nil
}

// events is what was measured of one kind: a demotion and a release in turns.
type events struct{ first, last, answered, late samples }

// take demotes the routed device and releases it again.
func (e *events) take(ctx context.Context, f *field, w *worker, kind string) error {
	var up, down span
	var first, last arrival
	if err := w.ask(ctx, order{Do: kind + "down"}, &down); err != nil {
		return err
	}
	if err := f.sink.ask(ctx, order{Do: "last"}, &last); err != nil {
		return err
	}
	if err := f.sink.ask(ctx, order{Do: "arm"}, nil); err != nil {
		return err
	}
	if err := w.ask(ctx, order{Do: kind + "up"}, &up); err != nil {
		return err
	}
	if err := f.sink.ask(ctx, order{Do: "first"}, &first); err != nil {
		return err
	}
	if d := first.At.Sub(up.From); d <= 0 {
		return fmt.Errorf("a packet arrived %s before it could", -d)
	}
	e.first, e.last = append(e.first, first.At.Sub(up.From)), append(e.last, last.Sent.Sub(down.From))
	e.answered, e.late = append(e.answered, up.To.Sub(up.From)), append(e.late, last.Sent.Sub(down.To))
	return nil
}

func addEvents(s *session, where string, bare events, byKind []events, bound *float64) {
	add := func(name string, d time.Duration, with string, bound *float64) {
		s.add(row{Name: name + ", " + where, Value: millis(d), Unit: "ms", ComparedWith: with, Bound: bound})
	}
	directions := []struct {
		name string
		of   func(events) samples
	}{
		{"to first packet", func(e events) samples { return e.first }},
		{"to last packet through", func(e events) samples { return e.last }},
	}
	n := fmt.Sprintf("%d samples", len(bare.first))
	for _, d := range directions {
		base := d.of(bare)
		add("bare change "+d.name+", p50", base.median(), "one nftables transaction and one peer set; a packet every 0.2 ms", nil)
		add("bare change "+d.name+", p99", base.quantile(0.99), n, nil)
		for i, k := range eventKinds {
			got := d.of(byKind[i])
			how := fmt.Sprintf("%s; %d devices, policy set baseline", k.how, s.eventDevices())
			add(k.name+" event "+d.name+", p50", got.median(), how, nil)
			add(k.name+" event "+d.name+", p99", got.quantile(0.99), how, nil)
			add(k.name+" event "+d.name+" in excess of the bare change, p50", got.median()-base.median(), "p50 less p50", nil)
			add(k.name+" event "+d.name+" in excess of the bare change, p99", got.quantile(0.99)-base.quantile(0.99),
				"p99 less p99, of "+n+" each, taken in turns", bound)
		}
	}
	for i, k := range eventKinds {
		add(k.name+" event: last packet that passed, sent after the answer, max", byKind[i].late.quantile(1),
			fmt.Sprintf("negative: sent before; %d demotions", len(byKind[i].late)), number(0))
	}
}
