package quarantine_test

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// slow is a journal whose every append takes a while, one after the other.
type slow struct {
	*keeper
	one   chan struct{} // capacity 1; a bubble's clock stands still for a mutex
	takes time.Duration
}

func newSlow(takes time.Duration) *slow {
	return &slow{newKeeper(), make(chan struct{}, 1), takes}
}

func (s *slow) Append(c quarantine.Change) error {
	s.one <- struct{}{}
	defer func() { <-s.one }()
	time.Sleep(s.takes)
	return s.keeper.Append(c)
}

// A device that reports itself 200 times at once, in whatever words, does not hold up the
// demotion of another.
func TestFlood(t *testing.T) {
	for name, verdict := range map[string]func(i int) quarantine.Verdict{
		"noncompliant": func(int) quarantine.Verdict { return quarantine.NonCompliant },
		"unknown":      func(int) quarantine.Verdict { return "" },
		"in turn":      func(i int) quarantine.Verdict { return []quarantine.Verdict{"", quarantine.NonCompliant}[i%2] },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.enroll(enrolled(1, "staff", time.Now()))
				b.enroll(enrolled(2, "staff", time.Now()))
				b.compliant("d1")
				b.compliant("d2")
				const apply, write = 2 * time.Millisecond, 3 * time.Millisecond
				b.enforcer.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
					if step == "apply" {
						time.Sleep(apply)
					}
					return nil
				})
				b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
					if step == "record" {
						time.Sleep(write)
					}
					return nil
				})
				var flood sync.WaitGroup
				for i := range 200 {
					at := time.Now().Add(time.Duration(i) * time.Microsecond)
					flood.Go(func() {
						if _, err := b.report(quarantine.AgentSource, verdict(i), at, 0, "d1"); err != nil && !errors.Is(err, quarantine.ErrStale) {
							t.Error(err)
						}
					})
				}
				// A source whose word is shorter each time, so that none can wait.
				for i := range 200 {
					at := time.Now().Add(time.Duration(i) * time.Microsecond)
					flood.Go(func() {
						if _, err := b.report("scan", quarantine.NonCompliant, at, time.Hour-time.Duration(i)*time.Minute/4, "d1"); err != nil {
							t.Error(err)
						}
					})
					synctest.Wait() // one after the other, and all of them waiting
				}
				began := time.Now()
				if _, err := b.report("mdm", quarantine.NonCompliant, time.Now().Add(time.Second), 0, "d2"); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 3*apply+time.Millisecond {
					t.Errorf("the other's demotion took %s, more than two applies before its own", took)
				}
				b.wantRouted("d2", false, "in a flood")
				flood.Wait()
			})
		})
	}
}

