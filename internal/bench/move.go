package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lazaret/firewall"
	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

const roleGate = "gate"

// movers is how many devices are moved, and have real WireGuard peers, whatever the size.
const movers = 1000

func (s *session) deviceCounts() []int {
	if s.quick {
		return []int{1000, 10_000}
	}
	return []int{1000, 10_000, 100_000}
}

func (s *session) movesPerRound() int {
	if s.quick {
		return 50
	}
	return 200
}

// measureMoves moves single devices among few and among many.
func measureMoves(ctx context.Context, s *session) error {
	lab, err := testnet.Start(ctx, testnet.Config{})
	if err != nil {
		return err
	}
	defer lab.Close()
	sizes := s.deviceCounts()
	gates := make([]*worker, len(sizes))
	weight := 0.0
	for i, n := range sizes {
		s.progress("loading %d devices", n)
		h, err := lab.AddHost(ctx, fmt.Sprintf("devices%d", n))
		if err != nil {
			return err
		}
		socket := filepath.Join(h.Dir(), "control")
		plane, err := startWorker(ctx, h, rolePlane, false, planeArgs{Dir: h.Dir(), Socket: socket, Peers: movers}, nil)
		if err != nil {
			return err
		}
		if gates[i], err = startWorker(ctx, h, roleGate, true, gateArgs{h.Dir(), socket, n}, &weight); err != nil {
			return err
		}
		if err := plane.ask(ctx, order{Do: "count", N: n}, nil); err != nil { // that the table holds them all
			return err
		}
	}
	whole, applied := make([]rounds, len(sizes)), make([]rounds, len(sizes))
	for r := range s.rounds + 1 { // the first is for warming up
		for i := range sizes {
			i = (i + r) % len(sizes) // none is always the first
			var got moved
			if err := gates[i].ask(ctx, order{Do: "move", N: s.movesPerRound()}, &got); err != nil {
				return err
			}
			if r > 0 {
				whole[i], applied[i] = append(whole[i], got.Whole), append(applied[i], got.Applied)
			}
		}
	}
	addMoves(s, "one move there and back", "gate, journal, control socket, data plane, nftables, WireGuard; store that answers at once; 1,000 real peers at every size", whole)
	addMoves(s, "of it, the data plane's part", "control socket, data plane, nftables, WireGuard; without gate and journal", applied)
	s.add(row{Name: "memory of the gate", Value: weight, Unit: "bytes a device", ComparedWith: fmt.Sprintf("heap in use with %d devices, without store", sizes[len(sizes)-1])})
	return nil
}

// addMoves adds a row for each size, the last one bound by the first.
func addMoves(s *session, what, how string, taken []rounds) {
	sizes := s.deviceCounts()
	for i, n := range sizes {
		x := row{Name: fmt.Sprintf("%s at %d devices, p50", what, n), Value: millis(taken[i].median()), Unit: "ms", ComparedWith: how}
		if i > 0 {
			x.Base, x.Ratio, x.ComparedWith = number(millis(taken[0].median())), number(taken[i].over(taken[0])), fmt.Sprintf("the same at %d; %s", sizes[0], how)
		}
		if i == len(sizes)-1 {
			x.Bound = number(2)
		}
		s.add(x)
	}
}

// gateArgs says what a control plane without store is made of.
type gateArgs struct {
	Dir     string
	Socket  string
	Devices int
}

// The organization of the moved devices.
const source, fullPool = "mdm", "full"

func moverPools() map[string]quarantine.Pool {
	return map[string]quarantine.Pool{
		"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.64.0.0/14"), IPv6: netip.MustParsePrefix("fd66::/64"),
			Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 443}}},
		fullPool: {Name: fullPool, Mark: 1, IPv4: netip.MustParsePrefix("10.72.0.0/14"), IPv6: netip.MustParsePrefix("fd67::/64")},
	}
}

func deviceID(i int) quarantine.ID  { return quarantine.ID(fmt.Sprintf("d-%08d", i)) }
func deviceKey(i int) tunnel.Key    { return sha256.Sum256(fmt.Append(nil, "key of device ", i)) }
func moverSource() quarantine.Actor { return quarantine.Actor{Kind: "token", Name: source} }

// verdict is the source's n-th word on a device.
func verdict(id quarantine.ID, v quarantine.Verdict, at time.Time, n uint64) quarantine.Report {
	return quarantine.Report{Device: id, Source: source, Verdict: v, At: at, Sequence: n, Validity: 2 * time.Hour, Received: at}
}

// crowd is n released devices.
func crowd(n int, now time.Time) quarantine.Snapshot {
	snap := quarantine.Snapshot{
		Revision: 1, Records: make(map[quarantine.ID]quarantine.Record, n), Pools: moverPools(),
		Profiles: map[string]quarantine.Profile{"default": {Name: "default", Pool: fullPool}},
		Sources:  map[string]quarantine.Source{source: {Name: source, MayRelease: true, MaxValidity: 2 * time.Hour}},
	}
	for i := range n {
		id := deviceID(i)
		r := quarantine.Record{
			Device:  quarantine.Device{ID: id, Name: fmt.Sprintf("laptop-%d", i), Owner: fmt.Sprintf("user%d@example.org", i), Key: deviceKey(i), Seat: quarantine.Seat(i + 1)},
			Profile: "default", Proven: true, Confirmed: true, Revision: 1,
			Certificate: quarantine.Certificate{Serial: fmt.Sprintf("%032x", i), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour)},
			Reports:     map[string]quarantine.Report{source: verdict(id, quarantine.Compliant, now, 0)},
		}
		f := quarantine.Facts{Now: now, Record: r, Profile: snap.Profiles["default"], Pools: snap.Pools, Sources: snap.Sources, Policy: quarantine.PlainPolicy{}}
		snap.Records[id] = r.Settle(quarantine.Place(f), now)
	}
	return snap
}

