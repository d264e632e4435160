package quarantine_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
	"lazaret/quarantine/tunnel"
)

var (
	admin = quarantine.Actor{Kind: "administrator", Name: "root"}
	token = quarantine.Actor{Kind: "token", Name: "mdm"}
)

func agent(id quarantine.ID) quarantine.Actor {
	return quarantine.Actor{Kind: "device", Name: string(id)}
}

// settings are two full pools and two sources, and a profile of each sort.
func settings() storetest.Settings {
	return storetest.Settings{
		Pools: map[string]quarantine.Pool{
			"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:1::/64"),
				Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.1/32"), Protocol: "tcp", From: 443, Up: 443}}},
			"full":  {Name: "full", IPv4: netip.MustParsePrefix("10.2.0.0/16"), IPv6: netip.MustParsePrefix("fd00:2::/64")},
			"other": {Name: "other", IPv4: netip.MustParsePrefix("10.3.0.0/16")},
		},
		Profiles: map[string]quarantine.Profile{
			"staff":    {Name: "staff", Pool: "full"},
			"approved": {Name: "approved", Pool: "full", NeedApproval: true},
			"skip":     {Name: "skip", Pool: "other", SkipQuarantine: true},
			"fixed":    {Name: "fixed", Pool: "full", Addressing: quarantine.Fixed},
		},
		Sources: map[string]quarantine.Source{
			"mdm":  {Name: "mdm", MayRelease: true, MaxValidity: 2 * time.Hour},
			"scan": {Name: "scan"},
		},
	}
}

func keyOf(n int) tunnel.Key {
	var k tunnel.Key
	copy(k[:], fmt.Sprintf("device %d", n))
	return k
}

// enrolled is a proven device of a profile with a certificate for 90 days from now.
func enrolled(n int, profile string, now time.Time) quarantine.Record {
	now = now.UTC().Round(0)
	return quarantine.Record{
		Device: quarantine.Device{ID: quarantine.ID(fmt.Sprintf("d%d", n)), Name: fmt.Sprintf("laptop-%d", n),
			Key: keyOf(n), Seat: quarantine.Seat(n)},
		Profile: profile, Proven: true,
		Certificate: quarantine.Certificate{Serial: fmt.Sprintf("%02x", n), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(90 * 24 * time.Hour)},
	}
}

// keeper is a journal in memory that outlives gates, and can be broken.
type keeper struct {
	mu      sync.Mutex
	pending map[quarantine.ID][]quarantine.Change
	fail    error
	stall   <-chan struct{}
}

func newKeeper() *keeper { return &keeper{pending: make(map[quarantine.ID][]quarantine.Change)} }

func (k *keeper) Append(c quarantine.Change) error {
	k.mu.Lock()
	stall := k.stall
	k.mu.Unlock()
	if stall != nil {
		<-stall
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	k.pending[c.Device] = quarantine.Merged(k.pending[c.Device], c)
	return nil
}

func (k *keeper) Done(done quarantine.Change) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(k.pending[done.Device]), func(c quarantine.Change) bool {
		superseded := c.Report != nil && done.Report != nil && c.Report.Source == done.Report.Source && c.Tighten < done.Tighten
		return c.Tighten == done.Tighten || superseded
	})
	if len(left) == 0 {
		delete(k.pending, done.Device)
	} else {
		k.pending[done.Device] = left
	}
	return nil
}

func (k *keeper) Pending() map[quarantine.ID][]quarantine.Change {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.pending)
}

// bench is a gate with a store and an enforcer in memory, inside a synctest bubble.
type bench struct {
	t        *testing.T
	store    *storetest.Memory
	enforcer *storetest.Enforcer
	journal  quarantine.Keeper
	clock    quarantine.Clock
	start    time.Time
	through  func(quarantine.Store) quarantine.Store // what the gate sees of store; nil: all
	enforces quarantine.Enforcer                     // what the gate sees of enforcer; nil: all
	made     func(*quarantine.Gate)                  // before a gate runs; nil: nothing
	gate     *quarantine.Gate
	runs     int
	policy   quarantine.Policy
	cluster  bool // other gates share the store
	stop     func()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, store: storetest.NewMemory(), enforcer: storetest.NewEnforcer(), journal: newKeeper(),
		start: time.Now(), policy: quarantine.PlainPolicy{}}
	b.clock = quarantine.Clock{Wall: time.Now, Boot: func() time.Duration { return time.Hour + time.Since(b.start) }}
	b.store.Save(settings())
	return b
}