// A report that is superseded while the disk is slow takes nothing that is pending before it
// off the journal.
func TestSupersededBeforeJournalled(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.stop()
		b.journal = newSlow(5 * time.Millisecond)
		b.run()
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.down()
		if _, err := b.gate.Hold(t.Context(), admin, "d1", "odd"); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		for i, validity := range []time.Duration{2 * time.Hour, time.Hour} {
			at := time.Now().Add(time.Duration(i+1) * time.Second)
			both.Go(func() {
				if _, err := b.report("mdm", quarantine.NonCompliant, at, validity, "d1"); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		both.Wait()
		time.Sleep(time.Minute)
		if p := b.journal.Pending()["d1"]; len(p) == 0 || p[0].Kind != quarantine.Hold {
			t.Errorf("the hold is not recorded, and not in the journal: %+v", p)
		}
		b.up()
		time.Sleep(time.Minute)
		if p := b.journal.Pending(); len(p) != 0 {
			t.Errorf("all is recorded, and the journal still holds %v", p)
		}
	})
}

// A repeat that was recorded while a slow disk journalled it does not stay in the journal.
func TestRecordedBeforeJournalled(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.stop()
		b.journal = newSlow(500 * time.Millisecond)
		b.run()
		b.enroll(enrolled(1, "staff", time.Now()))
		began := time.Now()
		for range 2 {
			if _, err := b.report("mdm", quarantine.NonCompliant, time.Now(), time.Hour, "d1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Until(began.Add(30*time.Minute + 100*time.Millisecond)))
		if n := len(b.journal.Pending()); n != 0 {
			t.Fatalf("the journal is not slow: it holds %d devices", n)
		}
		if _, err := b.gate.Approve(t.Context(), admin, "d1", ""); err != nil {
			t.Fatal(err)
		}
		if stored, _ := b.store.Get("d1"); stored.Reports["mdm"].At.Equal(began) {
			t.Fatal("the repeat was not recorded before the approval")
		}
		time.Sleep(time.Minute)
		if p := b.journal.Pending(); len(p) != 0 {
			t.Errorf("recorded, and still in the journal: %v", p)
		}
	})
}

// A repeat whose time to be recorded comes while the store is down is journalled.
func TestRipeRepeatIsJournalled(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		began := time.Now()
		for range 2 {
			if _, err := b.report("mdm", quarantine.NonCompliant, time.Now(), time.Hour, "d1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		b.down()
		time.Sleep(time.Until(began.Add(31 * time.Minute)))
		if p := b.journal.Pending()["d1"]; len(p) != 1 || !p[0].Report.At.Equal(began.Add(time.Minute)) {
			t.Errorf("the journal holds %+v, want the repeat", p)
		}
		b.up()
		time.Sleep(time.Minute)
		if p := b.journal.Pending(); len(p) != 0 {
			t.Errorf("recorded, and still in the journal: %v", p)
		}
	})
}

// While the store is down, reports leave one line for each source, in memory and on disk.
func TestPendingIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.stop()
		j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
		b.journal = j
		b.run()
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.down()
		start := time.Now()
		if _, err := b.gate.Hold(t.Context(), admin, "d1", "odd"); err != nil {
			t.Fatal(err)
		}
		var newest time.Time
		for i := range 90 {
			time.Sleep(time.Minute)
			newest = time.Now()
			for _, source := range []string{"mdm", "scan", quarantine.AgentSource} {
				// Validity grows and shrinks, so that some cannot wait.
				if _, err := b.report(source, quarantine.NonCompliant, newest, time.Duration(1+i%7)*time.Hour, "d1"); err != nil {
					t.Fatal(err)
				}
			}
		}
		x, err := b.gate.Explain("d1")
		if err != nil || len(x.Pending) < 4 || len(x.Pending) > 7 {
			t.Errorf("%d pending after %s, %v; want the hold and one or two for each source", len(x.Pending), time.Since(start), err)
		}
		if p := j.Pending()["d1"]; len(p) != 4 || p[0].Kind != quarantine.Hold {
			t.Errorf("the journal holds %d: %+v; want the hold and a report of each source", len(p), p)
		}
		b.up()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		stored, _ := b.store.Get("d1")
		if !stored.Hold.Set() || len(j.Pending()) != 0 {
			t.Errorf("stored %+v, journal %v; want the hold recorded and nothing left", stored.Hold, j.Pending())
		}
		view, err := b.gate.Device("d1")
		if err != nil || !view.Reports["mdm"].At.Equal(newest) || !view.Reports["scan"].At.Equal(newest) {
			t.Errorf("the newest reports are not told: %+v, %v", view.Reports, err)
		}
	})
}

