package supervise

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// fork starts a program that can never have more capabilities than its ambient ones, nor
// gain any by what it runs: both are settled by the thread that forks, and inherited. The
// thread ends with that.
func fork(program string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	if os.Geteuid() != 0 { // it has nothing to give away
		return syscall.ForkExec(program, argv, attr)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock it
		_ = slacken()          // it works without
		if err = bound(attr.Sys.AmbientCaps); err == nil {
			pid, err = syscall.ForkExec(program, argv, attr)
		}
	}()
	<-done
	return pid, err
}

// bound takes all capabilities but those to keep from the thread's bounding set, where it
// may, and has no program give it any.
func bound(keep []uintptr) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up new privileges: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		switch {
		case errors.Is(err, unix.EINVAL): // the kernel has no more
			return nil
		case errors.Is(err, unix.EPERM) && os.Getpid() != 1: // as root in a container may not
			return nil
		case err != nil:
			return fmt.Errorf("giving up capabilities: %w", err)
		}
	}
	return nil
}
