package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
	"lazaret/quarantine/tunnel"
)

// model is what a plain reading of the rules says of one device, kept apart from the
// gate's own code: what it was told, and accepted.
type model struct {
	key       tunnel.Key
	profile   string
	notAfter  time.Time
	last      map[string]quarantine.Report   // newest accepted of each source
	maybe     map[string][]quarantine.Report // compliant ones that were refused, or their answer lost
	held      bool
	blocked   bool
	approved  bool
	revoked   bool
	proven    bool
	uncertain bool // an answer was lost: the fact may be known or not
	told      time.Time
}

// mayRoute is the latest time until which the rules could let the device be routed, zero
// for not at all. It is generous where the gate may be stricter: it takes a report's end
// from its source's time and validity alone.
func (m *model) mayRoute(now time.Time) time.Time {
	if m.held || m.blocked || m.revoked || !m.proven || m.profile == "approved" && !m.approved {
		return time.Time{}
	}
	until := time.Time{}
	if m.profile == "skip" {
		until = m.notAfter
	}
	for source, r := range m.last {
		end := r.At.Add(r.Validity)
		if r.Verdict == quarantine.NonCompliant && now.Before(end) && now.Before(r.Received.Add(r.Validity)) && len(m.maybe[source]) == 0 {
			return time.Time{}
		}
		if r.Verdict == quarantine.Compliant && source == "mdm" && end.After(until) {
			until = end
		}
	}
	for _, r := range m.maybe["mdm"] {
		if end := r.At.Add(r.Validity); end.After(until) {
			until = end
		}
	}
	if until.After(m.notAfter) {
		until = m.notAfter
	}
	if !until.After(now) {
		return time.Time{}
	}
	return until
}

func (m *model) accept(r quarantine.Report) {
	old, ok := m.last[r.Source]
	if !ok || r.At.After(old.At) || r.At.Equal(old.At) && r.Verdict == quarantine.NonCompliant &&
		(old.Verdict != quarantine.NonCompliant || r.Validity > old.Validity) {
		m.last[r.Source] = r
		m.maybe[r.Source] = slices.DeleteFunc(m.maybe[r.Source], func(old quarantine.Report) bool { return !old.At.After(r.At) })
	}
}

// world drives a bench and its models.
type world struct {
	*bench
	rt     *rapid.T
	models map[quarantine.ID]*model
	random func(n int) int // below n; called from several goroutines
	next   int
	deaf   bool // the enforcer may refuse what it is told
}

