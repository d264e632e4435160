package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// etcd ends the process when its disk is full, cannot even start to delete something then, and
// at the next start writes the same pages again, for which there is no room either. So room is
// held while there is some, none of it without a ballast:
//
//   - the ballast, a file that is given up as soon as the disk is full;
//   - blocks of etcd's database for all that it takes, which is full of holes, and for what it
//     grows by next, so that changes go on without a free block;
//   - the spare, a file of which a start on a full disk gives up half, whoever takes it: for
//     segments of etcd's log, for its snapshots, and for what else a start may need.
const (
	ahead     = 16 << 20       // bytes behind the database's end: what bbolt grows by
	spareSize = 32 << 20       // bytes
	leastFree = 2 * walSegment // bytes; with fewer a start gives something up

	// etcd ends the process where a snapshot cannot be written. Without snapshotRoom bytes it makes
	// one after snapshotSeldom entries, its own number: its log may end before.
	snapshotRoom   = 1 << 20
	snapshotSeldom = 10_000
)

func ballastPath(dir string) string { return filepath.Join(dir, "ballast") }
func sparePath(dir string) string   { return filepath.Join(dir, "spare") }

// makeRoom holds what room there is before etcd starts. Where there is none it gives some up. It
// reports whether there is some for snapshots.
func makeRoom(c Config) bool {
	if c.Ballast < 0 {
		return true
	}
	err := holdAhead(c)
	free, e := diskFree(c.Dir)
	if !errors.Is(err, unix.ENOSPC) && (e != nil || free >= leastFree) {
		if err := errors.Join(err, e); err != nil { // a file system that holds no room, say
			c.Log.Warn("no room ahead of the database", "err", err)
		}
		if err := hold(ballastPath(c.Dir), c.Ballast); err != nil {
			c.Log.Warn("no disk ballast", "err", err)
		}
		if err := holdSpare(c); err != nil {
			c.Log.Warn("no spare for a start on a full disk", "err", err)
		}
		return true
	}
	c.Log.Error("the gateway's disk is full: giving up some of what is kept for that; make room, then restart", "free", free)
	err = os.Remove(ballastPath(c.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		err = halveSpare(c.Dir)
	}
	if err := errors.Join(err, holdAhead(c)); err != nil {
		c.Log.Error("little room to start the store", "err", err)
	}
	free, err = diskFree(c.Dir)
	return err == nil && free >= snapshotRoom
}

// holdAhead has blocks allocated for all of etcd's database, and for ahead bytes behind its end.
func holdAhead(c Config) error {
	if c.Ballast < 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, "member", "snap", "db"), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("holding room for the database: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("holding room for the database: %w", err)
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, info.Size()+ahead); err != nil {
		return fmt.Errorf("holding room for the database: %w", err)
	}
	return nil
}

func holdSpare(c Config) error {
	if c.Ballast < 0 {
		return nil
	}
	return hold(sparePath(c.Dir), spareSize)
}

// halveSpare gives up half of what is left of the spare: something is left for later starts,
// also where others take what is given up.
func halveSpare(dir string) error {
	f, err := os.OpenFile(sparePath(dir), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("giving up half of the spare: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("giving up half of the spare: %w", err)
	}
	if err := errors.Join(f.Truncate(info.Size()/2), f.Sync()); err != nil {
		return fmt.Errorf("giving up half of the spare: %w", err)
	}
	return nil
}

// hold makes a file of size bytes where the disk has four times its size left.
func hold(path string, size int64) error {
	free, err := diskFree(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("measuring disk: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	if free < 4*size {
		return fmt.Errorf("the disk has less than %d MiB left", 4*size>>20)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making %s: %w", filepath.Base(path), err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return errors.Join(fmt.Errorf("making %s: %w", filepath.Base(path), err), os.Remove(f.Name()))
	}
	return nil
}

func (s *Store) dropBallast() {
	if err := os.Remove(ballastPath(s.cfg.Dir)); err == nil {
		s.cfg.Log.Error("gave up the disk ballast: make room, then restart", "bytes", s.cfg.Ballast)
	}
}
