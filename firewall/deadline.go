package firewall

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the present instant of CLOCK_BOOTTIME.
func Now() Deadline {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("reading CLOCK_BOOTTIME: " + err.Error()) // cannot fail on Linux 2.6.39 and newer
	}
	return Deadline(ts.Nano())
}

// After is the instant d from now; zero, no deadline at all, unless d is positive.
func After(d time.Duration) Deadline {
	if d <= 0 {
		return 0
	}
	return Now() + Deadline(d)
}
