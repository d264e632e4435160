package claim

import (
	"net/netip"
	"sync"
	"time"
)

// The throttle is against load alone: 100 random bits are guessed by nobody, however often
// they try. So it never shuts anybody out for longer than it takes to earn a try, and what
// others do uses up nobody's tries.
const (
	tries      = 20          // at once, from one address
	tryAgain   = time.Second // for one more
	maxLimited = 4096        // addresses remembered; then one that has most of its tries goes
)

// limiter counts tries by address; an IPv6 host has a whole /64 of them.
type limiter struct {
	mu   sync.Mutex
	used map[netip.Addr]time.Time // when all tries will be earned back
}

// allow takes one try of an address at a time, or says that there is none.
func (l *limiter) allow(a netip.Addr, now time.Time) bool {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		a = netip.PrefixFrom(a, 64).Masked().Addr()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.used[a]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(tryAgain); at.Sub(now) > tries*tryAgain {
		return false
	}
	if _, known := l.used[a]; !known && len(l.used) >= maxLimited {
		l.forget()
	}
	if l.used == nil {
		l.used = make(map[netip.Addr]time.Time)
	}
	l.used[a] = at
	return true
}

// forget drops one address: of some, whichever the map tells first, the one that would have
// all tries again first. To look at all of them would cost more than it saves; l.mu is held.
func (l *limiter) forget() {
	var first netip.Addr
	looked := 0
	for a, at := range l.used {
		if !first.IsValid() || at.Before(l.used[first]) {
			first = a
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(l.used, first)
}
