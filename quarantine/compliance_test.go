package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// withSets runs a test with a gate that judges by rulesPolicy and sets.
func withSets(t *testing.T, change func(*storetest.Settings), test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.policy = rulesPolicy{}
		b.save(change)
		b.run()
		defer func() { b.stop() }()
		test(t, b)
	})
}

// save changes the settings.
func (b *bench) save(change func(*storetest.Settings)) {
	s := settings()
	mdm := s.Sources["mdm"]
	mdm.Facts = []string{"*"}
	s.Sources["mdm"] = mdm
	s.Sets = map[string]quarantine.PolicySet{}
	if change != nil {
		change(&s)
	}
	b.store.Save(s)
}

func (b *bench) says(facts ...string) (quarantine.Placement, error) {
	return b.saysFor(time.Hour, facts...)
}

// saysFor is mdm's compliant word on d1, with facts like "disk=on".
func (b *bench) saysFor(validity time.Duration, facts ...string) (quarantine.Placement, error) {
	r := quarantine.Report{Device: "d1", Source: "mdm", Verdict: quarantine.Compliant, At: time.Now(), Validity: validity, Facts: map[string]string{}}
	for _, f := range facts {
		k, v, _ := strings.Cut(f, "=")
		r.Facts[k] = v
	}
	return b.gate.Report(b.t.Context(), token, r)
}

func (b *bench) stands(want quarantine.Stage, when string) quarantine.Record {
	b.t.Helper()
	synctest.Wait()
	r, err := b.gate.Device("d1")
	if err != nil || r.Stage != want {
		b.t.Errorf("%s: %s (%s), %v; want %s", when, r.Stage, r.Reason, err, want)
	}
	b.wantRouted("d1", want == quarantine.Routed, when)
	if peer := !b.enforcer.Entry("d1").Key.IsZero(); peer != (want == quarantine.Routed || want == quarantine.Quarantined) {
		b.t.Errorf("%s: has a peer is %v", when, peer)
	}
	return r
}

// A source speaks for its devices and of its facts. What it says beyond is refused whole, and
// nothing of it is stored.
func TestSourcesSpeakWithinTheirScope(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		s.Sources["linux"] = quarantine.Source{Name: "linux", MayRelease: true, For: quarantine.Selection{Platforms: []string{"linux"}}, Facts: []string{"*"}}
		s.Sources["finance"] = quarantine.Source{Name: "finance", For: quarantine.Selection{Groups: []string{"finance"}}, Facts: []string{"disk.encrypted", "os.*"}}
		s.Sources["mute"] = quarantine.Source{Name: "mute"}
	}, func(t *testing.T, b *bench) {
		r := enrolled(1, "staff", time.Now())
		r.Platform = "windows"
		b.enroll(r)
		report := func(by quarantine.Actor, source string, facts ...string) error {
			n := quarantine.Report{Device: "d1", Source: source, Verdict: quarantine.NonCompliant, At: time.Now(), Facts: map[string]string{}}
			for _, f := range facts {
				n.Facts[f] = "true"
			}
			time.Sleep(time.Second)
			before, _ := b.store.Get("d1")
			_, err := b.gate.Report(t.Context(), by, n)
			synctest.Wait()
			if after, _ := b.store.Get("d1"); err != nil && after.Revision != before.Revision {
				t.Errorf("%s saying %v was refused and stored", source, facts)
			}
			return err
		}
		source := func(name string) quarantine.Actor { return quarantine.Actor{Kind: "source", Name: name} }
		gateway := quarantine.Actor{Kind: "gateway", Name: "gw"}
		for _, c := range []struct {
			what   string
			by     quarantine.Actor
			source string
			facts  []string
			want   error
		}{
			{"another platform's", source("linux"), "linux", nil, quarantine.ErrForbidden},
			{"another group's", source("finance"), "finance", nil, quarantine.ErrForbidden},
			{"one that speaks of nothing", source("mute"), "mute", []string{"os.name"}, quarantine.ErrForbidden},
			{"one that speaks of nothing, and does not", source("mute"), "mute", nil, nil},
			{"in another's name", source("mute"), "mdm", nil, quarantine.ErrForbidden},
			{"as the agent", source("mdm"), quarantine.AgentSource, nil, quarantine.ErrForbidden},
			{"any fact", source("mdm"), "mdm", []string{"anything", "at.all"}, nil},
			{"any fact but the gateway's own", source("mdm"), "mdm", []string{quarantine.AttestedFact}, quarantine.ErrForbidden},
			{"the agent of itself", agent("d1"), quarantine.AgentSource, []string{"anything"}, nil},
			{"the agent that it is attested", agent("d1"), quarantine.AgentSource, []string{quarantine.AttestedFact}, quarantine.ErrForbidden},
			{"the gateway that the agent is", gateway, quarantine.AgentSource, []string{quarantine.AttestedFact}, nil},
			{"another's agent", agent("d2"), quarantine.AgentSource, nil, quarantine.ErrForbidden},
		} {
			if err := report(c.by, c.source, c.facts...); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.what, err, c.want)
			}
		}
		if _, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.Regroup, Device: "d1", Groups: []string{"finance", "all"}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for fact, want := range map[string]error{"os.name": nil, "disk.encrypted": nil, "osx.name": quarantine.ErrForbidden, "disk.encrypted.x": quarantine.ErrForbidden} {
			if err := report(source("finance"), "finance", fact); !errors.Is(err, want) {
				t.Errorf("finance about %s: %v, want %v", fact, err, want)
			}
		}
	})
}

