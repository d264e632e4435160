package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the machine's own clock. The zero value is ready.
type Kernel struct {
	RTC string // device of the hardware clock; empty: /dev/rtc0
}

// Now reads the clock.
func (Kernel) Now() time.Time { return time.Now() }

// Step sets the clock at once.
func (k Kernel) Step(t time.Time) error {
	at := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &at); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// Slew has the kernel's loop take offset off bit by bit, and learn the clock's drift from it
// (adjtimex(2)). every is the time between two calls.
func (Kernel) Slew(offset, every time.Duration) error {
	const (
		modes  = unix.ADJ_OFFSET | unix.ADJ_STATUS | unix.ADJ_NANO | unix.ADJ_TIMECONST | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR
		micros = int64(time.Microsecond)
	)
	constant := int64(0)
	for s := every / time.Second; s > 16 && constant < 10; s /= 2 {
		constant++ // log2 of the interval, less four
	}
	x := unix.Timex{Modes: modes, Status: unix.STA_PLL | unix.STA_NANO, Constant: constant}
	x.Offset, x.Maxerror, x.Esterror = int64(offset), int64(offset.Abs())/micros, int64(offset.Abs())/micros
	if _, err := unix.Adjtimex(&x); err != nil {
		return fmt.Errorf("adjusting the clock: %w", err)
	}
	return nil
}

// Save writes the time into the hardware clock, which has UTC. A machine without one has nothing to save.
func (k Kernel) Save(t time.Time) error {
	path := k.RTC
	if path == "" {
		path = "/dev/rtc0"
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENODEV {
		return nil
	} else if err != nil {
		return fmt.Errorf("opening the hardware clock: %w", err)
	}
	defer unix.Close(fd)
	t = t.UTC()
	value := unix.RTCTime{
		Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()),
		Mday: int32(t.Day()), Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900,
	}
	if err := unix.IoctlSetRTCTime(fd, &value); err != nil {
		return fmt.Errorf("setting the hardware clock: %w", err)
	}
	return nil
}
