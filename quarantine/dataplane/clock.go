package dataplane

import (
	"time"

	"golang.org/x/sys/unix"

	"lazaret/firewall"
)

// Times is one look at the three clocks.
type Times struct {
	Wall      time.Time
	Boot      firewall.Deadline // CLOCK_BOOTTIME, nanoseconds
	Monotonic int64             // CLOCK_MONOTONIC, nanoseconds
}

// SystemTimes looks at the system's clocks.
func SystemTimes() Times {
	return Times{Wall: time.Now(), Boot: firewall.Now(), Monotonic: read(unix.CLOCK_MONOTONIC)}
}

func read(clock int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic("reading a clock that every Linux has: " + err.Error())
	}
	return ts.Nano()
}

// jump is how far clocks went apart between two looks.
type jump struct {
	suspended time.Duration // boot time that passed while the kernel's timers stood still
	wall      time.Duration // wall time gained on boot time; negative: lost
}

// tolerated is the difference between two looks a second apart that slewing a clock
// can make, and some more.
const tolerated = 2 * time.Second

// between compares two looks. A suspended machine's timers stand still while boot
// time goes on; a paused virtual machine's boot time stands still as well, and shows
// when somebody sets its wall clock right.
func between(a, b Times) jump {
	boot := time.Duration(b.Boot - a.Boot)
	return jump{
		suspended: boot - time.Duration(b.Monotonic-a.Monotonic),
		wall:      b.Wall.Round(0).Sub(a.Wall.Round(0)) - boot, // Round strips the monotonic reading
	}
}

func (j jump) over() bool { return j.suspended.Abs() > tolerated || j.wall.Abs() > tolerated }