// Who may bring what: nobody but those that are named, and sources nothing but reports and the
// end of a session.
func TestWhoMayBringWhat(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		r := enrolled(1, "staff", time.Now())
		r.Owner = "ann"
		b.enroll(r)
		until := time.Now().Add(time.Hour)
		for kind, allowed := range map[quarantine.Kind]string{
			quarantine.Approve: "administrator token", quarantine.Unblock: "administrator token", quarantine.Clear: "administrator token",
			quarantine.Unwipe: "administrator token", quarantine.Regroup: "administrator token",
			quarantine.SignIn: "administrator token gateway", quarantine.SignOut: "administrator token gateway source device",
			quarantine.Contact: "administrator token gateway device", quarantine.Wipe: "administrator token gateway policy",
		} {
			for _, by := range []string{"administrator", "token", "gateway", "source", "device", "otp", "policy", "stranger", "user", ""} {
				c := quarantine.Change{Kind: kind, Device: "d1", Rule: "a/b", Until: until, Why: "because", Session: &quarantine.UserSession{User: "ann"}}
				time.Sleep(time.Second)
				_, err := b.gate.Change(t.Context(), quarantine.Actor{Kind: by, Name: "d1"}, c)
				if ok := by != "" && slices.Contains(strings.Fields(allowed), by); ok != (err == nil) || !ok && !errors.Is(err, quarantine.ErrForbidden) {
					t.Errorf("%s by %q: %v, want allowed %v", kind, by, err, ok)
				}
			}
		}
	})
}

