package update

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// ESP is the directory of slots. After a loss of power it may have any part of what was
// written since the last Sync, of a file or of the directory, in any order.
type ESP interface {
	// List returns the names and sizes of the files.
	List() (map[string]int64, error)
	// Free is how many bytes a new file may have.
	Free() (int64, error)
	// Create makes a file, or empties it.
	Create(name string) (File, error)
	// Open reads a file from the disk, not from memory.
	Open(name string) (Stored, error)
	// Rename replaces what has the new name.
	Rename(old, new string) error
	Remove(name string) error
	// Sync returns once what was done to the directory is on the disk.
	Sync() error
}

// File is one that is written.
type File interface {
	io.WriteCloser
	Sync() error
}

// Stored is one that is read.
type Stored interface {
	io.ReadCloser
	io.ReaderAt
}

// Dir is an ESP in a mounted file system.
type Dir struct{ root *os.Root }

// OpenDir opens appliance.SlotDir below where the EFI system partition is mounted, and
// makes it where it is not there.
func OpenDir(mounted string) (*Dir, error) {
	at := filepath.Join(mounted, appliance.SlotDir)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, fmt.Errorf("opening the slots: %w", err)
	}
	root, err := os.OpenRoot(at)
	if err != nil {
		return nil, fmt.Errorf("opening the slots: %w", err)
	}
	return &Dir{root}, nil
}

// Close ends the use of the directory.
func (d *Dir) Close() error { return d.root.Close() }

// with opens the directory itself.
func (d *Dir) with(do func(f *os.File) error) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

// List implements ESP.
func (d *Dir) List() (map[string]int64, error) {
	out := map[string]int64{}
	return out, d.with(func(f *os.File) error {
		all, err := f.ReadDir(-1)
		if err != nil {
			return err
		}
		for _, e := range all {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
				out[e.Name()] = info.Size()
			}
		}
		return nil
	})
}

// Free implements ESP.
func (d *Dir) Free() (free int64, err error) {
	err = d.with(func(f *os.File) error {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
			return err
		}
		free = int64(st.Bavail) * int64(st.Bsize)
		return nil
	})
	return free, err
}

// Create implements ESP.
func (d *Dir) Create(name string) (File, error) {
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

// Open implements ESP. What is in memory of the file is dropped first, so that the disk's
// word is read; the file was synced.
func (d *Dir) Open(name string) (Stored, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Rename implements ESP.
func (d *Dir) Rename(old, new string) error { return d.root.Rename(old, new) }

// Remove implements ESP.
func (d *Dir) Remove(name string) error { return d.root.Remove(name) }

// Sync implements ESP. All of the file system goes to the disk: FAT has its table apart
// from its directories.
func (d *Dir) Sync() error {
	return d.with(func(f *os.File) error { return unix.Syncfs(int(f.Fd())) })
}
