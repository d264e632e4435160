package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
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
	k.pending[c.Device] = append(k.pending[c.Device], c)
	return nil
}

func (k *keeper) Done(id quarantine.ID, tighten uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(k.pending[id]), func(c quarantine.Change) bool { return c.Tighten <= tighten })
	if len(left) == 0 {
		delete(k.pending, id)
	} else {
		k.pending[id] = left
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
	gate     *quarantine.Gate
	runs     int
	policy   quarantine.Policy
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
	g, err := quarantine.NewGate(quarantine.Config{Store: b.store, Enforcer: b.enforcer, Journal: b.journal,
		Policy: b.policy, Control: fmt.Sprintf("run %d", b.runs), Clock: b.clock, Gateway: "gw", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
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

func TestReleaseAndReturn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		select {
		case <-b.gate.Ready():
		default:
			t.Fatal("the gate is not ready")
		}
		d := b.enroll(enrolled(1, "staff", time.Now()))
		want := quarantine.Entry{Device: "d1", Key: keyOf(1), Revision: d.Revision,
			Quarantined: []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")}}
		if diff := cmp.Diff(want, b.enforcer.Entry("d1"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("enrolled (-want +got):\n%s", diff)
		}
		b.compliant("d1")
		e := b.enforcer.Entry("d1")
		if want := []netip.Addr{netip.MustParseAddr("10.2.0.2"), netip.MustParseAddr("fd00:2::2")}; !slices.Equal(e.Routed, want) {
			t.Errorf("routed addresses %v, want %v", e.Routed, want)
		}
		if want := b.boot() + firewall.Deadline(time.Hour); e.Until != want {
			t.Errorf("deadline %d, want %d", e.Until, want)
		}
		stored, _ := b.store.Get("d1")
		if stored.Stage != quarantine.Routed || stored.Pool != "full" || !stored.Until.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("stored: %s in %s until %s", stored.Stage, stored.Pool, stored.Until)
		}
		if !strings.HasPrefix(stored.Reason, "mdm reported compliant at 2000-01-01 00:00:00 UTC") {
			t.Errorf("reason %q names no source or time", stored.Reason)
		}
		b.reconciled("released")
		p, err := b.report("mdm", quarantine.NonCompliant, time.Now().Add(time.Second), 0, "d1")
		if err != nil || p.Stage != quarantine.Quarantined {
			t.Errorf("reporting it not compliant: %+v, %v", p, err)
		}
		b.wantRouted("d1", false, "right after the bad report")
		synctest.Wait()
		stored, _ = b.store.Get("d1")
		if stored.Stage != quarantine.Quarantined || stored.Tighten != 1 {
			t.Errorf("stored after the bad report: %s, counter %d; want quarantined, 1", stored.Stage, stored.Tighten)
		}
		b.reconciled("returned")
	})
}

// An agent's own word releases nobody, even where its source is given the right.
func TestAgentReleasesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		s := settings()
		s.Sources[quarantine.AgentSource] = quarantine.Source{Name: quarantine.AgentSource, MayRelease: true}
		b.store.Save(s)
		synctest.Wait()
		b.enroll(enrolled(1, "staff", time.Now()))
		p, err := b.report(quarantine.AgentSource, quarantine.Compliant, time.Now(), time.Hour, "d1")
		if err != nil || p.Stage != quarantine.Quarantined {
			t.Fatalf("the agent's report: %+v, %v; want quarantined", p, err)
		}
		b.wantRouted("d1", false, "the agent calls itself compliant")
		x, err := b.gate.Explain("laptop-1")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(x.Decided.Reasons, func(r quarantine.Reason) bool {
			return r.Source == quarantine.AgentSource && !r.Holds && strings.Contains(r.Text, "received, not releasing") && !r.At.IsZero()
		}) {
			t.Errorf("no reason says that the agent's report was received and does not release: %+v", x.Decided.Reasons)
		}
		// But it tightens: mdm's release does not stand against it.
		b.compliant("d1")
		if p, err := b.report(quarantine.AgentSource, quarantine.NonCompliant, time.Now().Add(time.Second), time.Minute, "d1"); err != nil || p.Stage != quarantine.Quarantined {
			t.Errorf("the agent calls itself not compliant: %+v, %v; want quarantined", p, err)
		}
		b.wantRouted("d1", false, "the agent calls itself not compliant")
	})
}

