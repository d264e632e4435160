package quarantine

import (
	"time"

	"lazaret/firewall"
)

// Clock reads the two clocks a lease needs: the wall clock that certificates and reports
// are dated by, and CLOCK_BOOTTIME that the data plane counts in.
type Clock struct {
	Wall func() time.Time
	Boot func() time.Duration // CLOCK_BOOTTIME; runs on while the machine sleeps
}

// Instant is both clocks read together.
type Instant struct {
	Wall time.Time
	Boot firewall.Deadline
}

// Now reads both clocks, boot time first: whatever passes in between shortens a
// deadline and never prolongs it.
func (c Clock) Now() Instant {
	boot := firewall.Deadline(c.Boot())
	return Instant{Wall: c.Wall().UTC().Round(0), Boot: boot} // Round(0): as it will be read back
}

// minLife is the least that may be left of a deadline; the data plane's timeouts are
// whole seconds, and one that rounds to zero would be permanent.
const minLife = time.Second

// Deadline is the wall-clock time t in boot time, or zero when less than a second is left.
func (i Instant) Deadline(t time.Time) firewall.Deadline {
	left := t.Sub(i.Wall)
	if left < minLife || i.Wall.IsZero() {
		return 0
	}
	d := i.Boot + firewall.Deadline(left)
	if d < i.Boot { // overflow: centuries
		return 0
	}
	return d
}

// offset is how far the wall clock is ahead of boot time; a step of it is a clock jump.
func (i Instant) offset() time.Duration {
	return i.Wall.Sub(time.Unix(0, int64(i.Boot)))
}
