package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Landlock calls reading and writing; what a file cannot have is left out for files
// (Documentation/userspace-api/landlock.rst). Nobody keeps the right to execute.
const (
	mayRead      = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	mayWriteFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	mayWrite     = mayRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REFER
)

// fullABI is the newest version that is used here, of Linux 6.12.
const fullABI = 6

// handled are the rights that a version of Landlock knows.
func handled(abi int) uint64 {
	bits := 13 // version 1: up to MAKE_SYM
	for _, since := range []int{2, 3, 5} {
		if abi >= since { // REFER, TRUNCATE, IOCTL_DEV
			bits++
		}
	}
	return 1<<bits - 1
}

// landlockABI is the version that this kernel has; 0: none.
func landlockABI() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// Lacks says in sentences what this kernel cannot confine; to be logged.
func Lacks() []string {
	switch abi := landlockABI(); {
	case abi == 0:
		return []string{"The kernel has no Landlock: files are protected by their owners and modes alone."}
	case abi < fullABI:
		return []string{fmt.Sprintf("The kernel has version %d of Landlock, not %d: some uses of files, devices and TCP are not restricted.", abi, fullABI)}
	}
	return nil
}

// restrictFiles leaves the process the paths and nothing else. Without tcp it may neither
// listen nor connect over TCP; binding to no port in particular, by which the Go library
// finds out which families there are, stays.
func restrictFiles(paths Paths, tcp bool) error {
	abi := landlockABI()
	if abi == 0 {
		return nil // Lacks says so
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handled(abi)}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if abi >= 4 {
		size = unsafe.Offsetof(attr.Scoped)
		if !tcp {
			attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
	}
	if abi >= 6 {
		size = unsafe.Offsetof(attr.Quiet_access_fs)
		// Signals are the seccomp filter's: kernels before 6.15 would keep the runtime's
		// threads, each in a domain of its own, from signalling each other.
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	r, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("making rules: %w", errno)
	}
	rules := int(r)
	defer unix.Close(rules)
	for _, path := range paths.ReadOnly {
		if err := allow(rules, path, mayRead&attr.Handled_access_fs, mayRead&mayWriteFile); err != nil {
			return err
		}
	}
	for _, path := range paths.ReadWrite {
		if err := allow(rules, path, mayWrite&attr.Handled_access_fs, mayWriteFile&attr.Handled_access_fs); err != nil {
			return err
		}
	}
	if attr.Handled_access_net != 0 {
		any := struct{ access, port uint64 }{access: unix.LANDLOCK_ACCESS_NET_BIND_TCP}
		const netPort = 2 // LANDLOCK_RULE_NET_PORT
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, r, netPort, uintptr(unsafe.Pointer(&any)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("leaving TCP without a port: %w", errno)
		}
	}
	return everywhere(unix.SYS_LANDLOCK_RESTRICT_SELF, r, 0, 0)
}

// allow leaves the process rights over one path.
func allow(rules int, path string, dir, file uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keeping %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("keeping %s: %w", path, err)
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: file, Parent_fd: int32(fd)}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		attr.Allowed_access = dir
	}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("keeping %s: %w", path, errno)
	}
	return nil
}