// A pool that asks for its users routes a device only while its owner's session lasts, and
// the release ends with it, on time (G3, G5).
func TestPoolAsksForItsUser(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		p := s.Pools["full"]
		p.NeedUser = true
		s.Pools["full"] = p
	}, func(t *testing.T, b *bench) {
		r := enrolled(1, "staff", time.Now())
		r.Owner = "ann"
		b.enroll(r)
		signIn := func(s quarantine.UserSession) (quarantine.Placement, error) {
			return b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.SignIn, Device: "d1", Session: &s})
		}
		b.saysFor(2 * time.Hour)
		if x := b.stands(quarantine.Quarantined, "without a session"); x.Reasons[0].Rule != quarantine.RuleUser {
			t.Errorf("the reason is %+v", x.Reasons[0])
		}
		if _, err := signIn(quarantine.UserSession{User: "bob"}); !errors.Is(err, quarantine.ErrNotOwner) {
			t.Errorf("another user's session: %v", err)
		}
		if _, err := signIn(quarantine.UserSession{User: "ann", At: time.Now().Add(time.Hour)}); !errors.Is(err, quarantine.ErrFuture) {
			t.Errorf("a session of later: %v", err)
		}
		begin := time.Now()
		p, err := signIn(quarantine.UserSession{User: "ann", Until: begin.Add(30 * time.Minute)})
		if err != nil || p.Stage != quarantine.Routed || !p.Until.Equal(begin.Add(30*time.Minute)) {
			t.Fatalf("signed in: %+v, %v; want routed until the session's end", p, err)
		}
		b.stands(quarantine.Routed, "signed in")
		time.Sleep(30*time.Minute - time.Second)
		b.wantRouted("d1", true, "in the last second")
		time.Sleep(time.Second)
		b.stands(quarantine.Quarantined, "after the session")

		// The longest that one may ask for is the conduct's, and that is 2 hours unless it says.
		b.saysFor(2 * time.Hour)
		time.Sleep(time.Minute)
		if _, err := signIn(quarantine.UserSession{User: "ann", Until: time.Now().Add(100 * time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if x := b.stands(quarantine.Routed, "signed in for long"); x.Session.Until.Sub(x.Session.At) != 2*time.Hour {
			t.Errorf("a session of %s", x.Session.Until.Sub(x.Session.At))
		}
		at := time.Now()
		time.Sleep(time.Minute)
		if p, err := b.gate.Change(t.Context(), agent("d1"), quarantine.Change{Kind: quarantine.SignOut, Device: "d1"}); err != nil || p.Stage != quarantine.Quarantined {
			t.Errorf("signing out: %+v, %v", p, err)
		}
		b.stands(quarantine.Quarantined, "signed out")
		if _, err := signIn(quarantine.UserSession{User: "ann", At: at}); !errors.Is(err, quarantine.ErrStale) {
			t.Errorf("a session that began before it was ended: %v", err)
		}
		b.stands(quarantine.Quarantined, "signed out, and an older session told again")
		time.Sleep(time.Second)
		if _, err := signIn(quarantine.UserSession{User: "ann"}); err != nil {
			t.Fatal(err)
		}
		b.stands(quarantine.Routed, "signed in again")

		// A shorter life, decided later, holds for the session that there is.
		b.save(func(s *storetest.Settings) {
			p := s.Pools["full"]
			p.NeedUser = true
			s.Pools["full"] = p
			s.Conduct.SessionLife = 10 * time.Minute
		})
		time.Sleep(9 * time.Minute)
		b.stands(quarantine.Routed, "within the shorter life")
		time.Sleep(2 * time.Minute)
		b.stands(quarantine.Quarantined, "after it")
	})
}

// Signing out does not wait for the store, and is not lost when the gate dies before it.
func TestSigningOutIsATightening(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		p := s.Pools["full"]
		p.NeedUser = true
		s.Pools["full"] = p
	}, func(t *testing.T, b *bench) {
		r := enrolled(1, "staff", time.Now())
		r.Owner = "ann"
		b.enroll(r)
		b.saysFor(2 * time.Hour)
		if _, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.SignIn, Device: "d1", Session: &quarantine.UserSession{User: "ann"}}); err != nil {
			t.Fatal(err)
		}
		b.stands(quarantine.Routed, "signed in")
		b.down()
		time.Sleep(time.Second)
		if _, err := b.gate.Change(t.Context(), quarantine.Actor{Kind: "source", Name: "mdm"}, quarantine.Change{Kind: quarantine.SignOut, Device: "d1"}); err != nil {
			t.Fatal(err)
		}
		b.stands(quarantine.Quarantined, "signed out with the store down")
		b.stop()
		b.up()
		b.run()
		b.stands(quarantine.Quarantined, "after a restart")
		if x, _ := b.store.Get("d1"); x.Session.User != "" {
			t.Errorf("stored: %+v", x.Session)
		}
	})
}

