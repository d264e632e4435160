package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
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

// gateways is how many share one store, at the most.
const gateways = 2

// mostDevices is how many devices live at a time.
const mostDevices = 4

// world drives gateways and the models of their devices.
type world struct {
	*bench // the first gateway; the store is everybody's
	rt     *rapid.T
	gates  []*bench
	models map[quarantine.ID]*model
	random func(n int) int // below n; called from several goroutines
	next   int             // number of the next device

	changes int // recorded until the last check

	confirmed [gateways]*witness
	backup    *copied                           // last copy of the store, or nil
	healthy   bool                              // the store has answered everything since all was mended
	sets      map[string]quarantine.PolicySet   // as saved last
	sure      map[string]quarantine.PolicySet   // that every gateway surely goes by
	maybe     []map[string]quarantine.PolicySet // that one or another may go by
	deaf      bool                              // the enforcer may refuse what it is told
}

// copied is a copy of the store, and what was known at that moment.
type copied struct {
	snapshot quarantine.Snapshot
	models   map[quarantine.ID]*model
}

// witness is the store as one gateway sees it, and up to where that one confirmed a plan.
type witness struct {
	*storetest.Memory
	mu sync.Mutex
	at int64
}

func (w *witness) Confirm(ctx context.Context, revision int64) error {
	err := w.Memory.Confirm(ctx, revision)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.at = max(w.at, revision)
	}
	return err
}

func (w *witness) confirmedAt() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

// newWorld starts n gateways on one store.
func newWorld(t *testing.T, rt *rapid.T, n int, seed uint64) *world {
	b := newBench(t)
	b.cluster = n > 1
	b.policy = rulesPolicy{}
	b.store.Save(modelSettings(nil))
	w := &world{bench: b, rt: rt, models: make(map[quarantine.ID]*model), random: dice(seed), healthy: true}
	w.sureOfSets()
	for i := range n {
		g := b
		if i > 0 {
			other := *b
			g = &other
			g.enforcer, g.journal = storetest.NewEnforcer(), newKeeper()
		}
		w.confirmed[i] = &witness{Memory: b.store}
		g.through = func(quarantine.Store) quarantine.Store { return w.confirmed[i] }
		w.gates = append(w.gates, g)
		g.run()
	}
	return w
}

func (w *world) stopAll() {
	for _, g := range w.gates {
		g.stop()
	}
}

