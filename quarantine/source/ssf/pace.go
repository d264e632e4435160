package ssf

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lazaret/quarantine"
)

// pace lets ten entries through at once, and one every six seconds from then on.
type pace struct {
	now func() time.Time

	mu      sync.Mutex
	room    float64
	last    time.Time
	dropped int
}

const (
	paceBurst = 10
	paceEvery = 6 * time.Second
)

// take reports whether there is room for an entry, and how many were dropped before it.
func (p *pace) take() (ok bool, dropped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.last.IsZero() {
		p.room = paceBurst
	} else if d := now.Sub(p.last); d > 0 {
		p.room = min(paceBurst, p.room+d.Seconds()/paceEvery.Seconds())
	}
	p.last = now
	if p.room < 1 {
		p.dropped++
		return false, 0
	}
	p.room--
	dropped, p.dropped = p.dropped, 0
	return true, dropped
}

// refused has a refusal of what a transmitter signed audited and logged, as far as the
// stream's entries go, which strangers do not use up.
func (r *Receiver) refused(ctx context.Context, st *stream, by quarantine.Actor, device quarantine.ID, why string) {
	r.enter(ctx, st.entries, st.name, by, device, why)
}

// strange is refused for those whom no signature vouches for: a name that they give is not theirs.
func (r *Receiver) strange(ctx context.Context, st *stream, from, why string) {
	r.enter(ctx, r.strangers, st.name, quarantine.Actor{Kind: "stranger", Address: from}, "", fmt.Sprintf("stream %s: %s", st.name, why))
}

func (r *Receiver) enter(ctx context.Context, p *pace, stream string, by quarantine.Actor, device quarantine.ID, why string) {
	ok, dropped := p.take()
	if !ok {
		return
	}
	if dropped > 0 {
		why = fmt.Sprintf("%s (and %d refusals before it that are not listed)", why, dropped)
	}
	r.cfg.Log.Warn("refused", "stream", stream, "by", by.Kind, "from", by.Address, "device", device, "why", why)
	if err := r.cfg.Auditor.Refused(context.WithoutCancel(ctx), by, device, why); err != nil {
		r.cfg.Log.Error("auditing a refusal", "err", err)
	}
}
