package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func entry(n int) Entry {
	return Entry{
		ID: fmt.Sprintf("id%04d", n), Revision: int64(n), Time: epoch.Add(time.Duration(n) * time.Second),
		Actor: Actor{"administrator", "root", "192.0.2.1"}, Action: "device.block",
		Device: fmt.Sprintf("device%d", n%3), Subject: "laptop", Detail: map[string]string{"why": "lost \u2028 <b>", "to": "blocked"},
	}
}

// write makes a log of n entries in segments of about size bytes, and returns its head.
func write(t *testing.T, dir string, n int, size int64) Head {
	t.Helper()
	c, err := Open(Config{Dir: dir, SegmentSize: size, Clock: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := 1; i <= n; i++ {
		if _, err := c.Append(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	return c.Head()
}

func TestWrittenLogVerifies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	head := write(t, dir, 50, 2000)
	names, _ := segments(os.DirFS(dir))
	if len(names) < 5 {
		t.Fatalf("%d segments, want several", len(names))
	}
	report, err := Verify(dir, head)
	if err != nil {
		t.Fatal(err)
	}
	if report.Entries != 50 || report.Segments != len(names) || report.Last != head || !report.Saved || report.Torn || head.Sequence != 50 {
		t.Errorf("report %+v, head %+v", report, head)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, names[0]): 0o600} {
		if info, _ := os.Stat(path); info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
	// An older head is passed through as well; a head of nowhere is not.
	middle, err := VerifyFiles([]string{filepath.Join(dir, names[0]), filepath.Join(dir, names[1])}, Head{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(dir, middle.Last); err != nil || !r.Saved {
		t.Errorf("older head: %+v, %v", r, err)
	}
	head.Hash[0] ^= 1
	if _, err := Verify(dir, head); !errors.Is(err, ErrBroken) {
		t.Errorf("foreign head: %v", err)
	}
}

// spoil is a change to the lines of the segments, and where it must be found.
type spoil struct {
	name    string
	do      func(lines [][]string) // by segment, header first
	segment uint64
	line    int // 0: not looked at
}

// rehash makes a line match its own hash again, as a careful forger would.
func rehash(line string) string {
	body := line[:len(line)-hashTail] + "}"
	sum := sha(body)
	return body[:len(body)-1] + `,"hash":"` + sum + `"}`
}

func TestEveryKindOfTamperingIsFound(t *testing.T) {
	tests := []spoil{
		{"edit in the middle", func(l [][]string) { l[1][2] = strings.Replace(l[1][2], "blocked", "routed!", 1) }, 2, 3},
		{"edit with its hash redone", func(l [][]string) { l[1][2] = rehash(strings.Replace(l[1][2], "blocked", "routed!", 1)) }, 2, 4},
		{"edit of a segment's last line, hash redone", func(l [][]string) {
			n := len(l[1]) - 1
			l[1][n] = rehash(strings.Replace(l[1][n], "blocked", "routed!", 1))
		}, 3, 1},
		{"edit of the very last line, hash redone", func(l [][]string) {
			s := l[len(l)-1]
			s[len(s)-1] = rehash(strings.Replace(s[len(s)-1], "blocked", "routed!", 1))
		}, 0, 0},
		{"edit of a header", func(l [][]string) { l[2][0] = strings.Replace(l[2][0], "2026", "2025", 1) }, 3, 1},
		{"edit of a header, hash redone", func(l [][]string) { l[2][0] = rehash(strings.Replace(l[2][0], "2026", "2025", 1)) }, 3, 2},
		{"a line deleted", func(l [][]string) { l[1] = slices.Delete(l[1], 2, 3) }, 2, 3},
		{"a line doubled", func(l [][]string) { l[1] = slices.Insert(l[1], 2, l[1][2]) }, 2, 4},
		{"two lines swapped", func(l [][]string) { l[1][1], l[1][2] = l[1][2], l[1][1] }, 2, 2},
		{"a segment's tail cut", func(l [][]string) { l[1] = l[1][:2] }, 3, 1},
		{"a whole segment gone", func(l [][]string) { l[2] = nil }, 4, 1},
		{"the first segment gone", func(l [][]string) { l[0] = nil }, 2, 0},
		{"two segments swapped", func(l [][]string) { l[1], l[2] = l[2], l[1] }, 2, 1},
		{"the last line cut off", func(l [][]string) { n := len(l) - 1; l[n] = l[n][:len(l[n])-1] }, 0, 0},
		{"the last segment gone", func(l [][]string) { l[len(l)-1] = nil }, 0, 0},
		{"a space added", func(l [][]string) { l[1][1] = " " + l[1][1] }, 2, 2},
		{"an empty line", func(l [][]string) { l[1] = slices.Insert(l[1], 2, "") }, 2, 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			head := write(t, dir, 40, 2000)
			lines := readLines(t, dir)
			test.do(lines)
			writeLines(t, dir, lines)
			report, err := Verify(dir, head)
			var f *Fault
			if !errors.As(err, &f) || !errors.Is(err, ErrBroken) {
				t.Fatalf("found %v in %+v", err, report)
			}
			if test.segment != 0 && (f.Segment != test.segment || f.Line != test.line) {
				t.Errorf("found in segment %d line %d, want %d and %d: %v", f.Segment, f.Line, test.segment, test.line, err)
			}
		})
	}
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	dir := t.TempDir()
	head := write(t, dir, 4, 1<<20)
	path := filepath.Join(dir, segmentName(1))
	good, _ := os.ReadFile(path)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x01
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir, head); !errors.Is(err, ErrBroken) {
			t.Fatalf("byte %d (%q) flipped: %v", i, good[i], err)
		}
	}
	// Cut anywhere, the saved head is missed.
	for n := range good {
		os.WriteFile(path, good[:n], 0o600)
		if _, err := Verify(dir, head); !errors.Is(err, ErrBroken) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestTornEndIsRepaired(t *testing.T) {
	good := t.TempDir()
	kept := write(t, good, 5, 1<<20)
	whole, _ := os.ReadFile(filepath.Join(good, segmentName(1)))
	full := t.TempDir()
	write(t, full, 6, 1<<20)
	next, _ := os.ReadFile(filepath.Join(full, segmentName(1)))
	if !bytes.HasPrefix(next, whole) {
		t.Fatal("the same entries did not give the same lines")
	}
	cuts := []int{len(next)}
	for n := len(whole); n < len(next); n += 5 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(1)), next[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Open(Config{Dir: dir, Head: kept})
		if err != nil {
			t.Fatalf("torn at %d: %v", n, err)
		}
		want := 0
		if n == len(next) {
			want = 1
		}
		if got := len(c.Beyond()); got != want {
			t.Errorf("torn at %d: %d entries behind the kept head, want %d", n, got, want)
		}
		if _, err := c.Append(entry(7)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if r, err := Verify(dir, c.Head()); err != nil || r.Entries != uint64(6+want) {
			t.Fatalf("torn at %d, after repair: %+v, %v", n, r, err)
		}
	}
}

func TestOpenRefusesWhatTheKeptHeadMisses(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"tail cut": func(t *testing.T, dir string) {
			l := readLines(t, dir)
			l[0] = l[0][:3]
			writeLines(t, dir, l)
		},
		"torn before the head": func(t *testing.T, dir string) {
			info, _ := os.Stat(filepath.Join(dir, segmentName(1)))
			os.Truncate(filepath.Join(dir, segmentName(1)), info.Size()-10)
		},
		"all gone": func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, segmentName(1))) },
		"edited": func(t *testing.T, dir string) {
			l := readLines(t, dir)
			l[0][2] = strings.Replace(l[0][2], "blocked", "routed!", 1)
			writeLines(t, dir, l)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			head := write(t, dir, 5, 1<<20)
			spoil(t, dir)
			before, _ := os.ReadFile(filepath.Join(dir, segmentName(1)))
			if _, err := Open(Config{Dir: dir, Head: head}); !errors.Is(err, ErrBroken) {
				t.Fatalf("opened: %v", err)
			}
			after, _ := os.ReadFile(filepath.Join(dir, segmentName(1)))
			if !bytes.Equal(before, after) {
				t.Error("the evidence was touched")
			}
			// Told to go on, it begins a segment that says why, and the log goes on from there.
			c, err := Open(Config{Dir: dir, Head: head, AcceptBreak: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Append(entry(9)); err != nil {
				t.Fatal(err)
			}
			c.Close()
			if c.Head().Segment != 2 {
				t.Errorf("went on in segment %d", c.Head().Segment)
			}
			if c, err = Open(Config{Dir: dir, Head: c.Head()}); err != nil {
				t.Fatalf("opening again: %v", err)
			}
			c.Close()
			r, err := VerifyFiles([]string{filepath.Join(dir, segmentName(2))}, c.Head())
			if err != nil || len(r.Breaks) != 1 {
				t.Errorf("report %+v, %v; want one break", r, err)
			}
			if _, err := Verify(dir, head); !errors.Is(err, ErrBroken) {
				t.Errorf("the old head verifies: %v", err)
			}
		})
	}
}

func TestRotationContinuesAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	var head Head
	for i := range 20 {
		c, err := Open(Config{Dir: dir, Head: head, SegmentSize: 900})
		if err != nil {
			t.Fatal(err)
		}
		if head, err = c.Append(entry(2*i), entry(2*i+1)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if r, err := Verify(dir, head); err != nil || r.Entries != 40 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, 30, 2000)
	all, err := List(dir, Filter{})
	if err != nil || len(all) != 30 || all[0].Revision != 30 || all[29].Revision != 1 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	if all[0].Detail["why"] != entry(30).Detail["why"] || all[0].Actor != entry(30).Actor || !all[0].Time.Equal(entry(30).Time) {
		t.Errorf("read back %+v", all[0])
	}
	got, err := List(dir, Filter{Device: "device1", Since: epoch.Add(10 * time.Second), Limit: 4})
	var revisions []int64
	for _, e := range got {
		revisions = append(revisions, e.Revision)
	}
	if err != nil || !slices.Equal(revisions, []int64{28, 25, 22, 19}) {
		t.Errorf("filtered %v, %v", revisions, err)
	}
	if got, _ := List(dir, Filter{Device: "device1", Since: epoch.Add(26 * time.Second)}); len(got) != 1 || got[0].Revision != 28 {
		t.Errorf("since: %v", got)
	}
}

func TestExportVerifiesElsewhere(t *testing.T) {
	dir := t.TempDir()
	head := write(t, dir, 30, 2000)
	var archive bytes.Buffer
	if err := Export(dir, &archive); err != nil {
		t.Fatal(err)
	}
	good := archive.Bytes()
	if r, err := VerifyTar(bytes.NewReader(good), head); err != nil || r.Entries != 30 || !r.Saved {
		t.Errorf("%+v, %v", r, err)
	}
	bad := bytes.Replace(bytes.Clone(good), []byte("blocked"), []byte("routed!"), 1)
	if _, err := VerifyTar(bytes.NewReader(bad), head); !errors.Is(err, ErrBroken) {
		t.Errorf("edited archive: %v", err)
	}
	if _, err := VerifyTar(bytes.NewReader(nil), head); err == nil {
		t.Error("an empty archive reached the head")
	}
}

// A log without its beginning, or without anything, is not whole, whatever is chained
// well in the rest of it, and whether it lies in a directory or an archive.
func TestBeginningMustBeThere(t *testing.T) {
	full := t.TempDir()
	head := write(t, full, 30, 2000)
	names, err := segments(os.DirFS(full))
	if err != nil || len(names) < 4 {
		t.Fatalf("%d segments, %v", len(names), err)
	}
	for _, c := range []struct {
		name string
		drop int
		want string
	}{{"first gone", 1, "segments 1 to 1 are missing"}, {"first three gone", 3, "segments 1 to 3 are missing"}, {"all gone", len(names), "no segment"}} {
		dir := t.TempDir()
		for _, n := range names[c.drop:] {
			b, err := os.ReadFile(filepath.Join(full, n))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var archive bytes.Buffer
		if err := Export(dir, &archive); err != nil {
			t.Fatal(err)
		}
		for _, saved := range []Head{head, {}} {
			_, err := Verify(dir, saved)
			if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, directory: %v", c.name, err)
			}
			_, err = VerifyTar(bytes.NewReader(archive.Bytes()), saved)
			if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, archive: %v", c.name, err)
			}
		}
	}
}

// An entry that cannot be written as it is must not hold up those behind it.
func TestUnwritableEntriesAreCutDown(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	huge := entry(1)
	huge.Detail = map[string]string{"a": strings.Repeat("\x01", 3<<20), strings.Repeat("k", 1<<20): "v"}
	ancient := entry(2)
	ancient.Time = time.Date(30000, 1, 1, 0, 0, 0, 0, time.UTC)
	odd := entry(3)
	odd.Subject = "\xff\xfe not text"
	head, err := c.Append(huge, ancient, odd)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(dir, head); err != nil || r.Entries != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

func readLines(t *testing.T, dir string) [][]string {
	t.Helper()
	names, err := segments(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"))
	}
	return out
}

// writeLines writes segments back under their numbers; one without lines is removed.
func writeLines(t *testing.T, dir string, lines [][]string) {
	t.Helper()
	for i, l := range lines {
		path := filepath.Join(dir, segmentName(uint64(i+1)))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if l == nil {
			continue
		}
		if err := os.WriteFile(path, []byte(strings.Join(l, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