func (b *bench) boot() firewall.Deadline { return firewall.Deadline(b.clock.Boot()) }

// run starts a new gate on what the store, the journal and the enforcer hold.
func (b *bench) run() {
	b.t.Helper()
	b.runs++
	store := quarantine.Store(b.store)
	if b.through != nil {
		store = b.through(store)
	}
	enforcer := quarantine.Enforcer(b.enforcer)
	if b.enforces != nil {
		enforcer = b.enforces
	}
	g, err := quarantine.NewGate(quarantine.Config{Store: store, Enforcer: enforcer, Journal: b.journal,
		Policy: b.policy, Cluster: b.cluster, Control: fmt.Sprintf("run %d", b.runs), Clock: b.clock, Gateway: "gw", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	if b.made != nil {
		b.made(g)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil {
			b.t.Errorf("running the gate: %v", err)
		}
	}()
	b.gate = g
	b.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// bubble runs a test with a running gate.
func bubble(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run()
		defer func() { b.stop() }()
		test(t, b)
	})
}

// enroll stores a device as the desk does.
func (b *bench) enroll(r quarantine.Record) quarantine.Record {
	b.t.Helper()
	r, err := b.gate.Admit(r)
	if err != nil {
		b.t.Fatal(err)
	}
	r = b.store.Put(r)
	synctest.Wait()
	return r
}

func (b *bench) report(source string, verdict quarantine.Verdict, at time.Time, validity time.Duration, id quarantine.ID) (quarantine.Placement, error) {
	by := token
	if source == quarantine.AgentSource {
		by = agent(id)
	}
	return b.gate.Report(context.Background(), by, quarantine.Report{Device: id, Source: source, Verdict: verdict, At: at, Validity: validity})
}

// compliant is mdm's word for an hour.
func (b *bench) compliant(id quarantine.ID) {
	b.t.Helper()
	p, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, id)
	if err != nil || p.Stage != quarantine.Routed {
		b.t.Fatalf("a compliant report: %+v, %v; want routed", p, err)
	}
}

func (b *bench) routed(id quarantine.ID) bool { return b.enforcer.Routed(id, b.boot()) }

func (b *bench) wantRouted(id quarantine.ID, want bool, when string) {
	b.t.Helper()
	if got := b.routed(id); got != want {
		b.t.Errorf("%s: device %s routed is %v, want %v (entry %+v, freshness %+v at %d)", when, id, got, want, b.enforcer.Entry(id), b.enforcer.Freshness(), b.boot())
	}
}

// down makes every call to the store fail.
func (b *bench) down() {
	b.store.SetHook(func(context.Context, string, quarantine.ID) error { return storetest.ErrDown })
}

func (b *bench) up() { b.store.SetHook(nil) }

// reconciled compares what single moves left in the enforcer with a complete plan.
func (b *bench) reconciled(when string) {
	b.t.Helper()
	synctest.Wait()
	before := b.enforcer.Entries()
	for id, e := range before {
		if x, err := b.gate.Explain(string(id)); err != nil || !x.Enforced || x.Problem != "" {
			b.t.Errorf("%s: %s is explained as enforced %v, problem %q, %v", when, id, x.Enforced, x.Problem, err)
		}
		if e.Until < b.boot()+firewall.Deadline(time.Second) { // a lease's last second is not planned any more
			e.Routed, e.Mark, e.Until = nil, 0, 0
			before[id] = e
		}
	}
	_, plans, _ := b.enforcer.Counts()
	b.gate.Replan()
	synctest.Wait()
	if _, after, _ := b.enforcer.Counts(); after == plans {
		b.t.Fatalf("%s: no complete plan was sent", when)
	}
	if diff := cmp.Diff(before, b.enforcer.Entries(), cmpopts.EquateComparable(netip.Addr{}, tunnel.Key{})); diff != "" {
		b.t.Errorf("%s: the short way differs from the complete plan (-short +plan):\n%s", when, diff)
	}
}
