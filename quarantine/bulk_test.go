package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// fleet enrolls n devices, d1 to dn, without a word of the watch between them.
func (b *bench) fleet(n int) []quarantine.ID {
	b.t.Helper()
	s := settings()
	for name, p := range s.Pools {
		p.IPv4 = netip.Prefix{}
		p.IPv6 = netip.MustParsePrefix(map[string]string{"quarantine": "fd00:1::/64", "full": "fd00:2::/64", "other": "fd00:3::/64"}[name])
		s.Pools[name] = p
	}
	b.store.Save(s)
	synctest.Wait()
	ids := make([]quarantine.ID, n)
	for i := range ids {
		r, err := b.gate.Admit(enrolled(i+1, "staff", time.Now()))
		if err != nil {
			b.t.Fatal(err)
		}
		ids[i] = b.store.Put(r).ID
	}
	synctest.Wait()
	return ids
}

// verdicts is one report on each device.
func verdicts(ids []quarantine.ID, v quarantine.Verdict) []quarantine.Report {
	all := make([]quarantine.Report, len(ids))
	for i, id := range ids {
		all[i] = quarantine.Report{Device: id, Source: "mdm", Verdict: v, At: time.Now(), Validity: time.Hour}
	}
	return all
}

func (b *bench) release(ids []quarantine.ID) {
	b.t.Helper()
	for i, r := range b.gate.Reports(b.t.Context(), token, verdicts(ids, quarantine.Compliant)) {
		if r.Err != nil || r.Placement.Stage != quarantine.Routed {
			b.t.Fatalf("device %s: %+v, %v; want routed", ids[i], r.Placement, r.Err)
		}
	}
}

// counting is a policy that counts how often it is asked in one hold of the gate's lock.
type counting struct {
	quarantine.PlainPolicy
	now, most atomic.Int64
}

func (c *counting) Judge(f quarantine.Facts) quarantine.Judgement {
	c.now.Add(1)
	return c.PlainPolicy.Judge(f)
}

// Whatever happens to the whole fleet at once, the gate's lock is held for a small part of
// it at a time, and others decide in between.
func TestHoldsAreShort(t *testing.T) {
	const n, most = 1200, 200
	synctest.Test(t, func(t *testing.T) {
		b, policy := newBench(t), &counting{}
		b.policy = policy
		b.made = func(g *quarantine.Gate) {
			g.WatchLock(func(time.Duration) { policy.most.Store(max(policy.most.Load(), policy.now.Swap(0))) })
		}
		b.run()
		ids := b.fleet(n)
		defer func() { b.stop() }()
		for _, c := range []struct {
			when string
			do   func()
		}{
			{"a fleet is released", func() { b.release(ids) }},
			{"settings change", func() { b.store.Save(settings()) }},
			{"a gate starts", func() { b.stop(); b.run() }},
			{"every lease ends", func() { time.Sleep(time.Hour) }},
			{"a fleet is not compliant", func() { b.gate.Reports(t.Context(), token, verdicts(ids, quarantine.NonCompliant)) }},
		} {
			policy.most.Store(0)
			c.do()
			synctest.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := policy.most.Load(); got > most || got == 0 {
				t.Errorf("%s: %d decisions in one hold of the lock, want 1 to %d", c.when, got, most)
			}
		}
	})
}

// A move that waits behind a plan is in the plan already: it undoes none.
func TestPlanUndoesNoMove(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		ids := b.fleet(300)
		b.release(ids)
		busy := make(chan struct{})
		var planned quarantine.Entry
		b.enforcer.SetHook(func(_ context.Context, step string, id quarantine.ID) error {
			switch {
			case step == "apply" && id == "d7":
				<-busy
			case step == "replaced":
				planned = b.enforcer.Entry("d1")
			}
			return nil
		})
		var moves sync.WaitGroup
		moves.Go(func() { b.gate.Hold(t.Context(), admin, "d7", "") })
		synctest.Wait()
		b.gate.Replan() // is written whole, and waits for the data plane
		synctest.Wait()
		moves.Go(func() { b.gate.Block(t.Context(), admin, "d2", "") })
		moves.Go(func() { b.gate.Hold(t.Context(), admin, "d1", "") })
		moves.Go(func() { b.store.Delete("d3") })
		synctest.Wait()
		close(busy)
		moves.Wait()
		synctest.Wait()
		if planned.Key.IsZero() || len(planned.Routed) != 0 {
			t.Errorf("the plan gave the held device %+v, want quarantine", planned)
		}
		for _, id := range []quarantine.ID{"d2", "d3"} {
			if e := b.enforcer.Entry(id); !e.Key.IsZero() {
				t.Errorf("%s has %+v, want nothing", id, e)
			}
		}
		b.wantRouted("d4", true, "a bystander")
		b.reconciled("after the plan")
	})
}

