package quarantine_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

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