func (w *world) ids() []quarantine.ID {
	var all []quarantine.ID
	for id := range w.models {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

func (w *world) pick() *model {
	return w.models[rapid.SampledFrom(w.ids()).Draw(w.rt, "device")]
}

// via picks a gateway.
func (w *world) via() int {
	if len(w.gates) == 1 {
		return 0
	}
	return rapid.IntRange(0, len(w.gates)-1).Draw(w.rt, "gateway")
}

func (w *world) life() time.Duration {
	return time.Duration(rapid.IntRange(1, 300).Draw(w.rt, "certificate minutes")) * time.Minute
}

// enroll does as the desk does for a new device: it gives the seat that was freed longest
// ago, once every gateway has confirmed a plan without its owner, or one never given.
func (w *world) enroll() {
	live := 0
	for _, m := range w.models {
		if !m.views[0].revoked {
			live++
		}
	}
	if live >= mostDevices || w.next >= 3*mostDevices {
		return
	}
	seat, ok := w.seat()
	if !ok {
		return
	}
	w.next++
	profile := rapid.SampledFrom([]string{"staff", "approved", "skip", "fixed", "desk"}).Draw(w.rt, "profile")
	r := enrolled(w.next, profile, time.Now())
	r.Seat, r.Owner = quarantine.Seat(seat), "owner"
	r.Proven = rapid.Bool().Draw(w.rt, "proven")
	r.Certificate.NotAfter = time.Now().Add(w.life()).UTC()
	admitted, err := w.gates[w.via()].gate.Admit(r)
	if err != nil {
		return // the gate has not read the store yet
	}
	w.store.Put(admitted)
	m := &model{id: r.ID, seat: seat, profile: profile, skips: profile == "skip", keys: []tunnel.Key{r.Key}, ends: []time.Time{r.Certificate.NotAfter}, proven: r.Proven, waived: make(map[string]time.Time)}
	for g := range m.views {
		m.views[g] = newView()
	}
	w.models[r.ID] = m
}

// seat is the desk's choice. Nothing is given out while the store or a gateway is ill.
func (w *world) seat() (int, bool) {
	used := make(map[int]bool)
	free := make(map[int]int64) // and the revision since when
	highest := 0
	for id := range w.models {
		r, ok := w.store.Get(id)
		if !ok {
			w.rt.Fatalf("%s is not stored", id)
		}
		seat := int(r.Seat)
		highest = max(highest, seat)
		if r.Revocation.Set() {
			free[seat] = max(free[seat], r.Revision)
		} else if used[seat] {
			w.rt.Fatalf("seat %d belongs to two live devices", seat)
		} else {
			used[seat] = true
		}
	}
	for seat := 1; seat <= highest; seat++ {
		since, freed := free[seat]
		for g := range w.gates {
			freed = freed && w.confirmed[g].confirmedAt() >= since
		}
		if freed && !used[seat] {
			return seat, true
		}
	}
	return highest + 1, w.healthy || len(w.models) == 0
}

// enrollAgain is a device's second enrollment: same id, same seat, other keys.
func (w *world) enrollAgain() {
	m := w.pick()
	old, ok := w.store.Get(m.id)
	if !ok || !w.healthy || w.deaf || old.Revocation.Set() || old.Block.Set() {
		return
	}
	r := enrolled(1000+w.random(1<<20), m.profile, time.Now())
	r.ID, r.Name, r.Seat, r.Hold, r.Tighten = old.ID, old.Name, old.Seat, old.Hold, old.Tighten
	r.Owner, r.Groups, r.Wipe = old.Owner, old.Groups, old.Wipe
	r.Reports = old.Outlived()
	r.Proven = rapid.Bool().Draw(w.rt, "proven")
	r.Certificate.NotAfter = time.Now().Add(w.life()).UTC()
	admitted, err := w.gates[w.via()].gate.Admit(r)
	if err != nil {
		w.rt.Fatalf("enrolling %s again: %v", m.id, err)
	}
	w.store.Put(admitted)
	synctest.Wait() // both gateways hear of it
	m.keys, m.ends, m.proven, m.approved = []tunnel.Key{r.Key}, []time.Time{r.Certificate.NotAfter}, r.Proven, false
	for g := range m.views {
		m.views[g] = m.views[g].outlived()
	}
	m.told, m.session = time.Now(), time.Time{}
}

// renew does as the desk does for a certificate's successor, perhaps with another key.
func (w *world) renew() {
	m := w.pick()
	r, ok := w.store.Get(m.id)
	if !ok {
		return
	}
	cert := quarantine.Certificate{Serial: fmt.Sprintf("%x", 0x10000+w.random(1<<20)), NotBefore: time.Now().Add(-time.Minute).UTC(), NotAfter: time.Now().Add(w.life()).UTC()}
	c := quarantine.Change{Kind: quarantine.Renew, Device: m.id, By: agent(m.id), At: time.Now().UTC(), Certificate: &cert}
	var key tunnel.Key
	if rapid.Bool().Draw(w.rt, "next key") {
		key = keyOf(2000 + w.random(1<<20))
		c.Next = key.String()
	}
	next, err := r.With(c)
	if err != nil {
		if !r.Revocation.Set() && !r.Block.Set() {
			w.rt.Fatalf("renewing %s: %v", m.id, err)
		}
		return
	}
	if next, err = w.gates[w.via()].gate.Admit(next); err != nil {
		return // the gate has not read the store yet
	}
	m.told = time.Now()
	_, err = w.store.Record(w.t.Context(), c, next)
	if err == nil && w.healthy {
		synctest.Wait() // both gateways hear of it
		m.ends = nil
	}
	m.ends = append(m.ends, cert.NotAfter)
	if !key.IsZero() {
		m.keys = append(m.keys, key)
	}
}

// rotate is the first handshake with the next key.
func (w *world) rotate() {
	m := w.pick()
	r, _ := w.store.Get(m.id)
	if r.Next.IsZero() {
		return
	}
	m.told = time.Now()
	_, err := w.gates[w.via()].gate.Change(w.t.Context(), quarantine.Actor{Kind: "gateway", Name: "gw"}, quarantine.Change{Kind: quarantine.Rotate, Device: m.id, Key: r.Next})
	if err == nil && w.healthy && !w.deaf {
		synctest.Wait() // both gateways hear of it
		m.keys = []tunnel.Key{r.Next}
	}
}

func (w *world) newReport() quarantine.Report {
	return quarantine.Report{
		Device:   w.pick().id,
		Source:   rapid.SampledFrom([]string{"mdm", "mdm", "mdm", "scan", quarantine.AgentSource, "mars"}).Draw(w.rt, "source"),
		Verdict:  rapid.SampledFrom([]quarantine.Verdict{quarantine.Compliant, quarantine.Compliant, quarantine.NonCompliant, ""}).Draw(w.rt, "verdict"),
		At:       time.Now().Add(time.Duration(rapid.IntRange(-600, 100).Draw(w.rt, "seconds off")) * time.Second),
		Validity: time.Duration(rapid.IntRange(1, 60).Draw(w.rt, "valid minutes")) * time.Minute,
		Facts:    w.newFacts(),
	}
}

func (w *world) sendReport() {
	g, r := w.via(), w.newReport()
	by := token
	if r.Source == quarantine.AgentSource {
		by = agent(r.Device)
	}
	w.models[r.Device].told = time.Now()
	p, err := w.gates[g].gate.Report(w.t.Context(), by, r)
	w.reported(g, r, err)
	w.stood(g, r.Device, p, err)
}

// sendMany is a management server's word on many devices.
func (w *world) sendMany() {
	g := w.via()
	var all []quarantine.Report
	for range rapid.IntRange(2, 8).Draw(w.rt, "reports") {
		r := w.newReport()
		if r.Source == quarantine.AgentSource {
			r.Source = "scan"
		}
		w.models[r.Device].told = time.Now()
		all = append(all, r)
	}
	for i, result := range w.gates[g].gate.Reports(w.t.Context(), token, all) {
		w.reported(g, all[i], result.Err)
		w.stood(g, all[i].Device, result.Placement, result.Err)
	}
}

// reported notes what the gateway said to a report.
func (w *world) reported(g int, r quarantine.Report, err error) {
	m := w.models[r.Device]
	r.Received = time.Now()
	tightens := r.Verdict != quarantine.Compliant && (r.Verdict != "" || r.Source != quarantine.AgentSource) // an agent that knows nothing waits for the store
	v := &m.views[g]
	switch {
	case errors.Is(err, quarantine.ErrNotReady), errors.Is(err, quarantine.ErrUnknownDevice):
	case !inScope(r) || errors.Is(err, quarantine.ErrForbidden):
		if inScope(r) || !errors.Is(err, quarantine.ErrForbidden) {
			w.rt.Fatalf("%s spoke of %s and of %v: %v", r.Source, r.Device, r.Facts, err)
		}
	case v.revoked:
		if !errors.Is(err, quarantine.ErrFinal) {
			w.rt.Fatalf("a report on a revoked device: %v", err)
		}
	case errors.Is(err, quarantine.ErrStale), errors.Is(err, quarantine.ErrFinal):
	case err == nil, errors.Is(err, quarantine.ErrNotEnforced), tightens:
		if r.Source == "mdm" && r.At.Before(m.floor) && err == nil {
			w.rt.Fatalf("%s was restored at %s, and a report of %s was taken", m.id, m.floor, r.At)
		}
		v.accept(r)
		for other := range m.views {
			m.views[other].suspect(r) // by way of the store
		}
	default: // refused by the store, or its answer lost
		m.uncertain = true
		for other := range m.views {
			m.views[other].suspect(r)
		}
	}
}

func (w *world) decide() {
	m, g := w.pick(), w.via()
	kind := rapid.SampledFrom([]quarantine.Kind{quarantine.Approve, quarantine.Hold, quarantine.Block, quarantine.Unblock, quarantine.Revoke, quarantine.Prove}).Draw(w.rt, "kind")
	if kind == quarantine.Revoke && rapid.IntRange(0, 2).Draw(w.rt, "really") > 0 {
		return
	}
	r, _ := w.store.Get(m.id)
	m.told = time.Now()
	_, err := w.gates[g].gate.Change(w.t.Context(), admin, quarantine.Change{Kind: kind, Device: m.id, Key: r.Key})
	if errors.Is(err, quarantine.ErrNotReady) || errors.Is(err, quarantine.ErrUnknownDevice) {
		return
	}
	v := &m.views[g]
	switch {
	case v.revoked && !errors.Is(err, quarantine.ErrFinal):
		w.rt.Fatalf("%s of a revoked device: %v", kind, err)
	case v.revoked || errors.Is(err, quarantine.ErrFinal):
		return
	}
	done := err == nil || errors.Is(err, quarantine.ErrNotEnforced)
	m.uncertain = m.uncertain || !w.healthy && len(w.gates) > 1
	switch kind {
	case quarantine.Hold:
		v.held = true
	case quarantine.Block:
		v.blocked = true
	case quarantine.Revoke:
		v.revoked = true
	case quarantine.Approve:
		m.uncertain = m.uncertain || !done
		m.approved = true
		for g := range m.views {
			m.views[g].held = false
		}
	case quarantine.Unblock:
		m.uncertain = m.uncertain || !done
		m.waive("jail/only", time.Now().Add(24*time.Hour))
		for g := range m.views {
			m.views[g].blocked = false
		}
	case quarantine.Prove:
		m.uncertain = m.uncertain || !done
		m.proven = true
	}
}

// copyStore makes a copy to go back to.
func (w *world) copyStore() {
	if !w.healthy {
		return
	}
	snap, err := w.store.Snapshot(w.t.Context())
	if err != nil {
		w.rt.Fatal(err)
	}
	w.observe()
	w.backup = &copied{snap, make(map[quarantine.ID]*model)}
	for id, m := range w.models {
		w.backup.models[id] = m.clone()
	}
}

// restore goes back to the copy: perhaps with a list of what people decided since, perhaps
// on other machines, which have neither the journals nor what was enforced.
func (w *world) restore() {
	if w.backup == nil || !w.healthy || w.deaf {
		return
	}
	w.stopAll()
	now := time.Now().UTC()
	x := quarantine.Restoration{By: admin, At: now, Pools: w.backup.snapshot.Pools, Profiles: w.backup.snapshot.Profiles,
		Sources: w.backup.snapshot.Sources, Sets: w.backup.snapshot.Sets, Policy: w.policy}
	listed := rapid.Bool().Draw(w.rt, "list")
	if listed {
		var all []quarantine.Record
		for id := range w.models {
			r, _ := w.store.Get(id)
			all = append(all, r)
		}
		x.Denied = quarantine.Denials(all)
	}
	back := w.backup.snapshot
	back.Records = make(map[quarantine.ID]quarantine.Record)
	models := make(map[quarantine.ID]*model)
	for id, r := range w.backup.snapshot.Records {
		back.Records[id] = r.Restored(x)
		models[id] = w.restoredModel(id, listed, now)
	}
	w.models = models
	w.store.Restore(back)
	w.sets = back.Sets
	w.sureOfSets()
	elsewhere := rapid.Bool().Draw(w.rt, "other machines")
	for i, g := range w.gates {
		w.confirmed[i].at = 0
		if elsewhere {
			g.journal = newKeeper()
			g.enforcer.Restart()
		}
		g.run()
	}
	for id := range w.models {
		for i, g := range w.gates {
			if g.routed(id) {
				w.rt.Fatalf("%s is routed at gateway %d after the restore", id, i)
			}
		}
	}
}

// restoredModel is what must be known of a device after the restore.
func (w *world) restoredModel(id quarantine.ID, listed bool, now time.Time) *model {
	m, lost := w.backup.models[id].clone(), w.models[id]
	m.told, m.floor, m.uncertain = now, now, true
	m.session = time.Time{}
	for g := range m.views {
		v := &m.views[g]
		v.maybe = make(map[string][]quarantine.Report)
		for source, r := range v.last {
			copied := w.backup.snapshot.Records[id].Reports[source]
			switch {
			case r.Verdict == quarantine.Compliant:
				delete(v.last, source)
			case r.Verdict == copied.Verdict && copied.At.Before(r.At):
				v.last[source] = copied // the later one was only remembered, since it said the same
			}
		}
		v.held = v.held || m.skips
		if since := lost; listed && since != nil {
			v.wiped = v.wiped || since.views[g].wiped
			v.held, v.blocked, v.revoked = v.held || since.views[g].held, v.blocked || since.views[g].blocked, v.revoked || since.views[g].revoked
		}
	}
	return m
}

// address is a seat's address, worked out by hand.
func address(v4 string, v6 string, seat int) []netip.Addr {
	all := []netip.Addr{netip.MustParseAddr(fmt.Sprintf("%s.%d", v4, seat+1))}
	if v6 != "" {
		all = append(all, netip.MustParseAddr(fmt.Sprintf("%s::%x", v6, seat+1)))
	}
	return all
}

// placed checks that an entry's addresses are the device's own, for its way of addressing.
func (w *world) placed(when string, m *model, e quarantine.Entry) {
	w.rt.Helper()
	if want := address("10.1.0", "fd00:1", m.seat); !slices.Equal(e.Quarantined, want) {
		w.rt.Fatalf("%s: %s is quarantined at %v, want %v", when, m.id, e.Quarantined, want)
	}
	want := address("10.2.0", "fd00:2", m.seat)
	switch m.profile {
	case "skip":
		want = address("10.3.0", "", m.seat)
	case "desk":
		want = address("10.4.0", "", m.seat)
	case "fixed":
		want = e.Quarantined
	}
	if len(e.Routed) > 0 && !slices.Equal(e.Routed, want) {
		w.rt.Fatalf("%s: %s is routed at %v, want %v", when, m.id, e.Routed, want)
	}
	if !slices.Contains(m.keys, e.Key) || !e.Next.IsZero() && !slices.Contains(m.keys, e.Next) {
		w.rt.Fatalf("%s: %s has keys %s and %s, want of %v", when, m.id, e.Key, e.Next, m.keys)
	}
}

// restful checks that the gateways come to rest, and do not write one record for ever.
func (w *world) restful(when string) {
	w.rt.Helper()
	changes := w.store.Changes()
	if n := len(changes) - w.changes; n > 200 {
		var last []string
		for _, c := range changes[len(changes)-6:] {
			last = append(last, fmt.Sprintf("%s of %s by %s %s", c.Kind, c.Device, c.By.Kind, c.By.Name))
		}
		w.rt.Fatalf("%s: %d changes were recorded, the last of them %q", when, n, last)
	}
	w.changes = len(changes)
}

// check holds the enforcers to the models.
func (w *world) check(when string) {
	w.rt.Helper()
	w.restful(when)
	now := time.Now()
	for i, g := range w.gates {
		owners := make(map[netip.Addr]quarantine.ID)
		for id, e := range g.enforcer.Entries() {
			m := w.models[id]
			if m == nil {
				w.rt.Fatalf("%s: gateway %d enforces %s, which is no device", when, i, id)
			}
			if w.deaf {
				continue
			}
			w.placed(when, m, e)
			for _, a := range slices.Compact(slices.SortedFunc(slices.Values(slices.Concat(e.Quarantined, e.Routed)), netip.Addr.Compare)) {
				if other, taken := owners[a]; taken {
					w.rt.Fatalf("%s: gateway %d has %s for %s and %s", when, i, a, id, other)
				}
				owners[a] = id
			}
		}
		for id, m := range w.models {
			if w.deaf && now.Sub(m.told) <= quarantine.DefaultFreshness {
				continue // a data plane that takes nothing goes on until its freshness is over
			}
			w.checkOne(when, i, g.enforcer.Entry(id), m, now)
		}
	}
}

func (w *world) checkOne(when string, i int, e quarantine.Entry, m *model, now time.Time) {
	w.rt.Helper()
	g, may := w.gates[i], m.mayRoute(i, now, w.mayBe(func(s quarantine.PolicySet) bool { return s.AgentReleases }))
	if g.routed(m.id) {
		if w.forbids(m, m.views[i], now) {
			w.rt.Fatalf("%s: %s is routed at gateway %d under %v: %+v, model %+v", when, m.id, i, w.sure, e, *m)
		}
		if may.IsZero() {
			w.rt.Fatalf("%s: %s is routed at gateway %d without a reason: %+v, model %+v", when, m.id, i, e, *m)
		}
		if latest := w.boot() + firewall.Deadline(may.Sub(now)); e.Until > latest {
			w.rt.Fatalf("%s: %s is routed %s too long at gateway %d, model %+v", when, m.id, time.Duration(e.Until-latest), i, *m)
		}
	}
	v := m.views[i]
	if (v.blocked || v.revoked || m.profile == "approved" && !m.approved) && !w.deaf && !e.Key.IsZero() && g.enforcer.Freshness().Alive > w.boot() {
		w.rt.Fatalf("%s: %s has a peer at gateway %d: %+v, model %+v", when, m.id, i, e, *m)
	}
}

// settle mends everything and lets all retries pass.
func (w *world) settle() {
	w.up()
	for _, g := range w.gates {
		g.enforcer.SetHook(nil)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	w.deaf, w.healthy = false, true
	w.sureOfSets()
	w.join()
}

// join is called when every gateway has heard of everything.
func (w *world) join() {
	w.observe()
	for _, m := range w.models {
		m.join()
	}
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

// unreliable makes the store, or the enforcers, fail at random steps.
func (w *world) unreliable() {
	w.healthy = false
	w.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
		if w.random(3) == 0 {
			return fmt.Errorf("%w at %s", storetest.ErrDown, step)
		}
		return nil
	})
	if w.random(2) == 0 {
		w.deaf = true
		for _, g := range w.gates {
			g.enforcer.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
				if w.random(4) == 0 {
					return errors.New("enforcer fails at " + step)
				}
				return nil
			})
		}
	}
}