// A rule that blocks does so at once and until a person unblocks, whatever is said next; and
// that person's word holds for a day.
func TestPolicyBlocksUntilAPersonUnblocks(t *testing.T) {
	set := func(s *storetest.Settings) {
		s.Sets["baseline"] = oneRule("baseline", "jailbroken=no", quarantine.FailBlock, 0)
	}
	withSets(t, set, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.says("jailbroken=no")
		b.stands(quarantine.Routed, "while all is well")
		time.Sleep(time.Minute)
		b.down()
		if p, err := b.says("jailbroken=yes"); err != nil || p.Stage != quarantine.Blocked {
			t.Errorf("jailbroken: %+v, %v; want blocked", p, err)
		}
		b.stands(quarantine.Blocked, "with the store down")
		time.Sleep(time.Second)
		_, err := b.says("jailbroken=no") // supersedes the bad one, of which nothing is recorded yet
		if err == nil {
			t.Error("what loosens was taken without the store")
		}
		b.report("mdm", quarantine.NonCompliant, time.Now(), time.Minute, "d1") // and this one does, as it tightens
		b.stands(quarantine.Blocked, "after a newer report that does not ask for it")
		b.up()
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := b.says("jailbroken=no"); err != nil {
			t.Fatal(err)
		}
		r := b.stands(quarantine.Blocked, "when all is well again")
		if r.Block.By != (quarantine.Actor{Kind: "policy", Name: "baseline v1/only"}) || r.Block.Why != "jailbroken is not no" {
			t.Errorf("blocked by %+v", r.Block)
		}
		b.stop()
		b.run()
		b.stands(quarantine.Blocked, "after a restart")
		blocks := 0
		for _, c := range b.store.Changes() {
			if c.Kind == quarantine.Block && c.By.Kind == "policy" {
				blocks++
			}
		}
		if blocks != 1 {
			t.Errorf("the block was recorded %d times", blocks)
		}
		time.Sleep(time.Minute)
		b.says("jailbroken=yes")
		if _, err := b.gate.Unblock(t.Context(), admin, "d1", "I have it before me"); err != nil {
			t.Fatal(err)
		}
		if r := b.stands(quarantine.Routed, "unblocked"); r.Waivers["baseline/only"].Until.Sub(r.Unblocking.At) != 24*time.Hour {
			t.Errorf("waivers %+v", r.Waivers)
		}
		for range 30 {
			time.Sleep(30 * time.Minute)
			b.says("jailbroken=yes")
		}
		b.stands(quarantine.Routed, "within the day")
		for range 20 {
			time.Sleep(30 * time.Minute)
			b.says("jailbroken=yes")
		}
		if r := b.stands(quarantine.Blocked, "a day later"); len(r.Waivers) != 0 {
			t.Errorf("waivers that are over: %+v", r.Waivers)
		}
	})
}

// Blocks and wipes follow from what is known; what is missing only quarantines.
func TestMissingFactsBlockNobody(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		s.Sets["a"] = oneRule("a", "jailbroken=no", quarantine.FailBlock, 0)
		s.Sets["b"] = oneRule("b", "tampered=no", quarantine.FailWipe, 0)
	}, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.says()
		if r := b.stands(quarantine.Quarantined, "nothing known"); r.Block.Set() || r.Wipe.Set() {
			t.Errorf("block %+v, wipe %+v", r.Block, r.Wipe)
		}
		time.Sleep(time.Minute)
		b.says("jailbroken=no", "tampered=yes")
		r := b.stands(quarantine.Quarantined, "tampered")
		if !r.Wipe.Set() || r.Block.Set() || r.Reasons[0].Rule != quarantine.RuleWipe {
			t.Errorf("block %+v, wipe %+v, reasons %+v", r.Block, r.Wipe, r.Reasons)
		}
		time.Sleep(time.Minute)
		b.says("jailbroken=no", "tampered=no")
		b.stands(quarantine.Quarantined, "ordered to wipe, and well")
		if _, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.Unwipe, Device: "d1", Why: "a mistake"}); err != nil {
			t.Fatal(err)
		}
		b.stands(quarantine.Routed, "the order taken back")
		if _, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.Wipe, Device: "d1", Why: "stolen"}); err != nil {
			t.Fatal(err)
		}
		if r := b.stands(quarantine.Quarantined, "a person's order"); !strings.Contains(r.Reason, "stolen") {
			t.Errorf("reason %q", r.Reason)
		}
	})
}

