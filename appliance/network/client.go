package network

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// errRefused is a server's word that the address is not ours (DHCPNAK, NoBinding).
var errRefused = errors.New("the server refused")

// errSilent is what comes of a question that nobody answers.
var errSilent = errors.New("no answer")

// asker speaks with the servers on one link.
type asker interface {
	acquire(ctx context.Context) (lease, error)
	// extend asks for the lease anew: its own server, or any with rebind.
	extend(ctx context.Context, l lease, rebind bool) (lease, error)
}

// How long to wait between attempts: without a lease, and near the end of one.
const (
	firstWait = 3 * time.Second
	lastWait  = time.Minute
)

// client keeps one lease: it gets it, renews it at T1, asks everybody from T2 on (RFC 2131
// section 4.4.5, RFC 8415 section 18.2.4) and gives it up when it ends or is refused.
type client struct {
	ask  asker
	tell func(l *lease, problem string) // nil: there is no lease; called by run alone
	kick chan struct{}                  // of capacity 1: the link has come back
}

func newClient(ask asker, tell func(*lease, string)) *client {
	return &client{ask: ask, tell: tell, kick: make(chan struct{}, 1)}
}

// wake has the client look whether its lease is still good.
func (c *client) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// run goes on until ctx ends; the lease is left as it is then.
func (c *client) run(ctx context.Context) {
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, lastWait) {
		l, err := c.ask.acquire(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.tell(nil, err.Error())
			}
			c.pause(ctx, wait)
			continue
		}
		wait = firstWait
		for ok := true; ok && ctx.Err() == nil; {
			told := l // they keep it
			c.tell(&told, "")
			l, ok = c.hold(ctx, l)
		}
		if ctx.Err() == nil {
			c.tell(nil, "the DHCP lease ended")
		}
	}
}

// pause waits for about d, for the link, or for ctx.
func (c *client) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d*3/4 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.kick:
	case <-ctx.Done():
	}
}

// hold waits for the time to extend l and does so; ok is false when it is lost.
func (c *client) hold(ctx context.Context, l lease) (lease, bool) {
	got := time.Now()
	end, t2 := got.Add(l.Life), got.Add(l.T2)
	next := got.Add(l.T1)
	for {
		t := time.NewTimer(time.Until(next))
		back := false
		select {
		case <-t.C:
		case <-c.kick:
			back = true
		case <-ctx.Done():
			t.Stop()
			return l, false
		}
		t.Stop()
		now := time.Now()
		if !now.Before(end) {
			return l, false
		}
		until, stop := context.WithDeadline(ctx, end)
		n, err := c.ask.extend(until, l, back || !now.Before(t2))
		if err != nil && back && !errors.Is(err, errRefused) {
			n, err = c.ask.acquire(until) // perhaps it is another network now
		}
		stop()
		if err == nil {
			return n, true
		}
		if errors.Is(err, errRefused) {
			return l, false
		}
		if back {
			continue // as planned before
		}
		next = retry(time.Now(), t2, end)
	}
}

// retry is when to ask again: after half of what is left before T2 or the end, and not
// within a minute unless the end is nearer.
func retry(now, t2, end time.Time) time.Time {
	to := end
	if now.Before(t2) {
		to = t2
	}
	left := to.Sub(now)
	return now.Add(max(min(left, max(left/2, lastWait)), 0))
}
