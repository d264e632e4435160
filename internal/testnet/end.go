package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// traffic is the servers and streams of a host.
type traffic struct {
	mu      sync.Mutex
	next    uint64
	servers map[uint64]*server
	ends    map[uint32]*end
}

func newTraffic() *traffic {
	return &traffic{servers: make(map[uint64]*server), ends: make(map[uint32]*end)}
}

func (t *traffic) register(ops map[string]handler) {
	ops[opServe] = handle(t.serve)
	ops[opUnserve] = handle(t.unserve)
	ops[opStream] = handle(t.open)
	ops[opStreamStat] = handle(t.stat)
	ops[opStreamClose] = handle(func(_ context.Context, id uint32) (any, error) { t.close(id); return nil, nil })
}

// add makes an end of a stream, or returns the one that is there.
func (t *traffic) add(id uint32, local, remote net.Addr) (e *end, made bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.ends[id]; e != nil {
		return e, false
	}
	e = &end{first: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.now.Local, e.now.Remote = addrPort(local), addrPort(remote)
	t.ends[id] = e
	return e, true
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

func (t *traffic) stat(_ context.Context, id uint32) (any, error) {
	t.mu.Lock()
	e := t.ends[id]
	t.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("no stream %d here", id)
	}
	return e.stat(), nil
}

// close ends this end of a stream, if it is here.
func (t *traffic) close(id uint32) {
	t.mu.Lock()
	e := t.ends[id]
	delete(t.ends, id)
	t.mu.Unlock()
	if e != nil {
		e.cancel()
	}
}

// end is one end of a stream. Its goroutines end when its context does.
type end struct {
	ctx    context.Context
	cancel context.CancelFunc
	first  chan struct{} // closed when the first message was read

	mu    sync.Mutex
	now   StreamStat
	since Stamp // when sending by the pace began; zero: not yet
	every time.Duration
}

func (e *end) stat() StreamStat {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := e.now
	if e.since != 0 {
		st.Due = uint64(Now().Sub(e.since) / e.every)
	}
	if st.LastAt != 0 {
		st.MaxGap = max(st.MaxGap, Now().Sub(st.LastAt))
	}
	return st
}

func (e *end) read(m stamped) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := Now()
	if e.now.Received == 0 {
		close(e.first)
	} else {
		e.now.MaxGap = max(e.now.MaxGap, at.Sub(e.now.LastAt))
	}
	e.now.Received++
	e.now.LastSeq, e.now.LastSent, e.now.LastAt = m.seq, m.sent, at
}

func (e *end) sent(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.now.Sent++
		return
	}
	e.now.Failed++
	e.now.Error = err.Error()
}

// fail notes why this end stopped, unless it was told to.
func (e *end) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() == nil {
		e.now.Error = err.Error()
	}
}

// pace sends a message each time one is due, numbered from 1, until the end is
// closed; with stopAtError, until one fails.
func (e *end) pace(m stamped, write func([]byte) error, stopAtError bool) {
	e.mu.Lock()
	e.since, e.every = Now(), m.every
	e.mu.Unlock()
	b := m.bytes()
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for m.seq = 1; ; m.seq++ {
		select {
		case <-tick.C:
		case <-e.ctx.Done():
			return
		}
		m.sent = Now()
		m.put(b)
		err := write(b)
		if e.ctx.Err() != nil {
			return
		}
		e.sent(err)
		if err != nil && stopAtError {
			return
		}
	}
}

// readStamped reads one message of a byte stream into buf.
func readStamped(r io.Reader, buf []byte) (stamped, []byte, error) {
	if _, err := io.ReadFull(r, buf[:stampedLen]); err != nil {
		return stamped{}, nil, err
	}
	m, ok := getStamped(buf[:stampedLen])
	if !ok {
		return stamped{}, nil, errors.New("no message of a stream")
	}
	_, err := io.ReadFull(r, buf[stampedLen:m.size])
	return m, buf[:m.size], err
}
