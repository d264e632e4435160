package dataplane

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"lazaret/internal/testneed"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// slowLink is a link whose handshakes take until it is let go.
type slowLink struct {
	*fakeLink
	entered chan struct{}
	let     chan struct{}
}

func (l slowLink) Handshakes(keys []tunnel.Key) (map[tunnel.Key]time.Time, error) {
	l.entered <- struct{}{}
	<-l.let
	return l.fakeLink.Handshakes(keys)
}

// A question for handshakes is answered for the keys that it is about, in as many calls as it
// takes, and no order waits for it.
func TestHandshakesAreTold(t *testing.T) {
	var link slowLink
	r := run(t, func(c *Config) {
		open := c.OpenLink
		c.OpenLink = func(ctx context.Context) (Link, error) {
			l, err := open(ctx)
			link = slowLink{l.(*fakeLink), make(chan struct{}), make(chan struct{})}
			return link, err
		}
	})
	c, ctx := r.dial(t), t.Context()
	want(t, c.Replace(ctx, somePlan(10, in66(1, 5), in66(2, 5), in66(3, 5))), nil)
	at := time.Unix(1700000000, 0)
	link.mu.Lock()
	link.shaken = map[tunnel.Key]time.Time{peerKey(1): at, peerKey(2): at.Add(time.Hour)}
	link.mu.Unlock()
	keys := []tunnel.Key{peerKey(1), peerKey(3)}
	for len(keys) <= MaxAsked {
		keys = append(keys, peerKey(9))
	}
	var got map[tunnel.Key]time.Time
	var err error
	var asking sync.WaitGroup
	asking.Go(func() {
		got, err = c.Handshakes(ctx, keys)
	})
	for range 2 { // calls
		<-link.entered
		want(t, c.Apply(ctx, in77(2, 12)), nil) // an order meanwhile
		want(t, c.Refresh(ctx, fresh(10)), nil)
		link.let <- struct{}{}
	}
	asking.Wait()
	if err != nil || len(got) != 1 || !got[peerKey(1)].Equal(at) {
		t.Errorf("told %v, %v; want the first key's alone", got, err)
	}

	// Whoever does not wait for the answer gets that of no later question.
	short, cancel := context.WithCancel(ctx)
	asking.Go(func() { _, err = c.Handshakes(short, keys[:1]) })
	<-link.entered
	cancel()
	asking.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	_, err = c.Handshakes(ctx, keys[:1])
	want(t, err, quarantine.ErrNotEnforced) // one is being answered still
	link.let <- struct{}{}
	want(t, c.Apply(ctx, in66(2, 13)), nil)
}

// A question about too many keys, or none, is refused; so is every question by a data plane
// that knows none, and orders go on.
func TestHandshakesAreRefused(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	for _, n := range []int{0, MaxAsked + 1} {
		_, err := c.ask(t.Context(), make([]tunnel.Key, n))
		want(t, err, ErrRefused)
	}
	ours, theirs := net.Pipe()
	old := NewClient(ours)
	defer old.Close()
	var before sync.WaitGroup
	before.Go(func() { // what one of before answers
		s := &session{conn: theirs, closed: make(chan struct{})}
		defer s.close()
		if s.send(message{Kind: hello}) != nil {
			return
		}
		for {
			m, err := readMessage(theirs)
			if err != nil {
				return
			}
			if m.Kind == refresh {
				err = nil
			} else {
				err = ErrRefused
			}
			if s.send(encode(m.ID, err)) != nil {
				return
			}
		}
	})
	expect(t, old, Connected)
	_, err := old.Handshakes(t.Context(), []tunnel.Key{peerKey(1)})
	want(t, err, ErrRefused)
	want(t, old.Refresh(t.Context(), fresh(1)), nil)
	old.Close()
	before.Wait()
}

// A device that speaks nothing but WireGuard is heard of by its handshake, as the tunnel tells.
func TestStockDeviceIsHeardOf(t *testing.T) {
	if !inside(t) {
		return
	}
	testneed.Program(t, "ip")
	s := newSite(t)
	ctx := t.Context()
	want(t, s.c.Replace(ctx, s.plan(1, s.quarantined(1, 0))), nil)
	s.refresh(t, 1)
	stranger, key := newKey(t).Public(), s.phone.key.Public()
	began := time.Now().Truncate(time.Second)
	s.sees(t, "in quarantine", true, false)
	got, err := s.c.Handshakes(ctx, []tunnel.Key{key, stranger})
	if at := got[key]; err != nil || len(got) != 1 || at.Before(began) || at.After(time.Now()) {
		t.Errorf("told %v, %v; want one since %s", got, err, began)
	}
}