// Random lives of devices, at one gateway or at two that share a store, with the store down,
// answers lost, gates restarted and the store put back to an earlier copy at any time: nobody
// is routed without a valid release, nor past the certificate; no tightening is lost; every
// device has its own addresses and one placement; the short way ends where a complete plan
// does.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		n := rapid.IntRange(1, gateways).Draw(rt, "gateways")
		var failure any // rapid stops by a panic, which must leave the bubble by hand
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, rt, n, seed)
			defer func() {
				failure = recover()
				w.stopAll()
			}()
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
	actions := []string{"report", "report", "report", "reports", "decide", "decide", "wait", "enroll", "enroll again", "renew", "rotate",
		"sets", "tell", "tell", "down", "unreliable", "up", "restart", "enforcer restart", "reconcile", "copy", "restore"}
	for i := range rapid.IntRange(5, 40).Draw(w.rt, "steps") {
		time.Sleep(time.Millisecond) // people and servers take turns
		action := rapid.SampledFrom(actions).Draw(w.rt, "action")
		w.act(action, i)
		// What the caller was told holds at once; what is deferred holds when all is quiet.
		w.check(fmt.Sprintf("right after step %d, %s", i, action))
		synctest.Wait()
		if w.healthy {
			w.join()
		}
		w.check(fmt.Sprintf("after step %d, %s", i, action))
	}
	w.settle()
	w.check("at the end")
	w.reconcileAll("at the end")
	for _, g := range w.gates {
		w.allRecorded(g)
	}
}