func TestWhoMayReport(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.enroll(enrolled(2, "staff", time.Now()))
		for _, c := range []struct {
			name   string
			by     quarantine.Actor
			source string
			device quarantine.ID
			want   error
		}{
			{"a known source", token, "scan", "d1", nil},
			{"an unknown source", token, "nobody", "d1", quarantine.ErrForbidden},
			{"no source", token, "", "d1", quarantine.ErrForbidden},
			{"nobody", quarantine.Actor{}, "mdm", "d1", quarantine.ErrForbidden},
			{"the agent about itself", agent("d1"), quarantine.AgentSource, "d1", nil},
			{"the agent about another", agent("d2"), quarantine.AgentSource, "d1", quarantine.ErrForbidden},
			{"a token as the agent", token, quarantine.AgentSource, "d1", quarantine.ErrForbidden},
			{"the agent as a source", agent("d1"), "mdm", "d1", quarantine.ErrForbidden},
			{"an unknown device", token, "mdm", "d9", quarantine.ErrUnknownDevice},
		} {
			_, err := b.gate.Report(t.Context(), c.by, quarantine.Report{Device: c.device, Source: c.source, Verdict: quarantine.Compliant, At: time.Now()})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
		}
		for _, kind := range []quarantine.Kind{quarantine.Approve, quarantine.Unblock, quarantine.Lapse, quarantine.Review, quarantine.Renew, "nonsense"} {
			if _, err := b.gate.Change(t.Context(), agent("d1"), quarantine.Change{Kind: kind, Device: "d1"}); err == nil {
				t.Errorf("a device may bring %q", kind)
			}
		}
	})
}

func TestReportsOutOfOrder(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		now := time.Now()
		if _, err := b.report("mdm", quarantine.NonCompliant, now.Add(time.Minute), time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.report("mdm", quarantine.Compliant, now, time.Hour, "d1"); !errors.Is(err, quarantine.ErrStale) {
			t.Errorf("an older compliant report: got %v, want ErrStale", err)
		}
		if _, err := b.report("mdm", quarantine.Compliant, now.Add(3*time.Minute), time.Hour, "d1"); !errors.Is(err, quarantine.ErrFuture) {
			t.Errorf("a report three minutes ahead: got %v, want ErrFuture", err)
		}
		b.wantRouted("d1", false, "older and future compliant reports")
		if _, err := b.report("mdm", quarantine.Compliant, now.Add(2*time.Minute), time.Hour, "d1"); err != nil {
			t.Errorf("a report two minutes ahead: %v", err)
		}
		b.wantRouted("d1", true, "a newer compliant report")
		if until := b.enforcer.Entry("d1").Until; until != b.boot()+firewall.Deadline(time.Hour) {
			t.Errorf("a source whose clock is ahead gains %s", time.Duration(until-b.boot())-time.Hour)
		}
	})
}

