package dataplane

import (
	"context"
	"net/netip"
	"time"
)

// Flows is connection tracking as the data plane uses it; *firewall.Flows is one.
type Flows interface {
	// Forget deletes what the kernel remembers of connections of these addresses. It is
	// tidying: nothing that was cut passes for want of it.
	Forget(ctx context.Context, addrs ...netip.Addr) error
}

const (
	maxForget    = 256         // addresses that wait to be forgotten, at the most
	forgetWithin = time.Minute // one address
)

// cuts are addresses that stand in no set any more.
type cuts struct {
	unanswered []netip.Addr // by an order that was not answered yet
	waiting    []netip.Addr // to be forgotten
	left       int          // for which there was no room, since the log last told
}

// forget queues addresses that stand in no set any more. It never waits; what there is no
// room for ends by the kernel's own timeouts. The caller holds mu.
func (p *Plane) forget(cut []netip.Addr) {
	if p.config.Flows == nil {
		return
	}
	room := min(maxForget-len(p.cut.unanswered)-len(p.cut.waiting), len(cut))
	p.cut.left += len(cut) - room
	p.cut.unanswered = append(p.cut.unanswered, cut[:room]...)
}

// tidy lets what was cut so far be forgotten: the order that cut it was answered.
func (p *Plane) tidy() {
	p.mu.Lock()
	some := len(p.cut.unanswered) > 0
	p.cut.waiting = append(p.cut.waiting, p.cut.unanswered...)
	p.cut.unanswered = nil
	p.mu.Unlock()
	if !some {
		return
	}
	select {
	case p.tidying <- struct{}{}:
	default:
	}
}

// tidyFlows forgets what is queued, until ctx ends. The kernel walks its whole table for
// each address, while packets want it too: so that is a share of the time at most, and of
// many addresses most are left. An error costs nothing but memory.
func (p *Plane) tidyFlows(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.tidying:
		}
		var failed int
		for a, ok := p.nextCut(); ok; a, ok = p.nextCut() {
			began := time.Now()
			within, cancel := context.WithTimeout(ctx, forgetWithin)
			err := p.config.Flows.Forget(within, a)
			cancel()
			if err != nil && ctx.Err() == nil {
				if failed++; failed == 1 {
					p.log.Warn("tidying up connections failed; they end by their own timeouts", "address", a, "error", err)
				}
			}
			if !rest(ctx, (share-1)*time.Since(began)) {
				return
			}
		}
		p.tellLeft(failed)
	}
}

// rest waits; false when ctx ended.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// nextCut takes an address from the queue, without those that were given out again.
func (p *Plane) nextCut() (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.cut.waiting) > 0 {
		a := p.cut.waiting[0]
		p.cut.waiting = p.cut.waiting[1:]
		if _, held := p.mirror.addresses[a]; !held {
			return a, true
		}
	}
	p.cut.waiting = nil
	return netip.Addr{}, false
}

// tellLeft says, once the queue is worked off, of how many addresses nothing was forgotten.
func (p *Plane) tellLeft(failed int) {
	p.mu.Lock()
	left := p.cut.left
	p.cut.left = 0
	p.mu.Unlock()
	if left > 0 || failed > 1 {
		p.log.Info("connections of some addresses end by their own timeouts", "no room in the queue", left, "failed", failed)
	}
}

// left are the addresses of old that nobody has under next.
func left(old, next *mirror) []netip.Addr {
	var out []netip.Addr
	for a := range old.addresses {
		if _, held := next.addresses[a]; !held {
			out = append(out, a)
		}
	}
	return out
}
