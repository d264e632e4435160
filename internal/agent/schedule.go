package agent

import (
	"math/rand/v2"
	"time"
)

// Schedule says when management sessions are held (M8).
type Schedule struct {
	First time.Duration // after enrollment, and after every return to quarantine
	Every time.Duration
	Times int // at most so many, or until one succeeds
}

// DefaultSchedule is M8's: after 3 minutes, then every 15 minutes, 192 times (48 hours).
var DefaultSchedule = Schedule{First: 3 * time.Minute, Every: 15 * time.Minute, Times: 192}

// next is how long to wait before the session that follows held ones; ok is false when
// there is none any more. Jitter of a tenth keeps a thousand devices that were cut off
// together from coming back together.
func (s Schedule) next(held int) (wait time.Duration, ok bool) {
	if held >= s.Times {
		return 0, false
	}
	wait = s.Every
	if held == 0 {
		wait = s.First
	}
	return wait + time.Duration((rand.Float64()*0.2-0.1)*float64(wait)), true
}