func (w *world) ids() []quarantine.ID {
	var all []quarantine.ID
	for id := range w.models {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

func (w *world) pick() (quarantine.ID, *model) {
	id := rapid.SampledFrom(w.ids()).Draw(w.rt, "device")
	return id, w.models[id]
}

func (w *world) enroll() {
	if w.next >= 4 {
		return
	}
	w.next++
	profile := rapid.SampledFrom([]string{"staff", "approved", "skip", "fixed"}).Draw(w.rt, "profile")
	r := enrolled(w.next, profile, time.Now())
	r.Proven = rapid.Bool().Draw(w.rt, "proven")
	life := time.Duration(rapid.IntRange(1, 300).Draw(w.rt, "certificate minutes")) * time.Minute
	r.Certificate.NotAfter = time.Now().Add(life).UTC()
	admitted, err := w.gate.Admit(r)
	if err != nil {
		return // the gate has not read the store yet
	}
	w.store.Put(admitted)
	w.models[r.ID] = &model{key: r.Key, profile: profile, notAfter: r.Certificate.NotAfter, proven: r.Proven, last: make(map[string]quarantine.Report), maybe: make(map[string][]quarantine.Report)}
}

func (w *world) sendReport() {
	id, m := w.pick()
	r := quarantine.Report{
		Device:   id,
		Source:   rapid.SampledFrom([]string{"mdm", "scan", quarantine.AgentSource}).Draw(w.rt, "source"),
		Verdict:  rapid.SampledFrom([]quarantine.Verdict{quarantine.Compliant, quarantine.Compliant, quarantine.NonCompliant, ""}).Draw(w.rt, "verdict"),
		At:       time.Now().Add(time.Duration(rapid.IntRange(-600, 100).Draw(w.rt, "seconds off")) * time.Second),
		Validity: time.Duration(rapid.IntRange(1, 60).Draw(w.rt, "valid minutes")) * time.Minute,
	}
	by := token
	if r.Source == quarantine.AgentSource {
		by = agent(id)
	}
	m.told = time.Now()
	_, err := w.gate.Report(w.t.Context(), by, r)
	r.Received = time.Now()
	tightens := r.Verdict != quarantine.Compliant
	switch {
	case errors.Is(err, quarantine.ErrNotReady), errors.Is(err, quarantine.ErrUnknownDevice):
	case m.revoked:
		if !errors.Is(err, quarantine.ErrFinal) {
			w.rt.Fatalf("a report on a revoked device: %v", err)
		}
	case errors.Is(err, quarantine.ErrStale):
	case err == nil, errors.Is(err, quarantine.ErrNotEnforced), tightens:
		m.accept(r)
	default: // refused by the store, or its answer lost
		m.uncertain = true
		if old, ok := m.last[r.Source]; !ok || r.At.After(old.At) {
			m.maybe[r.Source] = append(m.maybe[r.Source], r)
		}
	}
}

func (w *world) decide() {
	id, m := w.pick()
	kind := rapid.SampledFrom([]quarantine.Kind{quarantine.Approve, quarantine.Hold, quarantine.Block, quarantine.Unblock, quarantine.Revoke, quarantine.Prove}).Draw(w.rt, "kind")
	if kind == quarantine.Revoke && rapid.IntRange(0, 3).Draw(w.rt, "really") > 0 {
		return
	}
	m.told = time.Now()
	_, err := w.gate.Change(w.t.Context(), admin, quarantine.Change{Kind: kind, Device: id, Key: m.key})
	if errors.Is(err, quarantine.ErrNotReady) || errors.Is(err, quarantine.ErrUnknownDevice) {
		return
	}
	if m.revoked {
		if !errors.Is(err, quarantine.ErrFinal) {
			w.rt.Fatalf("%s of a revoked device: %v", kind, err)
		}
		return
	}
	done := err == nil || errors.Is(err, quarantine.ErrNotEnforced)
	switch kind {
	case quarantine.Hold:
		m.held = true
	case quarantine.Block:
		m.blocked = true
	case quarantine.Revoke:
		m.revoked = true
	case quarantine.Approve:
		m.uncertain = m.uncertain || !done
		m.approved, m.held = true, false
	case quarantine.Unblock:
		m.uncertain = m.uncertain || !done
		m.blocked = false
	case quarantine.Prove:
		m.uncertain = m.uncertain || !done
		m.proven = true
	}
}

// check holds the enforcer to the models.
func (w *world) check(when string) {
	w.rt.Helper()
	now := time.Now()
	for id, m := range w.models {
		if w.deaf && now.Sub(m.told) <= quarantine.DefaultFreshness {
			continue // a data plane that takes nothing goes on until its freshness is over
		}
		e := w.enforcer.Entry(id)
		may := m.mayRoute(now)
		if w.routed(id) {
			if may.IsZero() {
				w.rt.Fatalf("%s: %s is routed without a reason: %+v, model %+v", when, id, e, *m)
			}
			if latest := w.boot() + firewall.Deadline(may.Sub(now)); e.Until > latest {
				w.rt.Fatalf("%s: %s is routed %s too long, model %+v", when, id, time.Duration(e.Until-latest), *m)
			}
		}
		if (m.blocked || m.revoked || m.profile == "approved" && !m.approved) && !w.deaf && !e.Key.IsZero() && w.enforcer.Freshness().Alive > w.boot() {
			w.rt.Fatalf("%s: %s has a peer: %+v, model %+v", when, id, e, *m)
		}
	}
}

// settle mends everything and lets all retries pass.
func (w *world) settle() {
	w.up()
	w.enforcer.SetHook(nil)
	time.Sleep(time.Minute)
	synctest.Wait()
	w.deaf = false
}

func dice(seed uint64) func(n int) int {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1))
	return func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return r.IntN(n)
	}
}

