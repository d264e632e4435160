package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// asked has a question answered. Whoever asks waits, and nobody else: the kernel takes a while
// where there are many peers, and orders go on meanwhile. One question is answered at a time.
func (p *Plane) asked(s *session, m message) error {
	p.mu.Lock()
	link, lost, current := p.link, p.lost, p.current == s
	p.mu.Unlock()
	var why error
	switch {
	case !current:
		return net.ErrClosed // a newer control plane spoke meanwhile
	case len(m.Keys) == 0 || len(m.Keys) > MaxAsked:
		why = fmt.Errorf("%w: a question about %d keys, want 1 to %d", ErrRefused, len(m.Keys), MaxAsked)
	case lost || link == nil:
		why = fmt.Errorf("there is no tunnel: %w", quarantine.ErrNotEnforced)
	}
	if why == nil {
		select {
		case s.asked <- struct{}{}:
		default:
			why = fmt.Errorf("another question is being answered: %w", quarantine.ErrNotEnforced)
		}
	}
	if why != nil {
		return s.send(encode(m.ID, why))
	}
	s.work.Go(func() {
		seen, err := link.Handshakes(m.Keys)
		<-s.asked // before the answer, after which the next question may come at once
		a := encode(m.ID, err)
		for k, at := range seen {
			a.Shaken = append(a.Shaken, shaken{k, at.Unix()})
		}
		if s.send(a) != nil {
			s.close()
		}
	})
	return nil
}

// Handshakes returns when those of keys that are peers last shook hands, to the second; one
// that never did is not in it. It costs the data plane a look at every peer, so that as many
// keys as there are should be asked for together, in calls of MaxAsked. Orders do not wait for
// it. Errors: quarantine.ErrNotEnforced where there is no answer, ErrRefused of a data plane
// that knows no such question.
func (c *Client) Handshakes(ctx context.Context, keys []tunnel.Key) (map[tunnel.Key]time.Time, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	out := make(map[tunnel.Key]time.Time)
	for some := range slices.Chunk(keys, MaxAsked) {
		a, err := c.ask(ctx, some)
		if err != nil {
			return nil, fmt.Errorf("asking for handshakes: %w", err)
		}
		for _, s := range a.Shaken {
			out[s.Key] = time.Unix(s.At, 0).UTC()
		}
	}
	return out, nil
}

// ask sends one question between orders, and waits for its answer beside them. The caller
// holds asking.
func (c *Client) ask(ctx context.Context, keys []tunnel.Key) (message, error) {
	w, id, err := c.sendAsk(ctx, keys)
	if err != nil {
		return message{}, err
	}
	select {
	case m := <-w.told:
		if m.ID != id {
			return message{}, fmt.Errorf("an answer to something else: %w", quarantine.ErrNotEnforced)
		}
		return m, m.err()
	case <-ctx.Done():
		w.expectTold(0)
		return message{}, fmt.Errorf("waiting for the data plane: %w", ctx.Err())
	case <-w.closed:
		return message{}, fmt.Errorf("the data plane's connection broke: %w", quarantine.ErrNotEnforced)
	}
}

func (c *Client) sendAsk(ctx context.Context, keys []tunnel.Key) (*wire, uint64, error) {
	w, done, err := c.begin(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	c.ids++
	w.expectTold(c.ids)
	if err := w.sendAll(ctx, c.ids, []message{{Kind: ask, Keys: keys}}); err != nil {
		w.close()
		return nil, 0, fmt.Errorf("sending to the data plane: %w: %w", errors.Join(ctx.Err(), err), quarantine.ErrNotEnforced)
	}
	return w, c.ids, nil
}

// expectTold makes the answer to id the one that a question waits for; zero: none.
func (w *wire) expectTold(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wantTold = id
	select {
	case <-w.told:
	default:
	}
}