// Older compliant words do not win against a bad one that only the journal holds.
func TestTighteningWithoutStore(t *testing.T) {
	for _, c := range []struct {
		name    string
		tighten func(b *bench) (quarantine.Placement, error)
		stage   quarantine.Stage
	}{
		{"report", func(b *bench) (quarantine.Placement, error) {
			return b.report("mdm", quarantine.NonCompliant, time.Now().Add(time.Minute), 0, "d1")
		}, quarantine.Quarantined},
		{"unknown", func(b *bench) (quarantine.Placement, error) {
			return b.report("mdm", "", time.Now().Add(time.Minute), 0, "d1")
		}, quarantine.Quarantined},
		{"shorter validity", func(b *bench) (quarantine.Placement, error) {
			return b.report("mdm", quarantine.Compliant, time.Now().Add(time.Second), time.Nanosecond, "d1")
		}, ""}, // routed for a nanosecond more
		{"hold", func(b *bench) (quarantine.Placement, error) {
			return b.gate.Hold(b.t.Context(), admin, "d1", "looks odd")
		}, quarantine.Quarantined},
		{"block", func(b *bench) (quarantine.Placement, error) {
			return b.gate.Block(b.t.Context(), admin, "d1", "stolen")
		}, quarantine.Blocked},
		{"revoke", func(b *bench) (quarantine.Placement, error) {
			return b.gate.Revoke(b.t.Context(), admin, "d1", "stolen")
		}, quarantine.Revoked},
	} {
		for _, broken := range []string{"down", "stalled", "down with a broken journal", "down with a stalled journal"} {
			t.Run(c.name+" while "+broken, func(t *testing.T) {
				bubble(t, func(t *testing.T, b *bench) {
					b.enroll(enrolled(1, "staff", time.Now()))
					b.compliant("d1")
					k := b.journal.(*keeper)
					switch broken {
					case "down with a broken journal":
						k.fail = errors.New("no space left on device")
					case "down with a stalled journal":
						stall := make(chan struct{})
						k.stall = stall
						defer close(stall)
					}
					b.down()
					if broken == "stalled" {
						b.store.SetHook(func(ctx context.Context, _ string, _ quarantine.ID) error { return storetest.Stall(ctx) })
					}
					began := time.Now()
					p, err := c.tighten(b)
					if err != nil || c.stage != "" && p.Stage != c.stage {
						t.Fatalf("got %s, %v; want %s", p.Stage, err, c.stage)
					}
					if took := time.Since(began); took > time.Second {
						t.Errorf("it took %s", took)
					}
					b.wantRouted("d1", false, "with the store down")
					x, err := b.gate.Explain("d1")
					if err != nil || len(x.Pending) != 1 || !x.Enforced {
						t.Errorf("explained as %+v, %v; want one pending change, enforced", x, err)
					}
					_, err = b.report("mdm", quarantine.Compliant, time.Now().Add(500*time.Millisecond), time.Hour, "d1")
					if (c.name == "report" || c.name == "unknown") && !errors.Is(err, quarantine.ErrStale) {
						t.Errorf("a compliant report older than one in the journal: got %v, want ErrStale", err)
					}
					b.wantRouted("d1", false, "a compliant report")
					b.up()
					time.Sleep(30 * time.Second) // of the bubble's clock: past every timeout and retry
					synctest.Wait()
					stored, _ := b.store.Get("d1")
					if stored.Tighten != 1 {
						t.Errorf("the record did not take the tightening in: %+v", stored)
					}
					if n := len(k.Pending()); n != 0 {
						t.Errorf("the journal still holds %d devices", n)
					}
					b.reconciled("recorded")
				})
			})
		}
	}
}

func TestLoosenWaitsForStore(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.down()
		if _, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, "d1"); !errors.Is(err, storetest.ErrDown) {
			t.Errorf("releasing with the store down: got %v", err)
		}
		b.wantRouted("d1", false, "a report that was not stored")
		b.up()
		synctest.Wait()
		b.reconciled("store back")
		b.wantRouted("d1", false, "a report that was not stored, later")
	})
}

// Nothing is looser than its record: a record whose write was answered with an error is
// applied only when the watch brings it.
func TestLostAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "recorded" {
				return storetest.ErrDown
			}
			return nil
		})
		if _, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, "d1"); err == nil {
			t.Error("no error for a lost answer")
		}
		synctest.Wait()
		b.wantRouted("d1", true, "the watch brought the record")
		b.reconciled("lost answer")
	})
}