// Grace runs from when the rule began to fail, is not begun anew by further reports, a
// restart or a store that is down, and ends on time; a device that is not routed has none.
func TestGraceEndsOnTime(t *testing.T) {
	set := func(s *storetest.Settings) {
		s.Sets["soft"] = oneRule("soft", "patched=yes", quarantine.FailQuarantine, 40*time.Minute)
	}
	withSets(t, set, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.says("patched=no")
		b.stands(quarantine.Quarantined, "never routed, so no grace")
		time.Sleep(time.Second)
		b.says("patched=yes")
		if r := b.stands(quarantine.Routed, "patched"); len(r.Failing) != 0 {
			t.Errorf("failing %v", r.Failing)
		}
		time.Sleep(time.Minute)
		began := time.Now().UTC()
		b.says("patched=no")
		want := map[string]time.Time{"soft/only": began}
		if r := b.stands(quarantine.Routed, "in its grace"); cmp.Diff(want, r.Failing) != "" || !r.Until.Equal(began.Add(40*time.Minute)) {
			t.Errorf("failing %v until %s; want since %s, for 40 minutes", r.Failing, r.Until, began)
		}
		time.Sleep(10 * time.Minute)
		b.says("patched=no")
		b.stop()
		b.run()
		time.Sleep(10 * time.Minute)
		b.says("patched=no")
		if r, _ := b.store.Get("d1"); cmp.Diff(want, r.Failing) != "" {
			t.Errorf("stored as failing %v, want %v", r.Failing, want)
		}
		b.stands(quarantine.Routed, "20 minutes later")
		time.Sleep(19 * time.Minute)
		b.stands(quarantine.Routed, "39 minutes later")
		time.Sleep(time.Minute)
		b.stands(quarantine.Quarantined, "when its grace is over")
		b.reconciled("when its grace is over")
	})
}

// A store that is down makes no grace longer.
func TestGraceEndsOnTimeWithoutTheStore(t *testing.T) {
	set := func(s *storetest.Settings) {
		s.Sets["soft"] = oneRule("soft", "patched=yes", quarantine.FailQuarantine, 10*time.Minute)
	}
	withSets(t, set, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.says("patched=yes")
		time.Sleep(time.Minute)
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" {
				return storetest.ErrDown
			}
			return nil
		})
		b.says("patched=no")
		b.stands(quarantine.Routed, "in its grace")
		for range 9 {
			time.Sleep(time.Minute)
			b.save(set) // has every device decided on anew
			b.stands(quarantine.Routed, "in its grace")
		}
		time.Sleep(time.Minute)
		b.stands(quarantine.Quarantined, "when its grace is over")
	})
}

// A waiver lets a rule fail for its time, is a person's, and says why.
func TestWaivers(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		s.Sets["hard"] = oneRule("hard", "disk=on", quarantine.FailQuarantine, 0)
	}, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.saysFor(2*time.Hour, "disk=off")
		b.stands(quarantine.Quarantined, "disk off")
		waive := func(rule string, life time.Duration, why string) error {
			_, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.Clear, Device: "d1", Rule: rule, Until: time.Now().Add(life), Why: why})
			return err
		}
		for what, err := range map[string]error{
			"no reason":     waive("hard/only", time.Hour, ""),
			"no rule":       waive("", time.Hour, "x"),
			"a whole set":   waive("hard", time.Hour, "x"),
			"in the past":   waive("hard/only", -time.Hour, "x"),
			"for too long":  waive("hard/only", 31*24*time.Hour, "x"),
			"no such names": waive("Hard/On ly", time.Hour, "x"),
		} {
			if !errors.Is(err, quarantine.ErrMalformed) {
				t.Errorf("%s: %v, want ErrMalformed", what, err)
			}
		}
		if err := waive("hard/only", time.Hour, "a new disk is on its way"); err != nil {
			t.Fatal(err)
		}
		if r := b.stands(quarantine.Routed, "waived"); r.Waivers["hard/only"].Why != "a new disk is on its way" || r.Waivers["hard/only"].By != admin {
			t.Errorf("waivers %+v", r.Waivers)
		}
		time.Sleep(time.Hour)
		b.stands(quarantine.Quarantined, "when it is over")
		if r, _ := b.store.Get("d1"); len(r.Waivers) != 0 {
			t.Errorf("stored waivers %+v", r.Waivers)
		}
	})
}