// instant is a store that answers at once, so that its time hides nothing of the gate's.
type instant struct {
	mu       sync.Mutex
	snapshot quarantine.Snapshot
	revision int64
	events   chan quarantine.Event
}

func (s *instant) Snapshot(context.Context) (quarantine.Snapshot, error) { return s.snapshot, nil }
func (s *instant) Confirm(context.Context, int64) error                  { return nil }

func (s *instant) Now(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision, nil
}

func (s *instant) Watch(ctx context.Context, _ int64) <-chan quarantine.Event {
	out := make(chan quarantine.Event)
	go func() { // ends with ctx
		defer close(out)
		for {
			select {
			case e := <-s.events:
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (s *instant) Record(ctx context.Context, _ quarantine.Change, next quarantine.Record) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	next.Revision = s.revision
	select {
	case s.events <- quarantine.Event{Revision: s.revision, Records: []quarantine.Record{next}}:
		return s.revision, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// RecordAll writes many records in one transaction.
func (s *instant) RecordAll(ctx context.Context, writes []quarantine.Write) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	e := quarantine.Event{Revision: s.revision}
	for _, w := range writes {
		w.Next.Revision = s.revision
		e.Records = append(e.Records, w.Next)
	}
	select {
	case s.events <- e:
		return s.revision, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // what finalizers freed
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// runGate is the role of a control plane that moves devices. It reports the bytes its
// index takes for each.
func runGate(ctx context.Context, args []string) error {
	var a gateArgs
	if err := arguments(args, &a); err != nil {
		return err
	}
	client, err := dataplane.Dial(ctx, a.Socket)
	if err != nil {
		return err
	}
	defer client.Close()
	journal, err := quarantine.OpenJournal(filepath.Join(a.Dir, "tightenings"))
	if err != nil {
		return err
	}
	defer journal.Close()
	timed := &stopwatch{Client: client}
	before := heapInUse()
	store := &instant{snapshot: crowd(a.Devices, time.Now()), revision: 1, events: make(chan quarantine.Event, 1024)}
	gate, err := quarantine.NewGate(quarantine.Config{
		Store: store, Enforcer: timed, Journal: journal, Policy: quarantine.PlainPolicy{}, Control: "bench", Gateway: "bench",
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts.Go(func() { gate.Run(ctx) })
	parts.Go(func() {
		for {
			select {
			case <-client.Events():
			case <-ctx.Done():
				return
			}
		}
	})
	select {
	case <-gate.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	store.snapshot = quarantine.Snapshot{} // it is not asked again
	m := mover{gate: gate, applied: timed}
	return obey(ctx, (heapInUse()-before)/float64(a.Devices), m.obey)
}

// stopwatch sums up how long the data plane takes for single moves.
type stopwatch struct {
	*dataplane.Client
	sum atomic.Int64 // nanoseconds
}

func (s *stopwatch) Apply(ctx context.Context, e quarantine.Entry) error {
	start := time.Now()
	defer func() { s.sum.Add(int64(time.Since(start))) }()
	return s.Client.Apply(ctx, e)
}

// mover makes moves, of another device each time.
type mover struct {
	gate    *quarantine.Gate
	applied *stopwatch
	moves   uint64
}

// moved is what moves took: whole, and their part in the data plane.
type moved struct{ Whole, Applied samples }

func (m *mover) obey(ctx context.Context, o order) (any, error) {
	switch o.Do {
	case "demote":
		return m.bulk(ctx, quarantine.NonCompliant, quarantine.Quarantined, o.N), nil
	case "release":
		return m.bulk(ctx, quarantine.Compliant, quarantine.Routed, o.N), nil
	case "move":
	default:
		return unknown(o)
	}
	var got moved
	for range o.N {
		m.moves++
		before, start := m.applied.sum.Load(), time.Now()
		if err := m.thereAndBack(ctx, deviceID(int(m.moves*7%movers))); err != nil {
			return nil, err
		}
		got.Whole = append(got.Whole, time.Since(start))
		got.Applied = append(got.Applied, time.Duration(m.applied.sum.Load()-before))
	}
	return got, nil
}

// thereAndBack demotes a device and releases it again.
func (m *mover) thereAndBack(ctx context.Context, id quarantine.ID) error {
	for i, v := range []quarantine.Verdict{quarantine.NonCompliant, quarantine.Compliant} {
		want := []quarantine.Stage{quarantine.Quarantined, quarantine.Routed}[i]
		p, err := m.gate.Report(ctx, moverSource(), verdict(id, v, time.Now(), 2*m.moves+uint64(i)))
		if err != nil {
			return err
		}
		if p.Stage != want {
			return fmt.Errorf("device %s is %s, want %s", id, p.Stage, want)
		}
	}
	return nil
}
