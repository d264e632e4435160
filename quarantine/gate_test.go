package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

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
				if stored.Stage != quarantine.Quarantined || !strings.HasSuffix(stored.Reason, "ran out at 2000-01-01 01:00:00 UTC") {
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