// Contacts are kept to within hours, and a device's reports are contacts.
func TestContact(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		touch := func() time.Time {
			if _, err := b.gate.Contact(t.Context(), agent("d1"), "d1"); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			r, _ := b.store.Get("d1")
			return r.Seen
		}
		first := time.Now().UTC()
		if got := touch(); !got.Equal(first) {
			t.Errorf("seen %s, want %s", got, first)
		}
		before := len(b.store.Changes())
		for range 6 {
			time.Sleep(time.Hour)
			touch()
		}
		if got := touch(); !got.Equal(first) || len(b.store.Changes()) != before {
			t.Errorf("within 6 hours: seen %s, %d writes", got, len(b.store.Changes())-before)
		}
		time.Sleep(time.Minute)
		now := time.Now().UTC()
		if got := touch(); !got.Equal(now) {
			t.Errorf("seen %s, want %s", got, now)
		}
		time.Sleep(time.Hour)
		b.report(quarantine.AgentSource, "", time.Now(), 0, "d1")
		synctest.Wait()
		if r, _ := b.store.Get("d1"); !r.Seen.Equal(time.Now()) {
			t.Errorf("seen %s after a report", r.Seen)
		}
	})
}

// Another set judges every device anew, and Try says beforehand which would move.
func TestSetsJudgeAnewAndTryTells(t *testing.T) {
	withSets(t, nil, func(t *testing.T, b *bench) {
		for n := 1; n <= 3; n++ {
			r := enrolled(n, "staff", time.Now())
			r.Platform = map[bool]string{true: "linux", false: "windows"}[n < 3]
			b.enroll(r)
			facts := map[string]string{"disk": map[bool]string{true: "on", false: "off"}[n == 1]}
			if _, err := b.gate.Report(t.Context(), token, quarantine.Report{Device: r.ID, Source: "mdm", Verdict: quarantine.Compliant, At: time.Now(), Validity: time.Hour, Facts: facts}); err != nil {
				t.Fatal(err)
			}
		}
		set := oneRule("disks", "disk=on", quarantine.FailQuarantine, 0)
		set.For.Platforms = []string{"linux"}
		before := len(b.store.Changes())
		trials := b.gate.Try(map[string]quarantine.PolicySet{"disks": set}, quarantine.Conduct{})
		if len(trials) != 1 || trials[0].Record.ID != "d2" || trials[0].Now.Stage != quarantine.Routed || trials[0].Then.Stage != quarantine.Quarantined ||
			trials[0].Then.Reasons[0].Set != "disks" || fmt.Sprint(trials[0].Then.Failing) != "[disks/only]" {
			t.Errorf("tried: %+v", trials)
		}
		synctest.Wait()
		if n := len(b.store.Changes()) - before; n != 0 {
			t.Errorf("a trial recorded %d changes", n)
		}
		for n, want := range map[int]bool{1: true, 2: true, 3: true} {
			b.wantRouted(quarantine.ID(fmt.Sprintf("d%d", n)), want, "after the trial")
		}
		b.save(func(s *storetest.Settings) { s.Sets["disks"] = set })
		synctest.Wait()
		for n, want := range map[int]bool{1: true, 2: false, 3: true} {
			b.wantRouted(quarantine.ID(fmt.Sprintf("d%d", n)), want, "with the set")
		}
		r, _ := b.store.Get("d2")
		if why := r.Reasons[0]; r.Stage != quarantine.Quarantined || why.Set != "disks" || why.Version != 1 || why.Fact != "disk" || why.Source != "mdm" || why.At.IsZero() || why.Remedy == "" {
			t.Errorf("recorded as %s because of %+v", r.Stage, r.Reasons[0])
		}
		b.reconciled("with the set")
		b.save(nil)
		synctest.Wait()
		b.wantRouted("d2", true, "without the set")
	})
}

// A report with other facts is no repeat of the last one, however alike they are.
func TestOtherFactsAreNoRepeat(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		s.Sets["hard"] = oneRule("hard", "disk=on", quarantine.FailQuarantine, 0)
	}, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.says("disk=on")
		b.stands(quarantine.Routed, "disk on")
		time.Sleep(time.Second)
		b.says("disk=off")
		b.stands(quarantine.Quarantined, "disk off, a second later")
		time.Sleep(time.Second)
		b.says("disk=on")
		b.stands(quarantine.Routed, "disk on again")
	})
}

