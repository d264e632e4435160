package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS: a number of blocks.
const resizeFS = 0x40086610

// Mount mounts a device and grows its file system to size bytes. The kernel replays what
// the journal holds after a power cut. Nothing in the file system is a device or a program,
// and after the first error it is read-only.
func Mount(device, target string, size int64) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, target, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting %s: %w", device, err)
	}
	if err := grow(target, size/blockSize); err != nil {
		return fmt.Errorf("growing file system of %s: %w", device, err)
	}
	return nil
}

// grow does nothing where the file system has as many blocks already.
func grow(target string, blocks int64) error {
	d, err := os.Open(target)
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	n := uint64(blocks)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), resizeFS, uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return e
	}
	return nil
}

// Unmount writes everything out, and unmounts.
func Unmount(target string) error {
	unix.Sync()
	if err := unix.Unmount(target, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", target, err)
	}
	return nil
}

// State is how a mounted file system does.
type State struct {
	Size, Free int64 // bytes; free to those who are not root
	ReadOnly   bool
	Errors     int // that the kernel met
}

// Stat asks the kernel; sys is where sysfs is, device the file system's.
func Stat(target, sys, device string) (State, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return State{}, fmt.Errorf("asking for the room on %s: %w", target, err)
	}
	s := State{Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize, ReadOnly: st.Flags&unix.ST_RDONLY != 0}
	if b, err := os.ReadFile(filepath.Join(sys, "fs/ext4", filepath.Base(device), "errors_count")); err == nil {
		s.Errors, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return s, nil
}
