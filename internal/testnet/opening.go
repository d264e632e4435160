package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// helloEvery is the time between two greetings of a stream over UDP.
const helloEvery = 100 * time.Millisecond

// open opens a stream from this host.
func (t *traffic) open(ctx context.Context, s StreamSpec) (any, error) {
	m, err := s.hello()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	c, err := dialer(s.Proto, s.From, s.Device).DialContext(ctx, string(s.Proto), s.To.String())
	if err != nil {
		return nil, err
	}
	e, _ := t.add(m.stream, c.LocalAddr(), c.RemoteAddr())
	context.AfterFunc(e.ctx, func() { reset(c) })
	if err := e.start(ctx, c, s, m); err != nil {
		t.close(m.stream)
		return nil, err
	}
	return streamOpened{ID: m.stream, Local: addrPort(c.LocalAddr())}, nil
}

// hello fills in what s leaves out and returns the stream's first message.
func (s *StreamSpec) hello() (stamped, error) {
	if s.Every <= 0 {
		s.Every = 2 * time.Millisecond
	}
	if s.Size == 0 {
		s.Size = 256
	}
	if s.Timeout <= 0 {
		s.Timeout = 3 * time.Second
	}
	kinds := map[Direction]kind{Upload: kindUpload, Download: kindDownload, Echo: kindEcho}
	k, ok := kinds[s.Direction]
	if !ok || s.Proto != TCP && s.Proto != UDP || s.Size < stampedLen || s.Size > maxStamped {
		return stamped{}, fmt.Errorf("a %s %s stream of messages of %d bytes cannot be", s.Proto, s.Direction, s.Size)
	}
	return stamped{kind: k, stream: newStream(), size: uint32(s.Size), every: s.Every}, nil
}

// start greets the server until something comes back, then keeps the stream going.
func (e *end) start(ctx context.Context, c net.Conn, s StreamSpec, m stamped) error {
	greet := func() error {
		m.sent = Now()
		_, err := c.Write(m.bytes())
		return err
	}
	if err := greet(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- e.readAll(c, s.Proto) }() // ends with the connection
	again := time.NewTicker(helloEvery)
	defer again.Stop()
	for {
		select {
		case <-e.first:
			if m.kind != kindDownload {
				go e.pace(m, func(b []byte) error { _, err := c.Write(b); return err }, s.Proto == TCP) // ends with the stream
			}
			return nil
		case err := <-failed:
			return fmt.Errorf("waiting for the first message: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for the first message: %w", ctx.Err())
		case <-again.C:
			if s.Proto == UDP {
				_ = greet() // an error shows in what is received, too
			}
		}
	}
}

// readAll counts what arrives at the client's end.
func (e *end) readAll(c net.Conn, proto Proto) error {
	buf := make([]byte, maxStamped)
	for {
		m, err := next(c, proto, buf)
		if err != nil && (proto == TCP || errors.Is(err, net.ErrClosed) || e.ctx.Err() != nil) {
			e.fail(err)
			return err
		}
		if err != nil {
			e.fail(err) // an ICMP error: the stream goes on
			continue
		}
		e.read(m)
	}
}

func next(c net.Conn, proto Proto, buf []byte) (stamped, error) {
	if proto == TCP {
		m, _, err := readStamped(c, buf)
		return m, err
	}
	n, err := c.Read(buf)
	if err != nil {
		return stamped{}, err
	}
	m, ok := getStamped(buf[:n])
	if !ok {
		return stamped{}, errors.New("no message of a stream")
	}
	return m, nil
}