// unreliable makes the store, or the enforcer, fail at random steps.
func (w *world) unreliable() {
	w.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
		if w.random(3) == 0 {
			return fmt.Errorf("%w at %s", storetest.ErrDown, step)
		}
		return nil
	})
	if w.random(2) == 0 {
		w.deaf = true
		w.enforcer.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if w.random(4) == 0 {
				return errors.New("enforcer fails at " + step)
			}
			return nil
		})
	}
}

// Random lives of devices, with the store down, answers lost and the gate restarted at any
// time: nobody is routed without a valid release, nor past the certificate; no tightening
// is lost; the short way ends where a complete plan does.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		var failure any // rapid stops by a panic, which must leave the bubble by hand
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.run()
			defer func() {
				failure = recover()
				b.stop()
			}()
			w := &world{bench: b, rt: rt, models: make(map[quarantine.ID]*model), random: dice(seed)}
			w.live()
		})
		if fmt.Sprintf("%T", failure) == "rapid.invalidData" {
			panic(failure) // a line of its own: rapid tells failures apart by where they come from
		}
		if failure != nil {
			panic(failure)
		}
	})
}

// live takes random steps and checks after each.
func (w *world) live() {
	w.enroll()
	for i := range rapid.IntRange(5, 40).Draw(w.rt, "steps") {
		action := rapid.SampledFrom([]string{"report", "report", "report", "decide", "decide", "wait", "enroll", "down", "unreliable", "up", "restart", "enforcer restart", "reconcile"}).Draw(w.rt, "action")
		switch action {
		case "enroll":
			w.enroll()
		case "report":
			w.sendReport()
		case "decide":
			w.decide()
		case "wait":
			time.Sleep(time.Duration(rapid.IntRange(1, 1800).Draw(w.rt, "seconds")) * time.Second)
		case "down":
			w.down()
		case "unreliable":
			w.unreliable()
		case "up":
			w.settle()
		case "restart":
			w.stop()
			w.run()
		case "enforcer restart":
			w.enforcer.Restart()
		case "reconcile":
			w.settle()
			w.reconciled(fmt.Sprintf("step %d", i))
		}
		// What the caller was told holds at once; what is deferred holds when all is quiet.
		w.check(fmt.Sprintf("right after step %d, %s", i, action))
		synctest.Wait()
		w.check(fmt.Sprintf("after step %d, %s", i, action))
	}
	w.settle()
	w.check("at the end")
	w.reconciled("at the end")
	w.allRecorded()
}

// allRecorded checks that no tightening was lost, and that what is stored is what is told.
func (w *world) allRecorded() {
	for id, m := range w.models {
		r, ok := w.store.Get(id)
		if !ok {
			w.rt.Fatalf("%s is not stored", id)
		}
		view, err := w.gate.Device(string(id))
		if err != nil {
			w.rt.Fatal(err)
		}
		if m.revoked && !r.Revocation.Set() || !m.uncertain && (m.held != r.Hold.Set() || m.blocked != r.Block.Set()) {
			w.rt.Fatalf("%s is stored as %+v, model %+v", id, r, *m)
		}
		for source, want := range m.last {
			got, told := r.Reports[source], view.Reports[source]
			if want.Verdict != quarantine.NonCompliant || !got.At.Before(want.At) {
				continue
			}
			// A repeat may be remembered only, for half the life of one as bad.
			if half := got.At.Add(got.Validity / 2); got.Verdict != want.Verdict || !time.Now().Before(half) || told.At.Before(want.At) {
				w.rt.Fatalf("%s: the bad report of %s at %s is lost: stored %+v, told %+v", id, source, want.At, got, told)
			}
		}
		if view.Stage != r.Stage || view.Pool != r.Pool || !view.Until.Equal(r.Until) {
			w.rt.Fatalf("%s is stored %s in %q until %s, and told %s in %q until %s", id, r.Stage, r.Pool, r.Until, view.Stage, view.Pool, view.Until)
		}
	}
	if p := w.journal.Pending(); len(p) != 0 {
		w.rt.Fatalf("the journal still holds %v", p)
	}
}