func TestConflict(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		r := b.enroll(enrolled(1, "staff", time.Now()))
		others := 0
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" && others < 3 {
				others++
				r.Owner = fmt.Sprintf("owner %d", others)
				r = b.store.Put(r) // another gateway writes the same record
			}
			return nil
		})
		b.compliant("d1")
		stored, _ := b.store.Get("d1")
		if stored.Owner != "owner 3" || stored.Stage != quarantine.Routed {
			t.Errorf("stored %q %s; want the other's owner and routed", stored.Owner, stored.Stage)
		}
		b.reconciled("after conflicts")
	})
}

func TestLeaseEnds(t *testing.T) {
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("store down %v", broken), func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.enroll(enrolled(1, "staff", time.Now()))
				b.compliant("d1")
				time.Sleep(time.Hour - 2*time.Second)
				synctest.Wait()
				b.wantRouted("d1", true, "two seconds before the end")
				if broken {
					b.down()
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if e := b.enforcer.Entry("d1"); len(e.Routed) != 0 || len(e.Quarantined) != 2 {
					t.Errorf("after the lease: %+v", e)
				}
				b.up()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				stored, _ := b.store.Get("d1")
				if stored.Stage != quarantine.Quarantined || !strings.Contains(stored.Reason, "no source with the right") {
					t.Errorf("stored after the lease: %s, %q", stored.Stage, stored.Reason)
				}
				changes := b.store.Changes()
				if last := changes[len(changes)-1]; last.Kind != quarantine.Lapse || last.By.Name != "gw" {
					t.Errorf("the last change is %+v, want a lapse", last)
				}
			})
		})
	}
}

func TestCertificateEnds(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		r := enrolled(1, "skip", time.Now())
		r.Certificate.NotAfter = time.Now().Add(30 * time.Minute).UTC()
		b.enroll(r)
		b.wantRouted("d1", true, "a profile that skips quarantine")
		if until := b.enforcer.Entry("d1").Until; until != b.boot()+firewall.Deadline(30*time.Minute) {
			t.Errorf("lease of %s, want the certificate's 30 minutes", time.Duration(until-b.boot()))
		}
		b.compliant("d1")
		if until := b.enforcer.Entry("d1").Until; until != b.boot()+firewall.Deadline(30*time.Minute) {
			t.Errorf("a report prolonged the lease beyond the certificate")
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if e := b.enforcer.Entry("d1"); len(e.Routed) != 0 || e.Key.IsZero() {
			t.Errorf("after the certificate: %+v, want quarantined", e)
		}
	})
}

// A bad report ends by itself; what that loosens is recorded before it is applied.
func TestBadReportEnds(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "skip", time.Now()))
		if _, err := b.report("scan", quarantine.NonCompliant, time.Now(), time.Minute, "d1"); err != nil {
			t.Fatal(err)
		}
		b.wantRouted("d1", false, "a scanner's bad report")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" {
				return storetest.ErrDown
			}
			return nil
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		b.wantRouted("d1", false, "the bad report ended and the store is down")
		b.reconciled("the bad report ended and the store is down")
		b.up()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		b.wantRouted("d1", true, "the bad report ended")
		changes := b.store.Changes()
		if last := changes[len(changes)-1]; last.Kind != quarantine.Review {
			t.Errorf("the last change is %q, want a review", last.Kind)
		}
	})
}

func TestRepeatedReports(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		until := b.enforcer.Entry("d1").Until
		n := len(b.store.Changes())
		for range 5 {
			time.Sleep(5 * time.Minute)
			if p, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, "d1"); err != nil || p.Stage != quarantine.Routed {
				t.Fatalf("a repeated report: %+v, %v", p, err)
			}
		}
		if got := len(b.store.Changes()); got != n || b.enforcer.Entry("d1").Until != until {
			t.Errorf("25 minutes of repeats: %d writes, lease moved by %d; want neither", got-n, b.enforcer.Entry("d1").Until-until)
		}
		time.Sleep(5 * time.Minute)
		b.compliant("d1")
		if got := len(b.store.Changes()); got != n+1 || b.enforcer.Entry("d1").Until != b.boot()+firewall.Deadline(time.Hour) {
			t.Errorf("a repeat after half the life: %d writes, want 1 and a new lease", got-n)
		}
		if _, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, "d1"); err != nil {
			t.Errorf("the same report again: %v", err)
		}
	})
}

