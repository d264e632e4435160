//go:build linux || darwin

package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEraseProgramIsRoots: nothing is started on an order from afar but a program that root
// alone can have put there.
func TestEraseProgramIsRoots(t *testing.T) {
	const dir = fs.ModeDir | 0o755
	good := map[string]owned{"/": {0, dir}, "/opt": {0, dir}, "/opt/mdm": {0, dir}, "/opt/mdm/erase": {0, 0o755}}
	with := func(path string, o owned) map[string]owned {
		out := map[string]owned{}
		for p, o := range good {
			out[p] = o
		}
		out[path] = o
		return out
	}
	for _, c := range []struct {
		name, path string
		files      map[string]owned
		ok         bool
	}{
		{"root's", "/opt/mdm/erase", good, true},
		{"below a directory like /tmp", "/opt/mdm/erase", with("/opt", owned{0, fs.ModeDir | fs.ModeSticky | 0o777}), true},
		{"in a directory like /tmp", "/opt/mdm/erase", with("/opt/mdm", owned{0, fs.ModeDir | fs.ModeSticky | 0o777}), false},
		{"none", "", good, false},
		{"by a short name", "erase", good, false},
		{"by a way round", "/opt/mdm/../mdm/erase", good, false},
		{"not there", "/opt/mdm/format", good, false},
		{"a user's", "/opt/mdm/erase", with("/opt/mdm/erase", owned{1000, 0o755}), false},
		{"a group may write it", "/opt/mdm/erase", with("/opt/mdm/erase", owned{0, 0o775}), false},
		{"all may write it", "/opt/mdm/erase", with("/opt/mdm/erase", owned{0, 0o757}), false},
		{"no program", "/opt/mdm/erase", with("/opt/mdm/erase", owned{0, 0o644}), false},
		{"a link", "/opt/mdm/erase", with("/opt/mdm/erase", owned{0, fs.ModeSymlink | 0o777}), false},
		{"a directory", "/opt/mdm/erase", with("/opt/mdm/erase", owned{0, dir}), false},
		{"in a user's directory", "/opt/mdm/erase", with("/opt/mdm", owned{1000, dir}), false},
		{"in one that all may write", "/opt/mdm/erase", with("/opt", owned{0, fs.ModeDir | 0o777}), false},
		{"behind a link", "/opt/mdm/erase", with("/opt", owned{0, fs.ModeSymlink | 0o755}), false},
	} {
		err := checkOwned(c.path, func(path string) (owned, error) {
			o, ok := c.files[path]
			if !ok {
				return o, fs.ErrNotExist
			}
			return o, nil
		})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestErase: the program runs without arguments and with nothing of the agent's
// environment; one that fails, or cannot be started, is a failure.
func TestErase(t *testing.T) {
	t.Setenv("LAZARET_SECRET", "x")
	dir := t.TempDir()
	program := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
		return path
	}
	mark := filepath.Join(dir, "ran")
	log := slog.New(slog.DiscardHandler)
	if detail, err := erase(t.Context(), program("good", "pwd >"+mark+"; env >>"+mark+"; echo $# >>"+mark), log); err != nil || !strings.Contains(detail, "ended well") {
		t.Errorf("%q, %v", detail, err)
	}
	text, err := os.ReadFile(mark)
	if err != nil || !strings.HasPrefix(string(text), "/\n") || !strings.HasSuffix(string(text), "\n0\n") || strings.Contains(string(text), "LAZARET") {
		t.Errorf("it ran as %q, %v", text, err)
	}
	if _, err := erase(t.Context(), program("bad", "exit 3"), log); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a program that fails: %v", err)
	}
	if _, err := erase(t.Context(), filepath.Join(dir, "none"), log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}
