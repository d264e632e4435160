package resolver

import (
	"net/netip"
	"sync"
	"time"
)

// What one device may ask: perSecond on average, burst at once.
const (
	perSecond = 20
	burst     = 100
	maxPaced  = 1 << 17 // devices remembered
)

// pace bounds how much each source asks. Sources cannot be forged: WireGuard binds each
// address to a key.
type pace struct {
	mu    sync.Mutex
	known map[netip.Addr]bucket
	swept time.Time
}

type bucket struct {
	left float64
	at   time.Time
}

func newPace() *pace { return &pace{known: make(map[netip.Addr]bucket)} }

// allow reports whether one more question of a is within bounds.
func (p *pace) allow(a netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, known := p.known[a]
	if !known {
		if len(p.known) >= maxPaced && !p.sweep(now) {
			return false
		}
		b = bucket{burst, now}
	}
	b.left = min(burst, b.left+perSecond*max(now.Sub(b.at), 0).Seconds())
	b.at = now
	ok := b.left >= 1
	if ok {
		b.left--
	}
	p.known[a] = b
	return ok
}

// sweep forgets who asked nothing for so long that it makes no difference; at most once a
// second. It reports whether there is room now.
func (p *pace) sweep(now time.Time) bool {
	if now.Sub(p.swept) < time.Second {
		return false
	}
	p.swept = now
	for a, b := range p.known {
		if now.Sub(b.at).Seconds()*perSecond+b.left >= burst {
			delete(p.known, a)
		}
	}
	return len(p.known) < maxPaced
}