func TestFreshness(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		time.Sleep(10 * time.Minute)
		b.wantRouted("d1", true, "ten minutes later")

		asked := firewall.Deadline(0)
		b.store.SetHook(func(ctx context.Context, step string, _ quarantine.ID) error {
			if step == "now" {
				asked = b.boot()
				time.Sleep(3 * time.Second) // a slow store: what it says is true of its beginning
			}
			return nil
		})
		time.Sleep(time.Minute)
		if got := b.enforcer.Freshness().Fresh; got > asked+firewall.Deadline(time.Minute) {
			t.Errorf("fresh until %d, more than a minute after the store was asked at %d", got, asked)
		}

		b.store.SetHook(func(ctx context.Context, step string, _ quarantine.ID) error {
			if step == "now" {
				return storetest.Stall(ctx)
			}
			return nil
		})
		time.Sleep(61 * time.Second)
		b.wantRouted("d1", false, "no linearizable read for a minute")

		b.up()
		time.Sleep(20 * time.Second)
		b.wantRouted("d1", true, "the store is back")
	})
}

// A watch that lags behind the store gives no freshness, however well reads go.
func TestFreshnessNeedsWatch(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.store.SetHook(func(ctx context.Context, step string, _ quarantine.ID) error {
			if step == "watch" {
				return storetest.Stall(ctx)
			}
			return nil
		})
		b.store.Touch() // wakes the watch, which then stalls
		b.store.Touch()
		time.Sleep(61 * time.Second)
		b.wantRouted("d1", false, "the watch is stuck")
		b.up()
		b.gate.Replan()
	})
}

func TestEnforcerComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.enforcer.Restart()
		b.gate.Replan()
		synctest.Wait()
		b.wantRouted("d1", true, "told of the restart")
		b.enforcer.Restart()
		time.Sleep(25 * time.Second)
		b.wantRouted("d1", true, "found out by a refused refresh")

		b.enforcer.SetHook(func(context.Context, string, quarantine.ID) error { return errors.New("no data plane") })
		p, err := b.gate.Approve(t.Context(), admin, "d1", "")
		if !errors.Is(err, quarantine.ErrNotEnforced) || p.Stage != quarantine.Routed {
			t.Errorf("a change without a data plane: %+v, %v; want ErrNotEnforced", p, err)
		}
		if _, err := b.gate.Block(t.Context(), admin, "d1", ""); !errors.Is(err, quarantine.ErrNotEnforced) {
			t.Errorf("a block without a data plane: %v; want ErrNotEnforced", err)
		}
		if x, err := b.gate.Explain("d1"); err != nil || x.Enforced || x.Problem == "" {
			t.Errorf("explained as enforced %v, problem %q, %v", x.Enforced, x.Problem, err)
		}
		b.enforcer.SetHook(nil)
		time.Sleep(10 * time.Second)
		if e := b.enforcer.Entry("d1"); !e.Key.IsZero() {
			t.Errorf("blocked, and the data plane holds %+v", e)
		}
		if x, err := b.gate.Explain("d1"); err != nil || !x.Enforced || x.Problem != "" || x.InForce.Stage != quarantine.Blocked {
			t.Errorf("explained as %+v, %v", x, err)
		}
	})
}

