package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSweep: what crashes left goes, of this way of writing and of those named; what is new,
// what is no such file, and what is whole stays.
func TestSweep(t *testing.T) {
	for _, x := range []struct {
		within time.Duration
		left   []string
	}{
		{0, []string{".bashrc", ".file.new-d", ".new", "file", "file.new-1"}},
		{time.Hour, []string{".bashrc", ".file.new-2", ".file.new-d", ".new", "file", "file.new-1"}},
	} {
		dir := t.TempDir()
		long := time.Now().Add(-2 * time.Hour)
		for _, name := range []string{"file", ".bashrc", ".new", "file.new-1", ".file.new-1", ".other.new-3", ".key-4", "ring.new", ".file.new-2"} {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if name != ".file.new-2" {
				if err := os.Chtimes(path, long, long); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Mkdir(filepath.Join(dir, ".file.new-d"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Sweep(dir, x.within, ".key-*", "ring.new"); err != nil {
			t.Error(err)
		}
		if got := names(t, dir); !slices.Equal(got, x.left) {
			t.Errorf("%s: left are %v, want %v", x.within, got, x.left)
		}
	}
	if err := Sweep(filepath.Join(t.TempDir(), "none"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
