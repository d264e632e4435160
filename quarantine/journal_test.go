package quarantine_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lazaret/quarantine"
)

func holdOf(id string, tighten uint64) quarantine.Change {
	return quarantine.Change{Kind: quarantine.Hold, Device: quarantine.ID(id), By: admin, At: noon, Why: "odd\nthing", Tighten: tighten}
}

func openJournal(t testing.TB, path string) *quarantine.Journal {
	t.Helper()
	j, err := quarantine.OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() }) // closing twice is no matter here
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJournalReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	report := reportChange("mdm", quarantine.NonCompliant, noon, 3)
	report.Tighten = 3
	want := map[quarantine.ID][]quarantine.Change{"d1": {holdOf("d1", 2), report}, "d3": {holdOf("d3", 1)}}
	for _, c := range []quarantine.Change{holdOf("d1", 1), holdOf("d1", 2), holdOf("d2", 1), report, holdOf("d3", 1)} {
		must(t, j.Append(c))
	}
	must(t, j.Done(holdOf("d1", 1)))
	must(t, j.Done(holdOf("d2", 1)))
	if diff := cmp.Diff(want, j.Pending()); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	must(t, j.Close())
	if diff := cmp.Diff(want, openJournal(t, path).Pending()); diff != "" {
		t.Errorf("pending after opening it again (-want +got):\n%s", diff)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 0600", info.Mode().Perm())
	}
	for _, c := range []quarantine.Change{{}, holdOf("", 1), holdOf("d1", 0), {Kind: quarantine.Reported, Device: "d1", At: noon, Tighten: 1}} {
		if j.Append(c) == nil {
			t.Errorf("journalled %+v, which cannot be replayed", c)
		}
	}
}

// Wherever a crash cuts the file, all whole lines are read, and nothing else.
func TestJournalTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j := openJournal(t, path)
	var ends []int
	for i := range 3 {
		must(t, j.Append(holdOf(fmt.Sprintf("d%d", i), 1)))
		b, err := os.ReadFile(path)
		must(t, err)
		ends = append(ends, len(b))
	}
	whole, err := os.ReadFile(path)
	must(t, err)
	for cut := 0; cut < len(whole); cut += 5 {
		want := 0
		for _, end := range ends {
			if cut >= end {
				want++
			}
		}
		torn := filepath.Join(dir, fmt.Sprintf("torn-%d", cut))
		must(t, os.WriteFile(torn, whole[:cut], 0o600))
		j := openJournal(t, torn)
		if got := len(j.Pending()); got != want {
			t.Fatalf("cut at byte %d: %d pending, want %d", cut, got, want)
		}
		must(t, j.Append(holdOf("later", 1)))
		must(t, j.Close())
		j = openJournal(t, torn)
		if got := len(j.Pending()); got != want+1 {
			t.Fatalf("cut at byte %d, and one more: %d pending, want %d", cut, got, want+1)
		}
		must(t, j.Close())
	}
}

// A hole of zeros at the end is what a crash can leave.
func TestJournalHole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	must(t, j.Append(holdOf("d1", 1)))
	must(t, j.Close())
	b, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append(append(b, make([]byte, 100)...), "rest of a line\n"...), 0o600))
	if j = openJournal(t, path); len(j.Pending()) != 1 || j.Torn() != 115 {
		t.Errorf("%d pending, %d bytes torn; want 1 and 115", len(j.Pending()), j.Torn())
	}
}

// Any flipped bit in a line that others follow is reported, with the line, and the file
// stays as it was.
func TestJournalDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j := openJournal(t, path)
	must(t, j.Append(holdOf("d1", 1)))
	first, err := os.ReadFile(path)
	must(t, err)
	must(t, j.Append(holdOf("d2", 1)))
	whole, err := os.ReadFile(path)
	must(t, err)
	for at := range first {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1
		must(t, os.WriteFile(path, damaged, 0o600))
		_, err := quarantine.OpenJournal(path)
		if !errors.Is(err, quarantine.ErrDamaged) || !strings.Contains(err.Error(), "line 1:") {
			t.Fatalf("byte %d flipped: %v, want ErrDamaged at line 1", at, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
			t.Fatalf("byte %d flipped: the file was touched", at)
		}
	}
	must(t, os.WriteFile(path, append([]byte("2 00000000 {}\n"), whole...), 0o600))
	if _, err := quarantine.OpenJournal(path); !errors.Is(err, quarantine.ErrDamaged) || !strings.Contains(err.Error(), `unknown version "2"`) {
		t.Errorf("a line of another version: %v", err)
	}
}

func TestJournalCompacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	must(t, j.Append(holdOf("stays", 1)))
	var largest int64
	for i := range uint64(500) {
		must(t, j.Append(holdOf("d1", i+1)))
		must(t, j.Done(holdOf("d1", i+1)))
		info, err := os.Stat(path)
		must(t, err)
		largest = max(largest, info.Size())
	}
	if largest > 80<<10 {
		t.Errorf("the file grew to %d bytes with one change pending", largest)
	}
	must(t, j.Close())
	if p := openJournal(t, path).Pending(); len(p) != 1 || len(p["stays"]) != 1 {
		t.Errorf("pending after compactions: %v", p)
	}
}

func TestJournalConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range uint64(50) {
				if err := j.Append(holdOf(fmt.Sprintf("d%d", i), n+1)); err != nil {
					t.Error(err)
				}
			}
			for n := range uint64(49) {
				if err := j.Done(holdOf(fmt.Sprintf("d%d", i), n+1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	must(t, j.Close())
	p := openJournal(t, path).Pending()
	for i := range 8 {
		if c := p[quarantine.ID(fmt.Sprintf("d%d", i))]; len(c) != 1 || c[0].Tighten != 50 {
			t.Errorf("device %d: %v", i, c)
		}
	}
}

// A journal whose directory is gone says so, and writes everything once it can again.
func TestJournalHeals(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	must(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "journal")
	j := openJournal(t, path)
	must(t, j.Append(holdOf("d1", 1)))
	must(t, j.Close()) // stands for a disk that fails
	if err := j.Append(holdOf("d2", 1)); err == nil {
		t.Error("no error from a file that cannot be written")
	}
	must(t, j.Append(holdOf("d3", 1)))
	must(t, j.Close())
	if p := openJournal(t, path).Pending(); len(p) != 3 {
		t.Errorf("after healing: %v, want three devices", p)
	}
}

// What is merged folds to the same record as everything one after the other.
func TestMerged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := enrolled(1, "staff", noon)
		whole := base
		var all []quarantine.Change
		for n := range uint64(rapid.IntRange(1, 12).Draw(t, "changes")) {
			c := holdOf("d1", n+1)
			if rapid.IntRange(0, 4).Draw(t, "hold") > 0 {
				c = reportChange(rapid.SampledFrom([]string{"mdm", "scan"}).Draw(t, "source"),
					rapid.SampledFrom([]quarantine.Verdict{quarantine.Compliant, quarantine.NonCompliant, ""}).Draw(t, "verdict"),
					noon.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "at"))), 0)
				c.Tighten = n + 1
			}
			next, err := whole.With(c)
			if err != nil {
				continue // the gate takes nothing older in
			}
			whole, all = next, append(all, c)
		}
		var merged []quarantine.Change
		reports := 0
		for _, c := range rapid.Permutation(all).Draw(t, "order of the journal") {
			merged = quarantine.Merged(merged, c)
		}
		got := base
		for i, c := range merged {
			if c.Kind == quarantine.Reported {
				reports++
			}
			if i > 0 && merged[i-1].Tighten >= c.Tighten {
				t.Fatalf("out of order: %+v", merged)
			}
			next, err := got.With(c)
			if err != nil {
				t.Fatal(err)
			}
			got = next
		}
		if reports > 2 {
			t.Fatalf("%d reports of two sources", reports)
		}
		if diff := cmp.Diff(whole, got); diff != "" {
			t.Fatalf("(-all +merged):\n%s", diff)
		}
	})
}

// A report that comes to the journal after a newer one of its source has been recorded and
// struck off takes nothing else with it.
func TestJournalSupersedes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	bad := func(n uint64) quarantine.Change {
		c := reportChange("mdm", quarantine.NonCompliant, noon.Add(time.Duration(n)), 0)
		c.Tighten = n
		return c
	}
	for _, c := range []quarantine.Change{bad(1), holdOf("d1", 2), bad(4), bad(3)} {
		must(t, j.Append(c))
	}
	want := map[quarantine.ID][]quarantine.Change{"d1": {holdOf("d1", 2), bad(4)}}
	for range 2 {
		if diff := cmp.Diff(want, j.Pending()); diff != "" {
			t.Errorf("pending (-want +got):\n%s", diff)
		}
		must(t, j.Close())
		j = openJournal(t, path)
	}
}

// What is done goes with the reports that it superseded; a change with a lower counter that
// was not recorded stays, wherever in the file it stands.
func TestJournalStrikesExactly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	bad := func(source string, n uint64) quarantine.Change {
		c := reportChange(source, quarantine.NonCompliant, noon.Add(time.Duration(n)), 0)
		c.Tighten = n
		return c
	}
	for _, c := range []quarantine.Change{bad("mdm", 4), holdOf("d1", 2), bad("scan", 3), bad("mdm", 1), bad("scan", 6), holdOf("d1", 5)} {
		must(t, j.Append(c))
	}
	must(t, j.Done(holdOf("d1", 5)))
	must(t, j.Done(bad("scan", 7)))
	want := map[quarantine.ID][]quarantine.Change{"d1": {holdOf("d1", 2), bad("mdm", 4)}}
	for range 2 {
		if diff := cmp.Diff(want, j.Pending()); diff != "" {
			t.Errorf("pending (-want +got):\n%s", diff)
		}
		must(t, j.Close())
		j = openJournal(t, path)
	}
}

func FuzzReadJournal(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	j := openJournal(f, path)
	must(f, j.Append(holdOf("d1", 1)))
	must(f, j.Append(holdOf("d2", 1)))
	must(f, j.Done(holdOf("d1", 1)))
	b, err := os.ReadFile(path)
	must(f, err)
	f.Add(b)
	f.Add(b[:len(b)-5])
	f.Add([]byte("1 00000000 {}\n1 "))
	f.Add([]byte("\n\n\x00\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pending, good, err := quarantine.ReadJournal(b)
		if good < 0 || good > len(b) {
			t.Fatalf("%d good bytes of %d", good, len(b))
		}
		if err != nil {
			if !errors.Is(err, quarantine.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		again, whole, err := quarantine.ReadJournal(b[:good])
		if err != nil || whole != good || !cmp.Equal(pending, again) {
			t.Errorf("what was read without its tail: %d of %d bytes, %v\n%s", whole, good, err, cmp.Diff(pending, again))
		}
		for id, changes := range pending {
			for _, c := range changes {
				if c.Device != id || c.At.IsZero() || c.Tighten == 0 {
					t.Errorf("read a change that cannot be replayed: %+v", c)
				}
			}
		}
	})
}
