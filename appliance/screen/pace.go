package screen

import "time"

// pace bounds how often something is written: not twice within gap, and where a burst is
// given not more often than that many times in a row, once for each refill from then on.
// The zero pace bounds nothing.
type pace struct {
	gap, refill time.Duration
	burst       int

	last  time.Time
	spent int       // of burst
	since time.Time // when spent was right
}

// video and serial are the paces of the two kinds of console: a serial line may be kept as
// a log for years, and what flaps must not fill it.
func video() pace  { return pace{gap: time.Second} }
func serial() pace { return pace{gap: time.Second, refill: 30 * time.Second, burst: 20} }

// wait says how long to wait before writing; 0 is now, and counts as written.
func (p *pace) wait(now time.Time) time.Duration {
	if d := p.last.Add(p.gap).Sub(now); d > 0 && !p.last.IsZero() && d <= p.gap {
		return d
	}
	if p.burst > 0 {
		for p.spent > 0 && !now.Before(p.since.Add(p.refill)) {
			p.spent--
			p.since = p.since.Add(p.refill)
		}
		if p.spent == 0 {
			p.since = now
		}
		if p.spent == p.burst {
			return p.since.Add(p.refill).Sub(now)
		}
		p.spent++
	}
	p.last = now
	return 0
}
