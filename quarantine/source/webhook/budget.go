package webhook

import (
	"sync"
	"time"
)

// budget bounds audit entries that somebody can cause again and again: most in a window,
// refilled little by little. What is left out is counted.
type budget struct {
	most   float64
	window time.Duration

	mu    sync.Mutex
	spent float64
	at    time.Time
	left  int
}

// entry says whether one more may be written, and how many were left out before it.
func (b *budget) entry(now time.Time) (ok bool, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.at); passed < 0 || passed >= b.window {
		b.spent = 0
	} else {
		b.spent = max(0, b.spent-b.most*passed.Seconds()/b.window.Seconds())
	}
	b.at = now
	if b.spent+1 > b.most {
		b.left++
		return false, 0
	}
	b.spent++
	left, b.left = b.left, 0
	return true, left
}

// Bounds of messages that are read at once, each up to maxBody: of all, and of one IPv4
// address or /64.
const (
	doorTotal = 64
	doorEach  = 4
)
