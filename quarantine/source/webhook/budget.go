package webhook

import (
	"net/netip"
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

// door bounds how many messages are read at once, together and of one address: each takes
// up to maxBody of memory before anything is known of its sender.
type door struct {
	mu    sync.Mutex
	total int
	by    map[netip.Prefix]int
}

const (
	doorTotal = 64
	doorEach  = 4 // of one IPv4 address, or /64
)

// enter takes a place; nil: there is none. leave gives it back.
func (d *door) enter(remote string) (leave func()) {
	from := prefix(remote)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= doorTotal || d.by[from] >= doorEach {
		return nil
	}
	if d.by == nil {
		d.by = map[netip.Prefix]int{}
	}
	d.total++
	d.by[from]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.total--
		if d.by[from]--; d.by[from] == 0 {
			delete(d.by, from)
		}
	}
}

func prefix(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{} // all of them together
	}
	a, bits := at.Addr().Unmap().WithZone(""), 64
	if a.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(a, bits).Masked()
}
