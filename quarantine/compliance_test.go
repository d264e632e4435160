package quarantine_test

import (
	"context"
	"errors"
	"fmt"
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
