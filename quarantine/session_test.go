package quarantine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

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

// A source ends the sessions of the users of its own devices only; one that nobody made, none.
func TestSourcesSignOutWithinTheirScope(t *testing.T) {
	withSets(t, func(s *storetest.Settings) {
		s.Sources["linux"] = quarantine.Source{Name: "linux", For: quarantine.Selection{Platforms: []string{"linux"}}}
		s.Sources["finance"] = quarantine.Source{Name: "finance", For: quarantine.Selection{Groups: []string{"finance"}}}
	}, func(t *testing.T, b *bench) {
		r := enrolled(1, "staff", time.Now())
		r.Owner, r.Platform, r.Groups = "ann", "windows", []string{"finance"}
		b.enroll(r)
		for source, want := range map[string]error{"linux": quarantine.ErrForbidden, "nobody's": quarantine.ErrForbidden, "finance": nil, "mdm": nil} {
			time.Sleep(time.Second)
			if _, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.SignIn, Device: "d1", Session: &quarantine.UserSession{User: "ann"}}); err != nil {
				t.Fatal(err)
			}
			_, err := b.gate.Change(t.Context(), quarantine.Actor{Kind: "source", Name: source}, quarantine.Change{Kind: quarantine.SignOut, Device: "d1"})
			synctest.Wait()
			x, _ := b.gate.Device("d1")
			if !errors.Is(err, want) || (x.Session.User == "ann") != (want != nil) {
				t.Errorf("%s: %v, want %v; the session is of %q", source, err, want, x.Session.User)
			}
		}
	})
}

// A source that does not speak for a device any more releases it no more, neither with a new
// word nor with the one that it gave before. What it said against the device stands.
func TestNarrowedSourceReleasesNoMore(t *testing.T) {
	withSets(t, nil, func(t *testing.T, b *bench) {
		r := enrolled(1, "staff", time.Now())
		r.Platform = "windows"
		b.enroll(r)
		narrow := func(s *storetest.Settings) {
			mdm := s.Sources["mdm"]
			mdm.For.Platforms = []string{"linux"}
			s.Sources["mdm"] = mdm
			s.Sources["other"] = quarantine.Source{Name: "other", MayRelease: true, MaxValidity: 2 * time.Hour}
		}
		b.says()
		b.stands(quarantine.Routed, "reported")
		b.save(narrow)
		x := b.stands(quarantine.Quarantined, "its source was narrowed")
		if why, err := b.gate.Explain("d1"); err != nil || !slices.ContainsFunc(why.Decided.Reasons, func(r quarantine.Reason) bool {
			return r.Source == "mdm" && strings.Contains(r.Text, "does not speak for the device any more") && !strings.Contains(r.Remedy, "mdm")
		}) {
			t.Errorf("explained by %+v, %v; stands for %s", why.Decided.Reasons, err, x.Reason)
		}
		b.reconciled("its source was narrowed")
		b.save(nil)
		b.stands(quarantine.Routed, "its source was widened")
		time.Sleep(time.Second)
		if _, err := b.report("mdm", quarantine.NonCompliant, time.Now(), time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		b.save(narrow)
		synctest.Wait()
		if _, err := b.report("other", quarantine.Compliant, time.Now(), 2*time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		b.stands(quarantine.Quarantined, "what was said against it stands")
		time.Sleep(time.Hour)
		b.stands(quarantine.Routed, "until it ends")
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
				who := quarantine.Actor{Kind: by, Name: "d1"}
				if by == "source" {
					who.Name = "mdm"
				}
				_, err := b.gate.Change(t.Context(), who, c)
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
