package testnet

import (
	"time"

	"golang.org/x/sys/unix"
)

// Stamp is an instant of CLOCK_BOOTTIME in nanoseconds: the same clock in every
// host of a lab, and the one that the firewall's deadlines are of. Zero is never.
type Stamp int64

// Now reads the clock.
func Now() Stamp { return readClock(unix.CLOCK_BOOTTIME) }

// Sub returns how long after t s is.
func (s Stamp) Sub(t Stamp) time.Duration { return time.Duration(s - t) }

// Add returns the instant d after s.
func (s Stamp) Add(d time.Duration) Stamp { return s + Stamp(d) }

func readClock(id int32) Stamp {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0 // both clocks read here exist since Linux 2.6.39
	}
	return Stamp(ts.Nano())
}

// fromWall translates a kernel time stamp of CLOCK_REALTIME. The offset is read
// anew each time, since the wall clock may be slewed or set.
func fromWall(sec, nsec int64) Stamp {
	offset := Now() - readClock(unix.CLOCK_REALTIME)
	return Stamp(sec*int64(time.Second)+nsec) + offset
}