// While a fleet is being released, a bystander is moved at once, there and back, and the
// store is asked for few transactions.
func TestBulkLetsOthersThrough(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		ids := b.fleet(10 * quarantine.MaxBatch)
		b.enroll(enrolled(9001, "approved", time.Now()))
		stalled := make(chan struct{})
		b.store.SetHook(func(_ context.Context, step string, id quarantine.ID) error {
			if step == "record" && id == ids[3*quarantine.MaxBatch] {
				<-stalled
			}
			return nil
		})
		var results []quarantine.Result
		var bulk sync.WaitGroup
		bulk.Go(func() { results = b.gate.Reports(t.Context(), token, verdicts(ids, quarantine.Compliant)) })
		synctest.Wait()
		b.wantRouted(ids[3*quarantine.MaxBatch-1], true, "the part before")
		b.wantRouted(ids[3*quarantine.MaxBatch], false, "the part that waits")
		if p, err := b.gate.Approve(t.Context(), admin, "d9001", ""); err != nil || p.Stage != quarantine.Quarantined {
			t.Errorf("a click in the middle: %+v, %v", p, err)
		}
		b.compliant("d9001")
		if _, err := b.gate.Block(t.Context(), admin, "d9001", ""); err != nil || !b.enforcer.Entry("d9001").Key.IsZero() {
			t.Errorf("a block in the middle: %v", err)
		}
		close(stalled)
		bulk.Wait()
		for i, r := range results {
			if r.Err != nil || !b.routed(ids[i]) {
				t.Errorf("%s: %v, routed %v", ids[i], r.Err, b.routed(ids[i]))
			}
		}
		if got := b.store.Batches(); got != 10 {
			t.Errorf("%d transactions of several records, want 10", got)
		}
		b.reconciled("after the bulk")
	})
}

// Reports of many take what one by one would: mixed verdicts, repeats, refusals, several of
// one device, and somebody else's write in between.
func TestReportsOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		ids := b.fleet(6)
		now := time.Now()
		report := func(id quarantine.ID, v quarantine.Verdict, at time.Time) quarantine.Report {
			return quarantine.Report{Device: id, Source: "mdm", Verdict: v, At: at, Validity: time.Hour}
		}
		b.through = nil
		var once sync.Once
		b.store.SetHook(func(_ context.Context, step string, id quarantine.ID) error {
			if step == "record" && id == "d6" {
				once.Do(func() { r, _ := b.store.Get("d6"); b.store.Put(r) }) // the batch conflicts
			}
			return nil
		})
		all := []quarantine.Report{
			report("d1", quarantine.Compliant, now),
			report("d1", quarantine.NonCompliant, now.Add(time.Second)),
			report("d2", quarantine.NonCompliant, now),
			report("d2", quarantine.Compliant, now.Add(-time.Minute)),
			report("d3", quarantine.Compliant, now.Add(time.Hour)),
			report("nobody", quarantine.Compliant, now),
			report("d4", quarantine.Compliant, now),
			report("d4", quarantine.Compliant, now.Add(time.Minute)),
			report("d5", "perhaps", now),
			report("d6", quarantine.Compliant, now),
		}
		got := b.gate.Reports(t.Context(), token, all)
		for i, want := range []struct {
			stage quarantine.Stage
			err   error
		}{
			{quarantine.Quarantined, quarantine.ErrStale}, {quarantine.Quarantined, nil},
			{quarantine.Quarantined, nil}, {quarantine.Quarantined, quarantine.ErrStale},
			{quarantine.Quarantined, quarantine.ErrFuture}, {"", quarantine.ErrUnknownDevice},
			{quarantine.Routed, nil}, {quarantine.Routed, nil},
			{quarantine.Quarantined, quarantine.ErrMalformed}, {quarantine.Routed, nil},
		} {
			if r := got[i]; r.Placement.Stage != want.stage || !errors.Is(r.Err, want.err) {
				t.Errorf("report %d: %s, %v; want %s, %v", i, r.Placement.Stage, r.Err, want.stage, want.err)
			}
		}
		synctest.Wait()
		for _, id := range ids {
			b.wantRouted(id, id == "d4" || id == "d6", "at the end")
		}
		b.reconciled("at the end")
	})
}