// A repeated bad report costs nothing in the first half of the life of the recorded one,
// and holds all the same: until its own end, through a restart, and against older words.
func TestBadRepeats(t *testing.T) {
	for _, source := range []string{"mdm", "scan", quarantine.AgentSource} {
		for _, restart := range []bool{false, true} {
			t.Run(source+" restart "+strconv.FormatBool(restart), func(t *testing.T) {
				bubble(t, func(t *testing.T, b *bench) {
					b.enroll(enrolled(1, "skip", time.Now()))
					bad := func(at time.Time) {
						t.Helper()
						if p, err := b.report(source, quarantine.NonCompliant, at, time.Hour, "d1"); err != nil || p.Stage != quarantine.Quarantined {
							t.Fatalf("a bad report: %+v, %v", p, err)
						}
					}
					bad(time.Now())
					synctest.Wait()
					writes := len(b.store.Changes())
					applies, _, _ := b.enforcer.Counts()
					for range 5 {
						time.Sleep(5 * time.Minute)
						bad(time.Now())
					}
					newest := time.Now()
					synctest.Wait()
					n, _, _ := b.enforcer.Counts()
					if got := len(b.store.Changes()); got != writes || n != applies {
						t.Errorf("repeats: %d writes and %d applies, want none", got-writes, n-applies)
					}
					if restart {
						b.stop()
						b.run()
					}
					if _, err := b.report(source, quarantine.Compliant, newest.Add(-time.Second), time.Hour, "d1"); !errors.Is(err, quarantine.ErrStale) {
						t.Errorf("a compliant report between the recorded one and its repeat: %v, want ErrStale", err)
					}
					time.Sleep(10 * time.Minute) // past half the life of the first
					synctest.Wait()
					stored, _ := b.store.Get("d1")
					if got := len(b.store.Changes()); got != writes+1 || !stored.Reports[source].At.Equal(newest) {
						t.Errorf("after half the life: %d writes, stored as of %s; want 1, %s", got-writes, stored.Reports[source].At, newest)
					}
					time.Sleep(time.Until(newest.Add(time.Hour - time.Second)))
					synctest.Wait()
					b.wantRouted("d1", false, "a second before the last report's end")
					time.Sleep(2 * time.Second)
					synctest.Wait()
					b.wantRouted("d1", true, "after the last report's end")
					b.reconciled("at the end")
					if p := b.journal.Pending(); len(p) != 0 {
						t.Errorf("the journal still holds %v", p)
					}
				})
			})
		}
	}
}

// A repeat that is only remembered cuts a release off that was recorded before it.
func TestRepeatOutlivesRelease(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		start := time.Now()
		if _, err := b.report("mdm", quarantine.NonCompliant, start, time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := b.report("mdm", quarantine.NonCompliant, start.Add(2*time.Second), time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		// Another gateway knows nothing of the repeat, and records what lies between.
		r, _ := b.store.Get("d1")
		r.Reports["mdm"] = quarantine.Report{Device: "d1", Source: "mdm", Verdict: quarantine.Compliant, At: start.Add(time.Second), Validity: time.Hour, Received: start}
		r, err := b.gate.Admit(r)
		if err != nil || r.Stage != quarantine.Routed {
			t.Fatalf("the other's record: %s, %v", r.Stage, err)
		}
		b.store.Put(r)
		synctest.Wait()
		b.wantRouted("d1", false, "a newer bad report is remembered")
		if stored, _ := b.store.Get("d1"); stored.Stage != quarantine.Quarantined || stored.Reports["mdm"].Verdict != quarantine.NonCompliant {
			t.Errorf("stored %s, %+v; want the newer bad report", stored.Stage, stored.Reports["mdm"])
		}
		b.reconciled("at the end")
	})
}

// A device that does not know of itself tightens nothing, so it is a plain record, and only
// when it says something new.
func TestAgentUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		unknown := func(facts string) error {
			_, err := b.gate.Report(t.Context(), agent("d1"), quarantine.Report{Device: "d1", Source: quarantine.AgentSource, At: time.Now(), Facts: map[string]string{"os": facts}})
			return err
		}
		writes := len(b.store.Changes())
		for _, s := range []struct {
			after time.Duration
			facts string
			want  int // writes so far
		}{{0, "linux", 1}, {time.Minute, "linux", 1}, {time.Minute, "plan9", 2}, {time.Minute, "plan9", 2}, {30 * time.Minute, "plan9", 3}} {
			time.Sleep(s.after)
			if err := unknown(s.facts); err != nil {
				t.Fatal(err)
			}
			if got := len(b.store.Changes()) - writes; got != s.want {
				t.Errorf("unknown with %s after %s: %d writes, want %d", s.facts, s.after, got, s.want)
			}
		}
		b.wantRouted("d1", true, "an agent that knows nothing")
		b.down()
		time.Sleep(time.Second)
		if err := unknown("beos"); !errors.Is(err, storetest.ErrDown) {
			t.Errorf("with the store down: %v", err)
		}
		if p := b.journal.Pending(); len(p) != 0 {
			t.Errorf("the journal holds %v", p)
		}
		b.up()
		if stored, _ := b.store.Get("d1"); stored.Tighten != 0 {
			t.Errorf("it counted as %d tightenings", stored.Tighten)
		}
	})
}

