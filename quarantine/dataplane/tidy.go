package dataplane

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Flows is connection tracking as the data plane uses it; *firewall.Flows is one.
type Flows interface {
	// Forget deletes what the kernel remembers of connections of these addresses. It is
	// tidying: nothing that was cut passes for want of it.
	Forget(ctx context.Context, addrs ...netip.Addr) error
}

const (
	maxForget    = 4096        // addresses that wait to be forgotten, at the most
	forgetSome   = 64          // of one call
	forgetWithin = time.Minute // one call
)

// forget queues addresses that stand in no set any more. It never waits; what there is no
// room for ends by the kernel's own timeouts. The caller holds mu.
func (p *Plane) forget(cut []netip.Addr) {
	if p.config.Flows == nil {
		return
	}
	room := min(maxForget-len(p.cut), len(cut))
	if room < len(cut) {
		p.log.Info("connections of some addresses end by their own timeouts", "addresses", len(cut)-room)
	}
	p.cut = append(p.cut, cut[:room]...)
}

// tidy lets tidyFlows begin, once the order that cut was answered.
func (p *Plane) tidy() {
	select {
	case p.tidying <- struct{}{}:
	default:
	}
}

// tidyFlows forgets what is queued, until ctx ends. An error costs nothing but memory.
func (p *Plane) tidyFlows(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.tidying:
		}
		for some := p.takeCut(); len(some) > 0 && ctx.Err() == nil; some = p.takeCut() {
			within, cancel := context.WithTimeout(ctx, forgetWithin)
			err := p.config.Flows.Forget(within, some...)
			cancel()
			if err != nil && ctx.Err() == nil {
				p.log.Warn("tidying up connections failed; they end by their own timeouts", "addresses", len(some), "error", err)
			}
		}
	}
}

// takeCut takes some of what is queued, without addresses that were given out again.
func (p *Plane) takeCut() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.cut) > 0 {
		n := min(forgetSome, len(p.cut))
		some := slices.Clone(p.cut[:n])
		p.cut = p.cut[n:]
		some = slices.DeleteFunc(some, func(a netip.Addr) bool { _, held := p.mirror.addresses[a]; return held })
		if len(some) > 0 {
			return some
		}
	}
	p.cut = nil
	return nil
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
