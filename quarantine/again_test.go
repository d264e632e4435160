package quarantine_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// Of the reports about a device's former keys the last of each source keeps its place, and
// releases nobody; what speaks against the device stands.
func TestOutlived(t *testing.T) {
	now := time.Now().UTC().Round(0)
	at, before := now.Add(-10*time.Minute), now.Add(-11*time.Minute)
	r := enrolled(1, "staff", now)
	r.Reports = map[string]quarantine.Report{
		"mdm":  {Device: "d1", Source: "mdm", Verdict: quarantine.Compliant, At: at, Sequence: 3, Received: at, Validity: time.Hour, Facts: map[string]string{"os": "x"}},
		"scan": {Device: "d1", Source: "scan", Verdict: quarantine.NonCompliant, At: at, Sequence: 4, Received: at, Validity: time.Hour, Detail: "malware"},
		"edr":  {Device: "d1", Source: "edr", At: at, Sequence: 5, Received: at},
	}
	given := maps.Clone(r.Reports)
	got := r.Outlived()
	const detail = "about the device before it enrolled again"
	want := map[string]quarantine.Report{
		"mdm":  {Device: "d1", Source: "mdm", At: at, Sequence: 3, Received: at, Detail: detail},
		"scan": given["scan"],
		"edr":  {Device: "d1", Source: "edr", At: at, Sequence: 5, Received: at, Detail: detail},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("of its reports stays (-want +got):\n%s", d)
	}
	if d := cmp.Diff(given, r.Reports); d != "" {
		t.Errorf("the record itself was written to:\n%s", d)
	}
	r.Reports = got
	for source := range want {
		for _, c := range []struct {
			at       time.Time
			sequence uint64
			want     error
		}{{before, 9, quarantine.ErrStale}, {at, 2, quarantine.ErrStale}, {at, want[source].Sequence, quarantine.ErrStale}, {at, 6, nil}, {now, 0, nil}} {
			n := quarantine.Report{Device: "d1", Source: source, Verdict: quarantine.Compliant, At: c.at, Sequence: c.sequence}
			if _, err := r.With(quarantine.Change{Kind: quarantine.Reported, Device: "d1", At: now, Report: &n}); !errors.Is(err, c.want) {
				t.Errorf("%s says compliant at %s, %d: %v, want %v", source, c.at, c.sequence, err, c.want)
			}
		}
	}
}

// again stores a device's second enrollment, with another key, as the desk does: over the
// record as it stands, with nothing being written to it meanwhile, as its store would refuse that.
func (b *bench) again(n int) {
	synctest.Wait()
	old, _ := b.store.Get("d1")
	r := enrolled(n, "staff", time.Now())
	r.ID, r.Name, r.Seat, r.Tighten, r.Reports = old.ID, old.Name, old.Seat, old.Tighten, old.Outlived()
	b.enroll(r)
}

// A device that enrolls again after a bad report is not released by a compliant one from
// before that report, when the bad one has run out as little as before.
func TestLateReportAfterEnrollingAgain(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		early := time.Now()
		time.Sleep(time.Minute)
		if _, err := b.report("mdm", quarantine.NonCompliant, time.Now(), time.Minute, "d1"); err != nil {
			t.Fatal(err)
		}
		b.again(2)
		for _, when := range []string{"while the bad one stands", "after it ran out"} {
			if _, err := b.report("mdm", quarantine.Compliant, early, 2*time.Hour, "d1"); !errors.Is(err, quarantine.ErrStale) {
				t.Errorf("an older compliant report %s: %v", when, err)
			}
			b.wantRouted("d1", false, when)
			time.Sleep(2 * time.Minute)
		}
		b.compliant("d1")
		b.wantRouted("d1", true, "a newer report")
		b.again(3)
		b.wantRouted("d1", false, "enrolled once more")
		b.reconciled("at the end")
	})
}

// A compliant report that is in the journal, since it ended a release early, releases nobody
// when the store takes it in after the device has enrolled again: in the same run, or in
// the next.
func TestJournalledReleaseAfterEnrollingAgain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		bubble(t, func(t *testing.T, b *bench) {
			b.enroll(enrolled(1, "staff", time.Now()))
			b.compliant("d1")
			time.Sleep(time.Minute)
			down := func(_ context.Context, step string, _ quarantine.ID) error {
				if step == "record" {
					return storetest.ErrDown
				}
				return nil
			}
			b.store.SetHook(down)
			shorter := time.Now()
			if p, err := b.report("mdm", quarantine.Compliant, shorter, 30*time.Minute, "d1"); err != nil || p.Stage != quarantine.Routed {
				t.Fatalf("a shorter release: %s, %v", p.Stage, err)
			}
			b.wantRouted("d1", true, "before it enrolls again")
			b.again(2)
			b.wantRouted("d1", false, "enrolled again")
			if restart {
				b.stop()
				b.run()
				b.wantRouted("d1", false, "restarted")
			}
			if len(b.journal.Pending()["d1"]) != 1 {
				t.Fatalf("the journal holds %v", b.journal.Pending())
			}
			b.up()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			b.wantRouted("d1", false, "the journalled release is recorded")
			if r, _ := b.store.Get("d1"); r.Stage != quarantine.Quarantined || !r.Reports["mdm"].At.Equal(shorter) || len(b.journal.Pending()) != 0 {
				t.Errorf("stored %s with %+v, and journalled %v", r.Stage, r.Reports["mdm"], b.journal.Pending())
			}
			if _, err := b.report("mdm", quarantine.Compliant, shorter.Add(-time.Second), time.Hour, "d1"); !errors.Is(err, quarantine.ErrStale) {
				t.Errorf("a compliant report older than the journalled one: %v", err)
			}
			b.compliant("d1")
			b.wantRouted("d1", true, "a newer report")
			b.reconciled("at the end")
		})
	}
}

// Without a second enrollment the journalled release stands, and ends when it says.
func TestJournalledReleaseStands(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		time.Sleep(time.Minute)
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" {
				return storetest.ErrDown
			}
			return nil
		})
		if _, err := b.report("mdm", quarantine.Compliant, time.Now(), 30*time.Minute, "d1"); err != nil {
			t.Fatal(err)
		}
		b.stop()
		b.run()
		b.wantRouted("d1", true, "restarted")
		b.up()
		time.Sleep(29 * time.Minute)
		b.wantRouted("d1", true, "before the journalled end")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		b.wantRouted("d1", false, "after the journalled end")
	})
}