// Whatever is remembered, dropped or recorded, and through any restart: where the newest
// word of a source is bad, the gate knows that very report, and refuses older ones.
func TestNewestBadStands(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.run()
			defer func() {
				failure = recover()
				b.stop()
			}()
			newestBad(rt, b)
		})
		if failure != nil {
			panic(failure)
		}
	})
}

func newestBad(rt *rapid.T, b *bench) {
	b.enroll(enrolled(1, rapid.SampledFrom([]string{"staff", "skip"}).Draw(rt, "profile"), time.Now()))
	newest := make(map[string]quarantine.Report)
	for range rapid.IntRange(2, 30).Draw(rt, "steps") {
		switch rapid.SampledFrom([]string{"report", "report", "report", "report", "restart", "down", "up"}).Draw(rt, "action") {
		case "restart":
			b.up()
			b.stop()
			b.run()
			continue
		case "down":
			b.down()
			continue
		case "up":
			b.up()
			continue
		}
		time.Sleep(time.Duration(rapid.IntRange(0, 20).Draw(rt, "minutes")) * time.Minute)
		synctest.Wait()
		r := quarantine.Report{Device: "d1", Source: rapid.SampledFrom([]string{"mdm", "scan", quarantine.AgentSource}).Draw(rt, "source"),
			Verdict:  rapid.SampledFrom([]quarantine.Verdict{quarantine.NonCompliant, quarantine.NonCompliant, "", quarantine.Compliant}).Draw(rt, "verdict"),
			At:       time.Now().Add(-time.Duration(rapid.IntRange(0, 1200).Draw(rt, "seconds ago")) * time.Second),
			Sequence: uint64(rapid.IntRange(0, 1).Draw(rt, "sequence")), Validity: time.Duration(rapid.IntRange(1, 4).Draw(rt, "half hours")) * 30 * time.Minute}
		by := token
		if r.Source == quarantine.AgentSource {
			by = agent("d1")
		}
		_, err := b.gate.Report(context.Background(), by, r)
		last, ok := newest[r.Source]
		older := ok && (r.At.Before(last.At) || r.At.Equal(last.At) && r.Sequence < last.Sequence)
		switch {
		case older && last.Verdict == quarantine.NonCompliant && !errors.Is(err, quarantine.ErrStale):
			rt.Fatalf("%+v is older than the bad %+v, and got %v", r, last, err)
		case !older && err == nil && !(ok && r.At.Equal(last.At) && r.Sequence == last.Sequence):
			newest[r.Source] = r
		case !older && r.Verdict == quarantine.NonCompliant && err != nil && !ok:
			rt.Fatalf("a first bad report got %v", err)
		}
		told, err := b.gate.Device("d1")
		if err != nil {
			rt.Fatal(err)
		}
		now, against := time.Now(), false
		for source, want := range newest {
			if got := told.Reports[source]; want.Verdict == quarantine.NonCompliant && (got.Verdict != want.Verdict || got.At.Before(want.At)) {
				rt.Fatalf("the newest of %s is %+v, and the gate knows %+v", source, want, got)
			}
			end := want.At.Add(min(want.Validity, time.Hour))
			against = against || want.Verdict == quarantine.NonCompliant && now.Before(end)
		}
		if against && b.routed("d1") {
			rt.Fatalf("routed against a live bad report: %+v", newest)
		}
	}
	b.up()
	time.Sleep(time.Minute)
	synctest.Wait()
	b.reconciled("at the end")
}

// A bad report that is only remembered is filed before a revocation, after which nothing is.
func TestRememberedBeforeRevocation(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		var last time.Time
		for range 2 {
			last = time.Now()
			if _, err := b.report("mdm", quarantine.NonCompliant, last, time.Hour, "d1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if r, _ := b.store.Get("d1"); !r.Reports["mdm"].At.Before(last) {
			t.Fatal("the second report was not put off")
		}
		if _, err := b.gate.Revoke(t.Context(), admin, "d1", "lost"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if r, _ := b.store.Get("d1"); !r.Reports["mdm"].At.Equal(last) || !r.Revocation.Set() {
			t.Errorf("stored: report of %s, want %s; revoked %v", r.Reports["mdm"].At, last, r.Revocation.Set())
		}
	})
}
