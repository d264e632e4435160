package quarantine_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/policy"
	"lazaret/quarantine/storetest"
)

// withEngine runs a test with a gate that judges by the policy engine.
func withEngine(t *testing.T, change func(*storetest.Settings), test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.policy = policy.New(policy.Config{})
		b.save(change)
		b.run()
		defer func() { b.stop() }()
		test(t, b)
	})
}

// tell brings a report of a source, with facts in pairs.
func (b *bench) tell(source string, v quarantine.Verdict, validity time.Duration, facts ...string) {
	b.t.Helper()
	r := quarantine.Report{Device: "d1", Source: source, Verdict: v, At: time.Now(), Validity: validity, Facts: map[string]string{}}
	for i := 0; i < len(facts); i += 2 {
		r.Facts[facts[i]] = facts[i+1]
	}
	by := token
	if source == quarantine.AgentSource {
		by = agent("d1")
	}
	if _, err := b.gate.Report(b.t.Context(), by, r); err != nil {
		b.t.Errorf("report of %s: %v", source, err)
	}
	synctest.Wait()
}

// A rule that cannot be evaluated keeps a device in quarantine, also one whose profile skips it.
func TestFaultIsNoWhereTheProfileSkips(t *testing.T) {
	for _, expression := range []string{`100 / os.updates_pending > 10`, `disk.encryptd`} {
		set := func(s *storetest.Settings) {
			s.Sets["set"] = oneRule("set", expression, quarantine.FailBlock, 0)
			m := s.Sources["mdm"]
			m.Facts = []string{"*"}
			s.Sources["mdm"] = m
		}
		withEngine(t, set, func(t *testing.T, b *bench) {
			b.enroll(enrolled(1, "skip", time.Now()))
			b.tell("mdm", "", time.Hour, "os.updates_pending", "0")
			b.stands(quarantine.Quarantined, "under a rule that is in error: "+expression)
		})
	}
}

// Facts that fail a rule, said again, hold the device for as long as the last word of them lasts.
func TestRepeatedBadFactsLast(t *testing.T) {
	set := func(s *storetest.Settings) {
		s.Sources["mdm"] = quarantine.Source{Name: "mdm", MayRelease: true, Facts: []string{"*"}}
		s.Sources["scan"] = quarantine.Source{Name: "scan", Facts: []string{"*"}}
		s.Sets["set"] = oneRule("set", `disk.encrypted`, "", 0)
	}
	withEngine(t, set, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.tell("mdm", quarantine.Compliant, 2*time.Hour, "disk.encrypted", "true")
		b.tell("scan", quarantine.Compliant, time.Hour, "disk.encrypted", "false")
		b.stands(quarantine.Quarantined, "while the scan says no")
		time.Sleep(25 * time.Minute)
		b.tell("scan", quarantine.Compliant, time.Hour, "disk.encrypted", "false")
		time.Sleep(40 * time.Minute)
		b.stands(quarantine.Quarantined, "40 minutes after the scan said no again, for an hour")
	})
}

// A waiver is about the rule that the person saw, not about another that takes its name.
func TestWaiverEndsWithItsRule(t *testing.T) {
	set := func(expression string) func(s *storetest.Settings) {
		return func(s *storetest.Settings) {
			s.Sources["mdm"] = quarantine.Source{Name: "mdm", MayRelease: true, Facts: []string{"*"}}
			s.Sets["set"] = oneRule("set", expression, quarantine.FailBlock, 0)
		}
	}
	withEngine(t, set(`screen.lock`), func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		until := time.Now().Add(20 * 24 * time.Hour)
		if _, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.Clear, Device: "d1", Rule: "set/only", Why: "a screen on a wall", Until: until}); err != nil {
			t.Fatal(err)
		}
		b.tell("mdm", quarantine.Compliant, time.Hour, "screen.lock", "false", "device.jailbroken", "true")
		b.stands(quarantine.Routed, "with the rule waived")
		b.save(set(`!device.jailbroken`))
		synctest.Wait()
		r := b.stands(quarantine.Blocked, "under a rule that nobody waived")
		if !strings.Contains(r.Block.Why, "waived was another rule") {
			t.Errorf("told %q, want a word on the waiver", r.Block.Why)
		}
		if _, err := b.gate.Unblock(t.Context(), admin, "d1", "seen to"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.stands(quarantine.Routed, "with the new rule overruled")
	})
}

// A device that was known to break a rule does not get away with saying nothing.
func TestSilenceUndoesNothingKnown(t *testing.T) {
	set := func(s *storetest.Settings) { s.Sets["set"] = oneRule("set", `disk.encrypted`, "", 0) }
	withEngine(t, set, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "skip", time.Now()))
		b.stands(quarantine.Routed, "with nothing known")
		b.tell(quarantine.AgentSource, "", time.Hour, "disk.encrypted", "false")
		b.stands(quarantine.Quarantined, "with a bad disk")
		time.Sleep(time.Second)
		b.tell(quarantine.AgentSource, "", time.Hour, "os.name", "x")
		b.stands(quarantine.Quarantined, "with the disk left out")
		time.Sleep(2 * time.Hour)
		b.stop()
		b.run()
		b.stands(quarantine.Quarantined, "with everything over, and the gateway restarted")
		b.tell(quarantine.AgentSource, "", time.Hour, "disk.encrypted", "true")
		b.stands(quarantine.Routed, "with a good disk")
		time.Sleep(2 * time.Hour)
		b.stands(quarantine.Routed, "with nothing known, and nothing bad known last")
	})
}

// A rule that is kept for a second an hour earns no new grace; one that is kept for as long
// as the grace does.
func TestGraceIsNotRenewedByFlapping(t *testing.T) {
	set := func(s *storetest.Settings) {
		s.Sources["mdm"] = quarantine.Source{Name: "mdm", MayRelease: true, MaxValidity: 1000 * time.Hour, Facts: []string{"*"}}
		s.Sets["set"] = oneRule("set", `disk.encrypted`, "", time.Hour)
	}
	withEngine(t, set, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		say := func(v string) { b.tell("mdm", quarantine.Compliant, 900*time.Hour, "disk.encrypted", v) }
		say("true")
		b.stands(quarantine.Routed, "with a good disk")
		time.Sleep(time.Second)
		routed := 0
		for range 12 {
			say("false")
			for range 59 {
				time.Sleep(time.Minute)
				if b.routed("d1") {
					routed++
				}
			}
			say("true")
			b.stands(quarantine.Routed, "with a good disk again")
			time.Sleep(time.Second)
		}
		if routed < 59 || routed > 60 {
			t.Errorf("routed for %d minutes in which the rule failed, want the grace of an hour, once", routed)
		}
		time.Sleep(time.Hour)
		say("false")
		b.stands(quarantine.Routed, "in a grace that was earned")
		time.Sleep(time.Hour)
		b.stands(quarantine.Quarantined, "when that is over")
	})
}
