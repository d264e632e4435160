package quarantine_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

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

// A proof that meets another write of the record is not taken as one of the key that the
// other brought.
func TestProofOfReplacedKey(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		fresh := enrolled(1, "staff", time.Now())
		fresh.Proven = false
		r := b.enroll(fresh)
		if _, err := b.gate.Prove(t.Context(), agent("d1"), "d1", keyOf(2)); !errors.Is(err, quarantine.ErrConflict) {
			t.Errorf("proving a key that the device never had: %v", err)
		}
		replaced := false
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" && !replaced {
				replaced = true
				r.Key = keyOf(7)
				b.store.Put(r)
			}
			return nil
		})
		if _, err := b.gate.Prove(t.Context(), agent("d1"), "d1", keyOf(1)); !errors.Is(err, quarantine.ErrConflict) {
			t.Errorf("proving a key that was replaced meanwhile: %v", err)
		}
		if stored, _ := b.store.Get("d1"); stored.Proven || stored.Key != keyOf(7) {
			t.Errorf("stored with key %s, proven %v; want the new one, unproven", stored.Key, stored.Proven)
		}
		if _, err := b.gate.Prove(t.Context(), agent("d1"), "d1", keyOf(7)); err != nil {
			t.Errorf("proving the new key: %v", err)
		}
		n := len(b.store.Changes())
		if _, err := b.gate.Prove(t.Context(), agent("d1"), "d1", keyOf(7)); err != nil || len(b.store.Changes()) != n {
			t.Errorf("proving it again: %v, %d more writes", err, len(b.store.Changes())-n)
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

// A tightening that was recorded, and lifted by a person since, does not come back from a
// journal that could not be struck; one that came after that does.
func TestRecordedTighteningStaysLifted(t *testing.T) {
	for tightening, lift := range map[quarantine.Kind]quarantine.Kind{quarantine.Hold: quarantine.Approve, quarantine.Block: quarantine.Unblock} {
		bubble(t, func(t *testing.T, b *bench) {
			b.stop()
			b.journal = sticky{newKeeper()}
			b.run()
			b.enroll(enrolled(1, "staff", time.Now()))
			b.compliant("d1")
			change := func(kind quarantine.Kind, want quarantine.Stage) {
				t.Helper()
				p, err := b.gate.Change(t.Context(), admin, quarantine.Change{Kind: kind, Device: "d1", Why: "odd"})
				if err != nil || p.Stage != want {
					t.Fatalf("%s: %s, %v; want %s", kind, p.Stage, err, want)
				}
				time.Sleep(time.Second)
			}
			tight := map[quarantine.Kind]quarantine.Stage{quarantine.Hold: quarantine.Quarantined, quarantine.Block: quarantine.Blocked}[tightening]
			change(tightening, tight)
			change(lift, quarantine.Routed)
			b.stop()
			writes := len(b.store.Changes())
			b.run()
			time.Sleep(10 * time.Second)
			b.wantRouted("d1", true, string(tightening)+", lifted and restarted")
			if n := len(b.store.Changes()); n != writes {
				t.Errorf("%s: the restart wrote %d records", tightening, n-writes)
			}

			b.down()
			change(tightening, tight)
			b.stop()
			b.up()
			b.run()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if r, _ := b.store.Get("d1"); r.Stage != tight {
				t.Errorf("%s again, and restarted: stored as %s, want %s", tightening, r.Stage, tight)
			}
		})
	}
}

// Whatever the order in which tightenings of one device came to the file before a crash,
// each of them is recorded after it.
func TestJournalInAnyOrder(t *testing.T) {
	for _, order := range [][]uint64{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}} {
		bubble(t, func(t *testing.T, b *bench) {
			b.enroll(enrolled(1, "staff", time.Now()))
			b.compliant("d1")
			b.stop()
			path := filepath.Join(t.TempDir(), "journal")
			j := openJournal(t, path)
			now := time.Now().UTC().Round(0)
			for _, n := range order {
				c := quarantine.Change{Kind: quarantine.Block, Device: "d1", By: admin, At: now, Why: "stolen", Tighten: n}
				switch n {
				case 2:
					c.Kind, c.By, c.Report = quarantine.Reported, token, &quarantine.Report{Device: "d1", Source: "mdm",
						Verdict: quarantine.NonCompliant, At: now.Add(time.Second), Received: now}
				case 3:
					c.Kind = quarantine.Hold
				}
				must(t, j.Append(c))
			}
			must(t, j.Close())
			j = openJournal(t, path)
			b.journal = j
			b.run()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			stored, _ := b.store.Get("d1")
			if !stored.Block.Set() || !stored.Hold.Set() || stored.Reports["mdm"].Verdict != quarantine.NonCompliant || stored.Tighten != 3 {
				t.Errorf("order %v: stored %+v", order, stored)
			}
			if p := j.Pending(); len(p) != 0 {
				t.Errorf("order %v: the journal still holds %v", order, p)
			}
		})
	}
}

// A report stays in the journal until it is recorded or the journal has the one that
// superseded it, whatever is recorded before that.
func TestSupersededStaysJournalled(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		b.compliant("d1")
		b.down()
		if _, err := b.report("mdm", "", time.Now().Add(time.Second), time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.gate.Block(t.Context(), admin, "d1", "stolen"); err != nil {
			t.Fatal(err)
		}
		k := b.journal.(*keeper)
		stall := make(chan struct{})
		k.mu.Lock()
		k.stall = stall
		k.mu.Unlock()
		if _, err := b.report("mdm", quarantine.NonCompliant, time.Now().Add(2*time.Second), 2*time.Hour, "d1"); err != nil {
			t.Fatal(err)
		}
		var records atomic.Int64 // the block is recorded, and nothing after it
		b.store.SetHook(func(_ context.Context, step string, _ quarantine.ID) error {
			if step == "record" && records.Add(1) > 1 {
				return storetest.ErrDown
			}
			return nil
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if stored, _ := b.store.Get("d1"); !stored.Block.Set() || stored.Reports["mdm"].Verdict != quarantine.Compliant {
			t.Fatalf("stored %+v; want the block, and nothing after it", stored)
		}
		if p := k.Pending()["d1"]; len(p) != 1 || p[0].Kind != quarantine.Reported {
			t.Errorf("the journal holds %+v, want the first report", p)
		}
		close(stall)
		b.up()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if p := k.Pending(); len(p) != 0 {
			t.Errorf("the journal still holds %v", p)
		}
	})
}

// sticky is a journal from which nothing goes.
type sticky struct{ *keeper }

func (sticky) Done(quarantine.Change) error { return errors.New("read-only file system") }