// Bad news of a fleet holds at once, store or no store, and is recorded in few transactions
// when there is one again.
func TestBulkTightensWithoutStore(t *testing.T) {
	for name, hook := range map[string]storetest.Hook{
		"down":  func(context.Context, string, quarantine.ID) error { return storetest.ErrDown },
		"stall": func(ctx context.Context, step string, _ quarantine.ID) error { return storetest.Stall(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				ids := b.fleet(5 * quarantine.MaxBatch)
				b.release(ids)
				before := b.store.Batches()
				b.store.SetHook(hook)
				start := time.Now()
				for i, r := range b.gate.Reports(t.Context(), token, verdicts(ids, quarantine.NonCompliant)) {
					if r.Err != nil || r.Placement.Stage != quarantine.Quarantined || b.routed(ids[i]) {
						t.Fatalf("%s: %s, %v, routed %v", ids[i], r.Placement.Stage, r.Err, b.routed(ids[i]))
					}
				}
				if d := time.Since(start); d > 0 {
					t.Errorf("waited %s for a store that does not answer", d)
				}
				if got := len(b.journal.Pending()); got != len(ids) {
					t.Errorf("the journal holds %d devices, want %d", got, len(ids))
				}
				b.up()
				time.Sleep(time.Minute)
				synctest.Wait()
				for _, id := range ids {
					if r, _ := b.store.Get(id); r.Stage != quarantine.Quarantined || r.Reports["mdm"].Verdict != quarantine.NonCompliant {
						t.Fatalf("%s is stored as %s", id, r.Stage)
					}
				}
				if got := b.store.Batches() - before; got < 5 || got > 10 {
					t.Errorf("recorded in %d transactions, want 5 to 10", got)
				}
				if p := b.journal.Pending(); len(p) != 0 {
					t.Errorf("the journal still holds %d devices", len(p))
				}
				b.reconciled("at the end")
			})
		})
	}
}

// Leases that end in one second are recorded after a person's decision, not before it.
func TestClickOvertakesLapses(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		ids := b.fleet(20 * quarantine.MaxBatch)
		b.release(ids)
		stalled := make(chan struct{})
		var stall sync.Once
		b.store.SetHook(func(context.Context, string, quarantine.ID) error { return nil })
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" {
				stall.Do(func() { <-stalled })
			}
			return nil
		})
		recorded := len(b.store.Changes())
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		for _, id := range ids {
			if b.routed(id) || len(b.enforcer.Entry(id).Routed) != 0 {
				t.Fatalf("%s is routed after its lease", id)
			}
		}
		if _, err := b.gate.Block(t.Context(), admin, ids[len(ids)-1], ""); err != nil {
			t.Fatal(err)
		}
		close(stalled)
		synctest.Wait()
		changes := b.store.Changes()[recorded:]
		at := -1
		lapses := 0
		for i, c := range changes {
			switch c.Kind {
			case quarantine.Block:
				at = i
			case quarantine.Lapse:
				lapses++
			}
		}
		if at < 0 || at > 2*quarantine.MaxBatch {
			t.Errorf("the block was recorded as number %d of %d, want one of the first %d", at, len(changes), 2*quarantine.MaxBatch)
		}
		if lapses < len(ids)-1 {
			t.Errorf("%d lapses recorded, want %d", lapses, len(ids)-1)
		}
		b.reconciled("after the lapses")
	})
}

// Nothing waits for ever, however much that is more urgent keeps coming.
func TestEveryLineIsServed(t *testing.T) {
	counts := quarantine.ServeAgenda(64)
	if counts[0] < 4 || counts[1] < 10 || counts[2] < counts[0]+counts[1] {
		t.Errorf("of 64 turns, %d for what is timed, %d for reports, %d for clicks", counts[0], counts[1], counts[2])
	}
}

// narrow is an enforcer whose tunnel takes a few peers.
type narrow struct {
	*storetest.Enforcer
	mu    sync.Mutex
	room  int
	peers map[quarantine.ID]bool
	tries int
}

