package quarantine

import (
	"sync"
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

// steady is the wall clock as decisions read it: it never goes back. Set forward, the clock
// shortens every lease; set back again, it gives nothing of that back, nor anything else.
// The store's mark, the highest time that any gateway saw, carries that over a restart.
type steady struct {
	mu     sync.Mutex
	known  bool
	offset time.Duration // the most that the wall clock was seen ahead of boot time
}

// now reads c: the wall clock, or the highest time seen on it plus the boot time since,
// whichever is later.
func (s *steady) now(c Clock) Instant {
	read := c.Now()
	if read.Wall.IsZero() {
		return read
	}
	// An offset by a later reading of boot time is none too large, however long the machine
	// stood still between the two.
	offset := Instant{Wall: read.Wall, Boot: firewall.Deadline(c.Boot())}.offset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known || offset > s.offset {
		s.known, s.offset = true, offset
	}
	if least := time.Unix(0, int64(read.Boot)).Add(s.offset).UTC(); read.Wall.Before(least) {
		read.Wall = least
	}
	return read
}

// reach takes note of a time that was reached before, perhaps by another run of the gate.
func (s *steady) reach(t time.Time, c Clock) {
	if t.IsZero() {
		return
	}
	offset := Instant{Wall: t.UTC().Round(0), Boot: firewall.Deadline(c.Boot())}.offset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known || offset > s.offset {
		s.known, s.offset = true, offset
	}
}

// now is the time to decide by.
func (g *Gate) now() Instant { return g.steady.now(g.Clock) }

// offset is how far the wall clock is ahead of boot time; a step of it is a clock jump.
func (i Instant) offset() time.Duration {
	return i.Wall.Sub(time.Unix(0, int64(i.Boot)))
}
