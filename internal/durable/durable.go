// Package durable writes files that a crash and a loss of power leave whole: with their old
// or their new content, and never with half of one. What it has written is on the disk when
// it returns: the content, and the name in its directory.
//
// It is for files that are written as a whole. What appends to a file, or goes on holding it
// open, as a journal does, has ways of its own.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// disk is how this package has things done.
type disk struct {
	step func(what string) error // called before each thing that is done, by what it is; nil but in tests
	sync func(*os.File) error    // has an open file or directory on the disk
}

// system is the disk outside of tests.
var system = disk{sync: (*os.File).Sync}

func (s disk) before(what string) error {
	if s.step == nil {
		return nil
	}
	return s.step(what)
}

// Write replaces a file, or makes it, with this mode whatever the umask. A symbolic link in
// its place is replaced, and not followed. After an error the file has its old content, or,
// if its name could not be put on the disk, its new one, perhaps not for good. Errors name
// the file and what to do, and wrap the system's.
func Write(path string, text []byte, mode fs.FileMode) error {
	return system.write(path, text, mode, os.Rename)
}

// Create is Write for a file that must not be there yet: the error is an fs.ErrExist if it
// is. After an error it is not there.
func Create(path string, text []byte, mode fs.FileMode) error {
	return system.create(path, text, mode)
}

func (s disk) create(path string, text []byte, mode fs.FileMode) error {
	put := false
	err := s.write(path, text, mode, func(from, to string) error {
		err := link(from, to)
		put = err == nil
		return err
	})
	if err != nil && put {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// link puts a finished file in a place that must be empty, where a rename would replace. On a
// file system without hard links, as on a USB stick, an empty file takes the place first.
func link(from, to string) error {
	if err := os.Link(from, to); errors.Is(err, fs.ErrExist) {
		return err
	} else if err != nil {
		return linkless(from, to)
	}
	if err := os.Remove(from); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

func linkless(from, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Rename(from, to)); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

func (s disk) write(path string, text []byte, mode fs.FileMode, put func(from, to string) error) error {
	if err := s.replace(path, text, mode, put); err != nil {
		return fmt.Errorf("writing %s: %w%s", path, err, remedy(err))
	}
	sweep(path)
	return nil
}

func (s disk) replace(path string, text []byte, mode fs.FileMode, put func(from, to string) error) error {
	dir, err := os.Open(filepath.Dir(path)) // before the change, which may still be left undone
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := s.fill(path, text, mode)
	if err == nil {
		if err = s.before("put"); err == nil {
			err = put(f, path)
		}
	}
	if f != "" && err != nil {
		if gone := os.Remove(f); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	if err != nil {
		return err
	}
	if err = s.before("sync directory"); err == nil {
		err = s.flush(dir)
	}
	return err
}

// fill makes a finished file beside path, and returns its name, also with an error if it is
// there.
func (s disk) fill(path string, text []byte, mode fs.FileMode) (name string, err error) {
	if err := s.before("create"); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), prefix(path)+"*") // mode 0600, and nobody's link
	if err != nil {
		return "", err
	}
	for _, do := range []struct {
		what string
		do   func() error
	}{
		{"write", func() error { _, err := f.Write(text); return err }},
		{"chmod", func() error { return chmod(f, mode) }},
		{"sync", func() error { return s.sync(f) }},
	} {
		if err = s.before(do.what); err == nil {
			err = do.do()
		}
		if err != nil {
			break
		}
	}
	return f.Name(), errors.Join(err, f.Close())
}

// chmod gives a file its mode, where files have one: a new file that others may read has that
// from its file system, as on a USB stick, which takes no other.
func chmod(f *os.File, mode fs.FileMode) error {
	at, err := f.Stat()
	if err != nil || at.Mode().Perm()&^0o600 != 0 {
		return err
	}
	return f.Chmod(mode)
}

// MakeDir makes a directory and what is missing above it, and has them on the disk.
func MakeDir(dir string, mode fs.FileMode) error {
	var made []string
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		made = append(made, at)
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	for _, at := range made {
		if err := SyncDir(filepath.Dir(at)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir has a directory's names on the disk, after a file of it was renamed or removed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(system.flush(d), d.Close())
}

// flush has an open directory's names on the disk. Windows keeps names in a journal of its
// own, and flushes no directory for who reads it.
func (s disk) flush(dir *os.File) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	return s.sync(dir)
}

// remedy tells what somebody can do about an error.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, errQuota):
		return "; make room on the disk that it is on"
	case errors.Is(err, syscall.EROFS):
		return "; have the file system that it is on mounted for writing"
	case errors.Is(err, fs.ErrPermission):
		return "; let this user write to its directory"
	case errors.Is(err, fs.ErrExist):
		return "; move the one that is there away first"
	case errors.Is(err, fs.ErrNotExist):
		return "; make its directory first"
	case errors.Is(err, syscall.EIO):
		return "; the disk fails: look at the kernel's log"
	}
	return ""
}
