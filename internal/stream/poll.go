package stream

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Poll delivery (RFC 8936): the receiver asks, and says what it has had. What it was given
// and has not acknowledged is given again, so that the cursor moves with acknowledgements
// alone; little is read ahead of it but what one answer holds.

const (
	mostTokens = 100              // of one answer
	pollTime   = 25 * time.Second // that an answer is waited with; below the server's own limit
)

// pollRequest is a request as RFC 8936 section 2.2 has it.
type pollRequest struct {
	MaxEvents         *int                 `json:"maxEvents"`
	ReturnImmediately bool                 `json:"returnImmediately"`
	Ack               []string             `json:"ack"`
	SetErrs           map[string]pollError `json:"setErrs"`
}

type pollError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

// pollAnswer is an answer as RFC 8936 section 2.3 has it.
type pollAnswer struct {
	Sets          map[string]string `json:"sets"`
	MoreAvailable bool              `json:"moreAvailable"`
}

// poller is a receiver that asks.
type poller struct {
	m    *Manager
	r    Receiver
	turn chan struct{} // capacity 1: held while one answer is made

	mu     sync.Mutex
	p      progress
	noted  progress
	health Health
	read   uint64  // number of the entry read last
	out    []given // not acknowledged, oldest first
	cancel func()  // ends a wait for what follows; nil: nobody waits
	tail   Tail    // the holder of turn's
	ended  bool    // no more answers: the receiver changed, or is gone
}

// given is a token that was, or is to be, given.
type given struct {
	token
	sequence uint64 // of its entry; 0: of none
}

func (p *poller) state() Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.health
	h.Name, h.Cursor, h.Problem = p.r.Name, p.p.Cursor, p.p.Problem
	return h
}

// first gives a verification before what follows.
func (p *poller) first(e Event) error {
	tokens, err := p.m.tokens(p.r, e)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, g := range p.out {
		if g.sequence == 0 {
			n++
		}
	}
	if n >= mostExtra {
		return errTooMany
	}
	for _, t := range tokens {
		p.out = slices.Insert(p.out, n, given{t, 0})
	}
	if p.cancel != nil {
		p.cancel()
	}
	return nil
}

// end closes the tail, once whoever waits was answered.
func (p *poller) end() {
	p.mu.Lock()
	p.ended = true
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	if p.tail != nil {
		p.tail.Close()
		p.tail = nil
	}
}

// begin opens the tail. The caller holds turn.
func (p *poller) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return refusal{http.StatusConflict, "the stream has changed: ask again"}
	}
	if p.tail == nil {
		p.tail = p.m.cfg.Follow(p.read)
	}
	return nil
}

// poll answers one request.
func (p *poller) poll(ctx context.Context, q pollRequest) (pollAnswer, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return pollAnswer{}, ctx.Err()
	}
	p.acknowledge(ctx, q)
	most := mostTokens
	if q.MaxEvents != nil {
		most = max(0, min(*q.MaxEvents, mostTokens))
	}
	answer := pollAnswer{Sets: map[string]string{}}
	if p.r.Status == Paused || p.r.Status == Disabled {
		return answer, nil
	}
	if err := p.begin(); err != nil {
		return pollAnswer{}, err
	}
	if err := p.fill(ctx, most, !q.ReturnImmediately && most > 0); err != nil {
		p.tail.Close()
		p.tail = nil // begins anew behind what was read
		return pollAnswer{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.out[:min(most, len(p.out))] {
		answer.Sets[g.id] = g.text
	}
	answer.MoreAvailable = len(p.out) > most
	return answer, nil
}

// acknowledge forgets what the receiver has had, or cannot take, and moves the cursor to
// before the oldest that is left.
func (p *poller) acknowledge(ctx context.Context, q pollRequest) {
	p.mu.Lock()
	before := len(p.out)
	p.out = slices.DeleteFunc(p.out, func(g given) bool {
		e, refused := q.SetErrs[g.id]
		if refused {
			p.p.Problem = fmt.Sprintf("it refused a token: %.40s", e.Err)
			p.m.cfg.Log.Warn("a stream's receiver refuses a token", "stream", p.r.Name, "jti", g.id, "err", fmt.Sprintf("%.40q", e.Err))
		}
		had := slices.Contains(q.Ack, g.id)
		if had {
			p.health.Delivered++
			p.p.Problem = ""
		}
		return had || refused
	})
	if len(p.out) != before {
		p.health.Last = p.m.cfg.Now().UTC()
	}
	p.settle()
	now, same := p.p, p.p == p.noted
	p.mu.Unlock()
	if same {
		return
	}
	if err := p.m.keep(ctx, p.r.Name, now); err != nil {
		p.m.cfg.Log.Error("noting a stream's progress", "stream", p.r.Name, "err", err)
		return
	}
	p.mu.Lock()
	p.noted = now
	p.mu.Unlock()
}

// settle moves the cursor over what is done with. The caller holds mu.
func (p *poller) settle() {
	p.p.Cursor = max(p.p.Cursor, p.read)
	for _, g := range p.out {
		if g.sequence > 0 {
			p.p.Cursor = min(p.p.Cursor, g.sequence-1)
			break
		}
	}
}

// fill reads on until there is enough for an answer, or nothing more; with wait, until there
// is something, or the time is over.
func (p *poller) fill(ctx context.Context, most int, wait bool) error {
	waiting, stop := context.WithTimeout(ctx, pollTime)
	defer stop()
	for {
		p.mu.Lock()
		have, ended := len(p.out), p.ended
		p.cancel = stop
		p.mu.Unlock()
		if have > most || most == 0 || ended {
			return nil
		}
		some, err := p.tail.More(ctx, batch)
		if err == nil && len(some) == 0 {
			if have > 0 || !wait {
				return nil
			}
			if some, err = p.tail.Next(waiting, batch); err != nil && waiting.Err() != nil {
				return ctx.Err() // nothing came: an empty answer
			}
		}
		if err != nil {
			return err
		}
		for _, n := range some {
			if err := p.take(n); err != nil {
				return err
			}
		}
	}
}