func (n *narrow) Apply(ctx context.Context, e quarantine.Entry) error {
	if err := n.Enforcer.Apply(ctx, e); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tries++
	return n.peer(e)
}

// peer gives a device its peer if there is room. The caller holds mu.
func (n *narrow) peer(e quarantine.Entry) error {
	switch {
	case e.Key.IsZero():
		delete(n.peers, e.Device)
	case n.peers[e.Device]:
	case len(n.peers) >= n.room:
		return fmt.Errorf("%w: no room", quarantine.ErrPeer)
	default:
		n.peers[e.Device] = true
	}
	return nil
}

func (n *narrow) Replace(ctx context.Context, p quarantine.Plan) error {
	if err := n.Enforcer.Replace(ctx, p); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.peers)
	for _, e := range p.Entries {
		n.peer(e)
	}
	return nil
}

// Faults names those without a peer.
func (n *narrow) Faults() (map[quarantine.ID]error, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	faults := make(map[quarantine.ID]error)
	for id := range n.Enforcer.Entries() {
		if !n.peers[id] {
			faults[id] = quarantine.ErrPeer
		}
	}
	return faults, 0
}

// A full tunnel takes another device as soon as one goes, and asks no more of the data
// plane than that takes.
func TestFreedRoomIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		n := &narrow{Enforcer: b.enforcer, room: 10, peers: make(map[quarantine.ID]bool)}
		b.stop()
		b.enforces = n
		b.run()
		ids := b.fleet(20)
		b.gate.Replan()
		synctest.Wait()
		with := func() (in []quarantine.ID, out []quarantine.ID) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, id := range ids {
				if n.peers[id] {
					in = append(in, id)
				} else {
					out = append(out, id)
				}
			}
			return in, out
		}
		in, out := with()
		if len(in) != 10 {
			t.Fatalf("%d peers, want 10", len(in))
		}
		if x, err := b.gate.Explain(string(out[0])); err != nil || x.Enforced {
			t.Errorf("a device without a peer is enforced: %v, %v", x.Enforced, err)
		}
		for i := range 3 {
			tries := n.tries
			if i == 2 {
				b.store.Delete(in[i])
			} else if _, err := b.gate.Block(t.Context(), admin, in[i], ""); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if now, _ := with(); len(now) != 10 {
				t.Errorf("%d peers after %d went, want 10 again", len(now), i+1)
			}
			if got := n.tries - tries; got > 16 {
				t.Errorf("%d moves for one freed peer", got)
			}
		}
		if got := b.enforcer.Entries(); len(got) != 17 {
			t.Errorf("%d devices enforced, want 17", len(got))
		}
	})
}

// Thousands of reports in one call (ten with LONG=1) are taken in parts of MaxBatch, each one
// transaction, and a bystander who comes at any part is moved there and back before the next
// one is done.
func TestThousandsOfReportsInOneCall(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		devices := 1_000
		if os.Getenv("LONG") != "" {
			devices = 10_000
		}
		ids := b.fleet(devices)
		b.enroll(enrolled(20001, "staff", time.Now()))
		part, moved := 0, 0
		b.store.SetHook(func(_ context.Context, step string, id quarantine.ID) error {
			if step != "recorded" || id == "d20001" {
				return nil
			}
			if part++; part%(devices/5) != 1 {
				return nil
			}
			verdict := []quarantine.Verdict{quarantine.Compliant, quarantine.NonCompliant}[moved%2]
			time.Sleep(time.Second)
			if _, err := b.report("mdm", verdict, time.Now(), time.Hour, "d20001"); err != nil || b.routed("d20001") != (verdict == quarantine.Compliant) {
				t.Errorf("a bystander at part %d: %v, routed %v", part, err, b.routed("d20001"))
			}
			moved++
			return nil
		})
		before := b.store.Batches()
		results := b.gate.Reports(t.Context(), token, verdicts(ids, quarantine.Compliant))
		b.up()
		for i, r := range results {
			if r.Err != nil || r.Placement.Stage != quarantine.Routed {
				t.Fatalf("%s: %+v", ids[i], r)
			}
		}
		if n := b.store.Batches() - before; n != devices/quarantine.MaxBatch {
			t.Errorf("%d transactions, want %d", n, devices/quarantine.MaxBatch)
		}
		if moved != 5 {
			t.Errorf("the bystander came %d times", moved)
		}
	})
}