func (w *world) reconcileAll(when string) {
	for i, g := range w.gates {
		g.reconciled(fmt.Sprintf("%s, gateway %d", when, i))
	}
}

func (w *world) act(action string, step int) {
	switch action {
	case "enroll":
		w.enroll()
	case "enroll again":
		w.enrollAgain()
	case "renew":
		w.renew()
	case "rotate":
		w.rotate()
	case "report":
		w.sendReport()
	case "reports":
		w.sendMany()
	case "sets":
		w.saveSets()
	case "tell":
		w.tell()
	case "decide":
		w.decide()
	case "wait":
		time.Sleep(time.Duration(rapid.IntRange(1, 1800).Draw(w.rt, "seconds")) * time.Second)
	case "down":
		w.healthy = false
		w.down()
	case "unreliable":
		w.unreliable()
	case "up":
		w.settle()
	case "restart":
		g := w.gates[w.via()]
		g.stop()
		g.run()
	case "enforcer restart":
		w.gates[w.via()].enforcer.Restart()
	case "reconcile":
		w.settle()
		w.reconcileAll(fmt.Sprintf("step %d", step))
	case "copy":
		w.copyStore()
	case "restore":
		w.restore()
	}
}

// allRecorded checks that no tightening was lost, and that what is stored is what is told.
func (w *world) allRecorded(g *bench) {
	for id, m := range w.models {
		r, ok := w.store.Get(id)
		if !ok {
			w.rt.Fatalf("%s is not stored", id)
		}
		view, err := g.gate.Device(string(id))
		if err != nil {
			w.rt.Fatal(err)
		}
		v := m.views[0] // as the others
		if v.revoked && !r.Revocation.Set() || !m.uncertain && (v.held != r.Hold.Set() || v.blocked != r.Block.Set()) {
			w.rt.Fatalf("%s is stored as %+v, model %+v", id, r, *m)
		}
		for source, want := range v.last {
			got, told := r.Reports[source], view.Reports[source]
			if want.Verdict != quarantine.NonCompliant || !got.At.Before(want.At) {
				continue
			}
			if len(w.gates) > 1 && r.Revocation.Set() {
				continue // the other gateway was told of the revocation first, which ends the file
			}
			// A repeat may be remembered only, for half the life of one as bad, by the gateway
			// that took it.
			if half := got.At.Add(got.Validity / 2); got.Verdict != want.Verdict || !time.Now().Before(half) || len(w.gates) == 1 && told.At.Before(want.At) {
				w.rt.Fatalf("%s: the bad report of %s at %s is lost: stored %+v, told %+v", id, source, want.At, got, told)
			}
		}
		if view.Stage != r.Stage || view.Pool != r.Pool || !view.Until.Equal(r.Until) {
			w.rt.Fatalf("%s is stored %s in %q until %s, and told %s in %q until %s", id, r.Stage, r.Pool, r.Until, view.Stage, view.Pool, view.Until)
		}
	}
	if p := g.journal.Pending(); len(p) != 0 {
		w.rt.Fatalf("the journal still holds %v", p)
	}
}
