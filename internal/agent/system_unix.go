//go:build linux || darwin

package agent

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownDirectory refuses a directory that others may enter, or that is somebody else's.
func ownDirectory(dir string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s may be entered by others: chmod 700 it", dir)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to the one this runs as: chown it, or give another --dir", dir, owner.Uid)
	}
	return nil
}

// lockFile locks an open file against other processes until it is closed.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