func TestSettingsChange(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		s := settings()
		staff := s.Profiles["staff"]
		staff.Pool = "other"
		s.Profiles["staff"] = staff
		b.store.Save(s)
		synctest.Wait()
		if got := b.enforcer.Entry("d1").Routed; len(got) != 1 || got[0] != netip.MustParseAddr("10.3.0.2") {
			t.Errorf("the profile has another pool: routed %v", got)
		}
		b.reconciled("another pool")
		delete(s.Sources, "mdm")
		b.store.Save(s)
		synctest.Wait()
		b.wantRouted("d1", false, "its source is gone")
		b.reconciled("source gone")

		p := s.Pools["other"]
		p.IPv4 = netip.MustParsePrefix("10.1.2.0/24")
		s.Pools["other"] = p
		_, plans, _ := b.enforcer.Counts()
		b.store.Save(s)
		time.Sleep(2 * time.Minute)
		if _, after, _ := b.enforcer.Counts(); after != plans {
			t.Error("a plan with overlapping pools was sent")
		}
		if b.enforcer.Freshness().Fresh > b.boot() {
			t.Error("fresh, with pools that cannot be enforced")
		}
		if st := b.gate.Status(); !strings.Contains(st.Problem, "overlap") {
			t.Errorf("status %+v names no overlap", st)
		}
	})
}

func TestCompactedAndGone(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.enroll(enrolled(2, "staff", time.Now()))
		b.compliant("d2")
		b.down()
		b.store.Touch() // ends the watch
		synctest.Wait()
		b.store.Delete("d1")
		r, _ := b.store.Get("d2")
		r.Block = quarantine.Decision{By: admin, At: time.Now()}
		r = b.store.Put(r)
		b.store.Compact(r.Revision)
		b.up()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := b.enforcer.Entries(); len(got) != 0 {
			t.Errorf("one device is gone and one blocked, and the data plane holds %v", got)
		}
		if _, err := b.gate.Device("d1"); !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("the deleted device: %v", err)
		}
		b.enroll(enrolled(3, "staff", time.Now()))
		b.store.Delete("d3")
		synctest.Wait()
		if e := b.enforcer.Entry("d3"); !e.Key.IsZero() {
			t.Errorf("deleted, and the data plane holds %+v", e)
		}
		if b.store.Confirmed() == 0 {
			t.Error("no plan was confirmed to the store")
		}
	})
}

func TestClockJump(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		ahead := time.Duration(0)
		var mu sync.Mutex
		b.stop()
		b.clock.Wall = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(ahead)
		}
		b.run()
		b.wantRouted("d1", true, "restarted")
		mu.Lock()
		ahead = 30 * time.Minute
		mu.Unlock()
		time.Sleep(3 * time.Second)
		if left := b.enforcer.Entry("d1").Until - b.boot(); left > firewall.Deadline(30*time.Minute) {
			t.Errorf("the wall clock went half an hour ahead, and the lease has %s left", time.Duration(left))
		}
	})
}

func TestWait(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		r := b.enroll(enrolled(1, "staff", time.Now()))
		type answer struct {
			r   quarantine.Record
			err error
		}
		got := make(chan answer, 1)
		ask := func(after int64) {
			r, err := b.gate.Wait(t.Context(), "d1", after)
			got <- answer{r, err}
		}
		go ask(r.Revision)
		synctest.Wait()
		select {
		case a := <-got:
			t.Fatalf("answered before a change: %+v", a)
		default:
		}
		began := time.Now()
		b.compliant("d1")
		a := <-got
		if a.err != nil || a.r.Stage != quarantine.Routed || a.r.Revision <= r.Revision || time.Since(began) > time.Millisecond {
			t.Errorf("got %s at %d, %v after %s", a.r.Stage, a.r.Revision, a.err, time.Since(began))
		}
		go ask(a.r.Revision)
		synctest.Wait()
		b.store.Delete("d1")
		if a := <-got; !errors.Is(a.err, quarantine.ErrUnknownDevice) {
			t.Errorf("the device went, and Wait says %v", a.err)
		}
	})
}

func TestRestartReplaysJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		path := filepath.Join(t.TempDir(), "journal")
		j, err := quarantine.OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		b.journal = j
		b.run()
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.down()
		if _, err := b.gate.Hold(t.Context(), admin, "d1", "odd"); err != nil {
			t.Fatal(err)
		}
		b.stop()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" {
				return storetest.ErrDown
			}
			return nil
		})
		if b.journal, err = quarantine.OpenJournal(path); err != nil {
			t.Fatal(err)
		}
		b.run()
		b.wantRouted("d1", false, "restarted with the hold only in the journal")
		if p, err := b.report("mdm", quarantine.Compliant, time.Now().Add(time.Second), time.Hour, "d1"); err == nil && p.Stage == quarantine.Routed {
			t.Error("released over a journalled hold")
		}
		b.up()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if stored, _ := b.store.Get("d1"); !stored.Hold.Set() || stored.Hold.Why != "odd" {
			t.Errorf("the hold is not in the record: %+v", stored.Hold)
		}
		if p := b.journal.Pending(); len(p) != 0 {
			t.Errorf("the journal still holds %v", p)
		}
		b.stop()
	})
}

func TestPeople(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "approved", time.Now()))
		if e := b.enforcer.Entry("d1"); !e.Key.IsZero() {
			t.Errorf("a pending device has a peer: %+v", e)
		}
		if p, err := b.report("mdm", quarantine.Compliant, time.Now(), time.Hour, "d1"); err != nil || p.Stage != quarantine.Pending {
			t.Errorf("a report on a pending device: %+v, %v", p.Stage, err)
		}
		steps := []struct {
			name string
			do   func() (quarantine.Placement, error)
			want quarantine.Stage
			err  error
		}{
			{"approve", func() (quarantine.Placement, error) { return b.gate.Approve(t.Context(), admin, "d1", "") }, quarantine.Routed, nil},
			{"hold", func() (quarantine.Placement, error) { return b.gate.Hold(t.Context(), admin, "d1", "") }, quarantine.Quarantined, nil},
			{"approve again", func() (quarantine.Placement, error) { return b.gate.Approve(t.Context(), admin, "d1", "") }, quarantine.Routed, nil},
			{"block", func() (quarantine.Placement, error) { return b.gate.Block(t.Context(), admin, "d1", "") }, quarantine.Blocked, nil},
			{"approve a blocked one", func() (quarantine.Placement, error) { return b.gate.Approve(t.Context(), admin, "d1", "") }, quarantine.Blocked, nil},
			{"unblock", func() (quarantine.Placement, error) { return b.gate.Unblock(t.Context(), admin, "d1", "") }, quarantine.Routed, nil},
			{"revoke", func() (quarantine.Placement, error) { return b.gate.Revoke(t.Context(), admin, "d1", "") }, quarantine.Revoked, nil},
			{"unblock a revoked one", func() (quarantine.Placement, error) { return b.gate.Unblock(t.Context(), admin, "d1", "") }, quarantine.Revoked, quarantine.ErrFinal},
			{"approve a revoked one", func() (quarantine.Placement, error) { return b.gate.Approve(t.Context(), admin, "d1", "") }, quarantine.Revoked, quarantine.ErrFinal},
		}
		for _, s := range steps {
			p, err := s.do()
			if p.Stage != s.want || !errors.Is(err, s.err) {
				t.Errorf("%s: %s, %v; want %s, %v", s.name, p.Stage, err, s.want, s.err)
			}
			b.reconciled(s.name)
		}
		var kinds []quarantine.Kind
		for _, c := range b.store.Changes() {
			kinds = append(kinds, c.Kind)
		}
		want := []quarantine.Kind{"report", "approve", "quarantine", "approve", "block", "approve", "unblock", "revoke"}
		if !slices.Equal(kinds, want) {
			t.Errorf("recorded %v, want %v", kinds, want)
		}
	})
}
