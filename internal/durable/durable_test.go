package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var steps = []string{"create", "write", "chmod", "sync", "put", "sync directory"}

// names are the files of a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// at is a disk of this machine that has something called before each step.
func at(step func(what string) error) disk { return disk{step: step, sync: system.sync} }

// TestOrder: the content is on the disk before the name is, and the name before it returns.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for name, write := range map[string]func(disk) error{
		"write":  func(d disk) error { return d.write(path, []byte("new"), 0o640, os.Rename) },
		"create": func(d disk) error { return d.create(path, []byte("new"), 0o640) },
	} {
		_ = os.Remove(path)
		want := "new"
		if name == "write" {
			if err := Write(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var done, synced []string
		d := disk{step: func(what string) error { done = append(done, what); return nil }}
		d.sync = func(f *os.File) error {
			of, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			now, _ := os.ReadFile(path)
			if of.IsDir() {
				if at, err := os.Stat(dir); err != nil || !os.SameFile(at, of) || string(now) != want {
					t.Errorf("%s: the directory %s is put on the disk while the file holds %q", name, f.Name(), now)
				}
				synced = append(synced, "directory")
			} else {
				if got := content(t, f.Name()); f.Name() == path || got != want || string(now) == want || of.Mode().Perm() != 0o640 {
					t.Errorf("%s: %s with %q and %v is put on the disk while the file holds %q", name, f.Name(), got, of.Mode(), now)
				}
				synced = append(synced, "content")
			}
			return f.Sync()
		}
		if err := write(d); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(done, steps) || !slices.Equal(synced, []string{"content", "directory"}) {
			t.Errorf("%s: done were %v, on the disk were put %v", name, done, synced)
		}
	}
}

// TestSystem: outside of tests it is the kernel that is asked, which has no disk for a pipe.
func TestSystem(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := system.sync(w); err == nil {
		t.Error("a pipe is on the disk")
	}
	if err := SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := (disk{sync: func(*os.File) error { return syscall.EIO }}).write(filepath.Join(t.TempDir(), "file"), nil, 0o600, os.Rename); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that fails: %v", err)
	}
}

// TestFailureAtEachStep: an error at any step leaves the old content, but for the last one,
// and no temporary file; the error names the file and what to do.
func TestFailureAtEachStep(t *testing.T) {
	for _, last := range steps {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if err := Write(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		full := at(func(what string) error {
			if what == last {
				return syscall.ENOSPC
			}
			return nil
		})
		err := full.write(path, []byte("new"), 0o600, os.Rename)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "make room") {
			t.Errorf("%s: %v", last, err)
		}
		want := "old"
		if last == "sync directory" {
			want = "new"
		}
		if got := content(t, path); got != want {
			t.Errorf("%s: the file holds %q", last, got)
		}
		if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
			t.Errorf("%s: there are %v", last, got)
		}
	}
}

// TestCrashAtEachStep: a process that ends at any step, without a chance to clear up, leaves
// the old content or the new, and what it leaves beside it goes in time.
func TestCrashAtEachStep(t *testing.T) {
	for i, last := range steps {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if err := Write(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = at(func(what string) error {
				if what == last {
					panic("power")
				}
				return nil
			}).write(path, []byte("new"), 0o600, os.Rename)
			t.Errorf("%s: no such step", last)
		}()
		want := "old"
		if i == len(steps)-1 {
			want = "new"
		}
		if got := content(t, path); got != want {
			t.Errorf("%s: the file holds %q", last, got)
		}
		left := names(t, dir)
		if crashed := last != "create" && last != "sync directory"; (len(left) == 2) != crashed {
			t.Errorf("%s: there are %v", last, left)
		}
		for _, name := range left {
			if name != "file" {
				long := time.Now().Add(-2 * stale)
				if err := os.Chtimes(filepath.Join(dir, name), long, long); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := Write(path, []byte("third"), 0o600); err != nil {
			t.Fatal(err)
		}
		if left = names(t, dir); len(left) != 1 || content(t, path) != "third" {
			t.Errorf("%s: afterwards there are %v", last, left)
		}
	}
}

// TestAnotherWriterIsLeftAlone: a temporary file that is new may be another's work, and one
// of another file is never touched.
func TestAnotherWriterIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".file.new-1", ".other.new-1", "file.new"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * stale)
	if err := os.Chtimes(filepath.Join(dir, ".other.new-1"), long, long); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 4 {
		t.Errorf("there are %v", got)
	}
}

// TestModes: the file has the mode asked for, whatever the umask and whatever it had.
func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, mode := range []fs.FileMode{0o644, 0o600, 0o666, 0o400, 0o640} {
		if err := Write(path, []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
		at, err := os.Stat(path)
		if err != nil || at.Mode().Perm() != mode {
			t.Errorf("the mode is %v (%v), want %v", at.Mode(), err, mode)
		}
	}
}

// TestLinkIsReplaced: what a symbolic link leads to is not written to.
func TestLinkIsReplaced(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(victim, []byte("kept"), 0o600), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("new"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created over a link: %v", err)
	}
	if err := Write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if at, err := os.Lstat(path); err != nil || !at.Mode().IsRegular() || content(t, path) != "new" || content(t, victim) != "kept" {
		t.Errorf("%v %v, %q, %q", at.Mode(), err, content(t, path), content(t, victim))
	}
}

// TestCreate: what is there stays, and what failed is not there.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Create(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Create(path, []byte("second"), 0o600)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "move the one that is there") || content(t, path) != "first" {
		t.Errorf("%v, and the file holds %q", err, content(t, path))
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
	for _, last := range steps {
		path := filepath.Join(t.TempDir(), "file")
		bad := at(func(what string) error {
			if what == last {
				return syscall.EIO
			}
			return nil
		})
		if err := bad.create(path, []byte("x"), 0o600); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", last, err)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 0 {
			t.Errorf("%s: there are %v", last, got)
		}
	}
	other := filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "made"), []byte("x"), 0o600), linkless(filepath.Join(dir, "made"), other)); err != nil || content(t, other) != "x" {
		t.Errorf("without links: %v", err)
	}
	if err := linkless(path, other); !errors.Is(err, fs.ErrExist) || content(t, other) != "x" {
		t.Errorf("without links, over a file: %v", err)
	}
	if err := Write(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make its directory") {
		t.Errorf("no directory: %v", err)
	}
}
