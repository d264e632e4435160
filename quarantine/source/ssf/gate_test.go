package ssf

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/set"
	"lazaret/quarantine/storetest"
	"lazaret/quarantine/tunnel"
)

// realGate is a gate over a store and an enforcer in memory, with one device of ann's and
// one of ben's that sources for staff may speak for.
func realGate(t *testing.T) (*quarantine.Gate, *storetest.Enforcer, func()) {
	t.Helper()
	memory, enforcer := storetest.NewMemory(), storetest.NewEnforcer()
	memory.Save(storetest.Settings{
		Pools: map[string]quarantine.Pool{
			"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.1.0.0/16"),
				Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.1/32"), Protocol: "tcp", From: 443, Up: 443}}},
			"full": {Name: "full", IPv4: netip.MustParsePrefix("10.2.0.0/16")},
		},
		Profiles: map[string]quarantine.Profile{"staff": {Name: "staff", Pool: "full"}, "guest": {Name: "guest", Pool: "full"}},
		Sources: map[string]quarantine.Source{
			"idp":  {Name: "idp", Kind: quarantine.SourceSSF, MayRelease: true, MaxValidity: 2 * time.Hour, For: quarantine.Selection{Profiles: []string{"staff"}}},
			"weak": {Name: "weak", Kind: quarantine.SourceSSF},
		},
	})
	journal, err := quarantine.OpenJournal(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	clock := quarantine.Clock{Wall: time.Now, Boot: func() time.Duration { return time.Hour + time.Since(began) }}
	g, err := quarantine.NewGate(quarantine.Config{Store: memory, Enforcer: enforcer, Journal: journal, Policy: quarantine.PlainPolicy{}, Control: "run", Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Run(ctx) }()
	synctest.Wait()
	for n, r := range []struct{ owner, profile, serial string }{{"ann@example.com", "staff", "C1"}, {"ben", "guest", "C2"}} {
		now := time.Now().UTC()
		rec := quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(r.serial + "-id"), Name: r.serial + "-name", Owner: r.owner, Serial: r.serial,
			Key: tunnel.Key{byte(n + 1)}, Seat: quarantine.Seat(n + 1)}, Profile: r.profile, Proven: true,
			Certificate: quarantine.Certificate{Serial: "0" + r.serial, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(90 * 24 * time.Hour)}}
		if rec, err = g.Admit(rec); err != nil {
			t.Fatal(err)
		}
		memory.Put(rec)
	}
	synctest.Wait()
	return g, enforcer, func() { cancel(); <-done; journal.Close() }
}

// TestWithTheGate lets events move devices through the real gate.
func TestWithTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, enforcer, stop := realGate(t)
		defer stop()
		l := newLab(t, nil)
		l.Receiver.cfg.Gate, l.Receiver.cfg.Now = g, time.Now
		l.store.streams["weak"] = l.store.streams["idp"]
		if err := l.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		say := func(stream, serial, status string, at time.Time) error {
			tok := l.token(set.DeviceComplianceChange, device(serial), map[string]any{"current_status": status, "event_timestamp": at.Unix()})
			tok.IssuedAt = time.Now()
			st, err := l.stream(stream)
			if err != nil {
				t.Fatal(err)
			}
			defer synctest.Wait()
			return l.take(t.Context(), st, l.sign(tok), "")
		}
		stage := func(want quarantine.Stage) {
			t.Helper()
			r, err := g.Device("C1-id")
			if err != nil || r.Stage != want || (storetest.Freedom(enforcer.Entry("C1-id")) == 2) != (want == quarantine.Routed) {
				t.Errorf("it is %s (%s), enforced %+v, %v; want %s", r.Stage, r.Reason, enforcer.Entry("C1-id"), err, want)
			}
		}
		began := time.Now()
		stage(quarantine.Quarantined)
		if err := say("weak", "C1", "compliant", began); err != nil {
			t.Error(err)
		}
		stage(quarantine.Quarantined) // a source without the right to release
		if err := say("idp", "C1", "compliant", began); err != nil {
			t.Error(err)
		}
		stage(quarantine.Routed)
		if err := say("idp", "C1", "not-compliant", began.Add(-time.Minute)); err != nil {
			t.Error(err)
		}
		stage(quarantine.Routed) // happened before
		time.Sleep(10 * time.Second)
		if err := say("idp", "C1", "not-compliant", time.Now()); err != nil {
			t.Error(err)
		}
		stage(quarantine.Quarantined)
		time.Sleep(10 * time.Second)
		if err := say("idp", "C1", "compliant", time.Now()); err != nil {
			t.Error(err)
		}
		stage(quarantine.Routed)
		time.Sleep(2*time.Hour + time.Second) // the source's longest validity
		synctest.Wait()
		stage(quarantine.Quarantined)
		if err := say("idp", "C2", "compliant", time.Now()); !isCode(err, set.AccessDenied) {
			t.Errorf("a device that it may not speak for: %v", err)
		}
		if n := l.audit.count(); n < 2 { // the report, and the token
			t.Errorf("%d entries in the audit log", n)
		}
	})
}

// TestSignOutWithTheGate ends a session, once, and none that is younger than the event.
func TestSignOutWithTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, stop := realGate(t)
		defer stop()
		l := newLab(t, nil)
		l.Receiver.cfg.Gate, l.Receiver.cfg.Now = g, time.Now
		admin := quarantine.Actor{Kind: "administrator", Name: "root"}
		signIn := func() {
			t.Helper()
			s := quarantine.UserSession{User: "ann@example.com", At: time.Now()}
			if _, err := g.Change(t.Context(), admin, quarantine.Change{Kind: quarantine.SignIn, Device: "C1-id", Session: &s}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		signedIn := func() bool { r, err := g.Device("C1-id"); return err == nil && r.Session.User != "" }
		revoke := func(at time.Time) {
			t.Helper()
			tok := l.token(set.SessionRevoked, user("ann@example.com"), map[string]any{"event_timestamp": at.Unix()})
			tok.IssuedAt = time.Now()
			if err := l.send(tok); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		signIn()
		time.Sleep(time.Minute)
		event := time.Now()
		revoke(event)
		if signedIn() {
			t.Error("still signed in")
		}
		time.Sleep(time.Minute)
		signIn()
		revoke(event) // in another token, late
		if !signedIn() {
			t.Error("an event of before ended a session that began after it")
		}
	})
}

var _ source.Gate = (*quarantine.Gate)(nil)
