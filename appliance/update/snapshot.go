package update

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const snapshotPrefix = "snapshot-"

func (m *Manager) snapshotDir(schema int) string {
	return filepath.Join(m.cfg.Dir, snapshotPrefix+strconv.Itoa(schema))
}

func (m *Manager) hasSnapshot(schema int) bool {
	_, err := os.Stat(m.snapshotDir(schema))
	return err == nil
}

// prepareData has the data as this build reads them. Where it writes a newer schema, they
// are copied first, and the copy is there until it is blessed; where they are newer than
// it, because the newer build was left on trial, the copy comes back, and what was written
// since is lost.
func (m *Manager) prepareData() error {
	has := m.known().Schema
	switch {
	case has == m.cfg.Schema:
		return nil
	case has == 0:
	case has < m.cfg.Schema:
		if err := m.snapshot(has); err != nil {
			return fmt.Errorf("copying data of schema %d before version %s uses them: %w", has, m.cfg.Version, err)
		}
	default:
		if err := m.restore(); err != nil {
			return fmt.Errorf("bringing back data of schema %d for version %s: %w", m.cfg.Schema, m.cfg.Version, err)
		}
	}
	return m.change(func(r *record) { r.Schema = m.cfg.Schema })
}

func (m *Manager) snapshot(schema int) error {
	to := m.snapshotDir(schema)
	tmp := to + tmpSuffix
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(to)); err != nil {
		return err
	}
	var need int64
	for _, dir := range m.cfg.State {
		n, err := treeSize(dir)
		if err != nil {
			return err
		}
		need += n
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.cfg.Dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < need+need/4 {
		return refused("the data partition has no room for a copy: %d MiB are needed and %d free", (need+need/4)>>20, free>>20)
	}
	for i, dir := range m.cfg.State {
		if err := copyTree(dir, filepath.Join(tmp, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncDir(m.cfg.Dir)
}

// restore may be cut anywhere and done again: the copy stays until the record says that it
// was done and the next version is blessed.
func (m *Manager) restore() error {
	if !m.hasSnapshot(m.cfg.Schema) {
		return refused("the data are of schema %d, and there is no copy from before", m.known().Schema)
	}
	for i, dir := range m.cfg.State {
		fresh, old := dir+".restored", dir+".newer"
		if err := errors.Join(os.RemoveAll(fresh), copyTree(filepath.Join(m.snapshotDir(m.cfg.Schema), strconv.Itoa(i)), fresh)); err != nil {
			return err
		}
		if _, err := os.Stat(dir); err == nil {
			if err := errors.Join(os.RemoveAll(old), os.Rename(dir, old)); err != nil {
				return err
			}
		}
		if err := os.Rename(fresh, dir); err != nil {
			return err
		}
		if err := errors.Join(syncDir(filepath.Dir(dir)), os.RemoveAll(old)); err != nil {
			return err
		}
	}
	return nil
}

// dropSnapshots removes the copies that a version needed which is blessed now.
func (m *Manager) dropSnapshots() error {
	all, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range all {
		if strings.HasPrefix(e.Name(), snapshotPrefix) {
			faults = append(faults, os.RemoveAll(filepath.Join(m.cfg.Dir, e.Name())))
		}
	}
	return errors.Join(faults...)
}

func treeSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += max(info.Size(), 4096)
		}
		return err
	})
	return n, err
}

// copyTree copies directories and regular files with their owners and modes, and returns
// once they are on the disk. It follows no links, and there are none.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case d.IsDir():
			if err := os.MkdirAll(at, 0o700); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			if err := copyFile(path, at); err != nil {
				return err
			}
		default:
			return nil // sockets: whoever listens makes them anew
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
			if err := os.Lchown(at, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
		return os.Chmod(at, info.Mode().Perm())
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