// A rule that asks for young facts gets them while the source goes on to say them, though each
// report says what the last one did; and not every one of them is recorded.
func TestYoungFactsStayYoung(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		set := oneRule("young", "disk=on", quarantine.FailQuarantine, 0)
		set.Rules[0].CheckEvery = 10 * time.Minute
		s.Sets["young"] = set
	}, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.says("disk=on")
		before := len(b.store.Changes())
		for range 120 {
			b.stands(quarantine.Routed, "while mdm goes on")
			time.Sleep(time.Minute)
			b.says("disk=on")
		}
		if n := len(b.store.Changes()) - before; n < 20 || n > 26 {
			t.Errorf("%d of 120 repeats were recorded, want one in 5 minutes", n)
		}
		time.Sleep(11 * time.Minute)
		b.stands(quarantine.Quarantined, "when mdm has fallen silent")
		b.says("disk=on")
		b.stands(quarantine.Routed, "when mdm speaks again, well within the life of its last report")
	})
}

// What an agent said before its device enrolled again, or was restored, is no word that could
// be enough.
func TestAgentsFormerWordReleasesNobody(t *testing.T) {
	now := time.Now().UTC()
	set := oneRule("agent", "disk=on", quarantine.FailQuarantine, 0)
	set.AgentReleases = true
	old := enrolled(1, "staff", now)
	old.Reports = map[string]quarantine.Report{
		quarantine.AgentSource: {Device: "d1", Source: quarantine.AgentSource, At: now, Received: now, Validity: time.Hour, Facts: map[string]string{"disk": "on"}},
	}
	s := settings()
	pools := maps.Clone(s.Pools)
	full := pools["full"]
	full.Mark = 1
	pools["full"] = full
	place := func(r quarantine.Record) quarantine.Stage {
		return quarantine.Place(quarantine.Facts{Now: now.Add(time.Second), Record: r, Profile: s.Profiles["staff"], Pools: pools, Sources: s.Sources,
			Sets: map[string]quarantine.PolicySet{"agent": set}, Policy: rulesPolicy{}}).Stage
	}
	if got := place(old); got != quarantine.Routed {
		t.Fatalf("its agent's word is enough, and it is %s", got)
	}
	again := enrolled(2, "staff", now)
	again.Reports = old.Outlived()
	restored := old.Restored(quarantine.Restoration{By: admin, At: now, Pools: pools, Profiles: s.Profiles, Sources: s.Sources,
		Sets: map[string]quarantine.PolicySet{"agent": set}, Policy: rulesPolicy{}})
	for what, r := range map[string]quarantine.Record{"enrolled again": again, "restored": restored} {
		r.Reports["scan"] = quarantine.Report{Device: r.ID, Source: "scan", At: now, Received: now, Validity: time.Hour, Facts: map[string]string{"disk": "on"}}
		if got := place(r); got != quarantine.Quarantined || r.Hold.Set() {
			t.Errorf("%s: %s, hold %+v", what, got, r.Hold)
		}
	}
}

// confused releases a device and asks for more than quarantine at the same time.
type confused struct{ demand quarantine.FailureAction }

func (c confused) Judge(f quarantine.Facts) quarantine.Judgement {
	return quarantine.Judgement{Release: true, Clear: true, Until: f.Now.Add(time.Hour), Demand: c.demand}
}

