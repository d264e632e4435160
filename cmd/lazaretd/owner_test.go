package main

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"lazaret/internal/testneed"
)

// TestOwner: who serve will run as is looked up by name, and a name that nobody has is an
// error, and not root.
func TestOwner(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	got, err := findOwner(me.Username)
	if err != nil || strconv.Itoa(got.uid) != me.Uid || strconv.Itoa(got.gid) != me.Gid || got.control()[0] != me.Uid {
		t.Errorf("%+v, want %+v (%v)", got, me, err)
	}
	if got, err := findOwner("no-such-user-here"); err == nil {
		t.Errorf("nobody's name gives %+v", got)
	}
	if _, err := user.Lookup(serveUser); err != nil {
		if got, err := findOwner(""); got != nil || err != nil {
			t.Errorf("without a name and without the package's user: %+v, %v", got, err)
		}
	}
}

// TestGive: everything in the directory is handed over; what a link in it points to is not.
func TestGive(t *testing.T) {
	testneed.Root(t, "because only root gives files away")
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	inside := filepath.Join(dir, "etcd", "member")
	if err := os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(inside, "link")); err != nil {
		t.Fatal(err)
	}
	o := owner{"somebody", 12345, 12346}
	if err := o.give(dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{dir: 12345, inside: 12345, filepath.Join(inside, "link"): 12345, outside: uint32(os.Getuid())} {
		at, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := at.Sys().(*syscall.Stat_t); got.Uid != want || want == 12345 && got.Gid != 12346 {
			t.Errorf("%s belongs to %d:%d", path, got.Uid, got.Gid)
		}
	}
}
