package confine

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keepCapabilities gives up every capability but those named, of which it keeps what there
// is, and empties the ambient set. The bounding set follows where the process may change
// it; where it may not, no_new_privs has made it meaningless: no program gives any back.
func keepCapabilities(keep []int) error {
	var mask uint64
	for _, c := range keep {
		mask |= 1 << c
	}
	if err := everywhere(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return fmt.Errorf("emptying the ambient set: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	have := uint64(sets[0].Effective) | uint64(sets[1].Effective)<<32
	if have&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range 64 {
			if mask&(1<<c) != 0 {
				continue
			}
			if err := everywhere(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); errors.Is(err, unix.EINVAL) {
				break // the kernel has no more
			} else if err != nil {
				return fmt.Errorf("bounding: %w", err)
			}
		}
	}
	for i := range sets {
		half := uint32(mask >> (32 * i))
		sets[i].Effective &= half
		sets[i].Permitted &= half
		sets[i].Inheritable = 0
	}
	header.Pid = 0 // each thread for itself
	if err := everywhere(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0); err != nil {
		return fmt.Errorf("setting: %w", err)
	}
	return nil
}