// What a policy demands goes before what it releases, and an order by an unknown rule is one.
func TestDemandGoesBeforeRelease(t *testing.T) {
	now := time.Now().UTC()
	s := settings()
	pools := map[string]quarantine.Pool{}
	for name, p := range s.Pools {
		if !p.Quarantine {
			p.Mark = 1
		}
		pools[name] = p
	}
	for _, profile := range []string{"staff", "skip", "fixed"} {
		r := enrolled(1, profile, now)
		for demand, want := range map[quarantine.FailureAction]quarantine.Stage{
			"": quarantine.Routed, quarantine.FailWipe: quarantine.Quarantined, quarantine.FailBlock: quarantine.Blocked, quarantine.FailQuarantine: quarantine.Routed,
		} {
			p := quarantine.Place(quarantine.Facts{Now: now, Record: r, Profile: s.Profiles[profile], Pools: pools, Sources: s.Sources, Policy: confused{demand}})
			got := r.Settle(p, now)
			if p.Stage != want || got.Block.Set() != (demand == quarantine.FailBlock) || got.Wipe.Set() != (demand == quarantine.FailWipe) {
				t.Errorf("%s, demand %q: %s, block %+v, wipe %+v", profile, demand, p.Stage, got.Block, got.Wipe)
			}
			if p.Stage != quarantine.Routed && (len(p.Reasons) == 0 || p.Reasons[0].Holds || p.Reasons[0].Remedy == "") {
				t.Errorf("%s, demand %q: reasons %+v", profile, demand, p.Reasons)
			}
		}
	}
}

// Every built-in rule that does not hold says what would change it.
func TestReasonsHaveRemedies(t *testing.T) {
	now := time.Now().UTC()
	s := settings()
	full := s.Pools["full"]
	full.NeedUser = true
	s.Pools["full"] = full
	d := quarantine.Decision{By: admin, At: now}
	for what, spoil := range map[string]func(*quarantine.Record){
		quarantine.RuleRevocation: func(r *quarantine.Record) { r.Revocation = d }, quarantine.RuleBlock: func(r *quarantine.Record) { r.Block = d },
		quarantine.RuleHold: func(r *quarantine.Record) { r.Hold = d }, quarantine.RuleWipe: func(r *quarantine.Record) { r.Wipe = d },
		quarantine.RuleApproval: func(r *quarantine.Record) { r.Profile = "approved" }, quarantine.RuleProfile: func(r *quarantine.Record) { r.Profile = "gone" },
		quarantine.RuleCertificate: func(r *quarantine.Record) { r.Certificate.NotAfter = now }, quarantine.RuleProof: func(r *quarantine.Record) { r.Proven = false },
		quarantine.RuleFacts: func(r *quarantine.Record) { r.Seat = 0 }, quarantine.RulePool: func(*quarantine.Record) {}, quarantine.RuleUser: func(*quarantine.Record) {},
		"release": func(*quarantine.Record) {},
	} {
		r := enrolled(1, "staff", now)
		spoil(&r)
		p := quarantine.Place(quarantine.Facts{Now: now, Record: r, Profile: s.Profiles[r.Profile], Pools: s.Pools, Sources: s.Sources, Policy: quarantine.PlainPolicy{}})
		at := slices.IndexFunc(p.Reasons, func(x quarantine.Reason) bool { return x.Rule == what && !x.Holds })
		if at < 0 || p.Reasons[at].Remedy == "" {
			t.Errorf("%s: reasons %+v", what, p.Reasons)
		}
	}
}

// What comes back with an earlier copy of the store: nobody's session and nobody's waiver, and
// every order to wipe.
func TestRestoredCompliance(t *testing.T) {
	now := time.Now().UTC()
	s := settings()
	order := quarantine.Decision{By: quarantine.Actor{Kind: "policy", Name: "a v1/b"}, At: now, Why: "x"}
	r := enrolled(1, "staff", now)
	r.Session = quarantine.UserSession{User: "ann", At: now, Until: now.Add(time.Hour)}
	r.Waivers = map[string]quarantine.Waiver{"a/b": {Decision: order, Until: now.Add(time.Hour)}}
	wiped := r
	wiped.Wipe = order
	x := quarantine.Restoration{By: admin, At: now.Add(time.Minute), Pools: s.Pools, Profiles: s.Profiles, Sources: s.Sources, Policy: rulesPolicy{},
		Denied: quarantine.Denials([]quarantine.Record{wiped})}
	got := r.Restored(x)
	if got.Session.User != "" || !got.Session.At.Equal(x.At) || len(got.Waivers) != 0 || got.Wipe != order {
		t.Errorf("restored as %+v", got)
	}
	if r.Session.User == "" || len(r.Waivers) != 1 {
		t.Error("the record itself was changed")
	}
}
