package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// server answers on some addresses. Its goroutines end when it is closed.
type server struct {
	traffic *traffic
	closers []func() error
	mu      sync.Mutex
	ends    []uint32
}

func (t *traffic) serve(ctx context.Context, addrs []netip.AddrPort) (any, error) {
	s := &server{traffic: t}
	for _, a := range addrs {
		if err := s.listen(ctx, a); err != nil {
			s.close()
			return nil, fmt.Errorf("listening on %s: %w", a, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	t.servers[t.next] = s
	return t.next, nil
}

func (t *traffic) unserve(_ context.Context, id uint64) (any, error) {
	t.mu.Lock()
	s := t.servers[id]
	delete(t.servers, id)
	t.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("no server %d here", id)
	}
	s.close()
	return nil, nil
}

func (s *server) close() {
	for _, c := range s.closers {
		_ = c() // a listener that is closed already is closed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.ends {
		s.traffic.close(id)
	}
}

func (s *server) listen(ctx context.Context, a netip.AddrPort) error {
	lc := net.ListenConfig{KeepAlive: -1}
	l, err := lc.Listen(ctx, "tcp", a.String())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l.Close)
	p, err := lc.ListenPacket(ctx, "udp", a.String())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, p.Close)
	go s.acceptAll(l)
	go s.answerAll(p.(*net.UDPConn))
	return nil
}

func (s *server) end(m stamped, local, remote net.Addr) (*end, bool) {
	e, made := s.traffic.add(m.stream, local, remote)
	if made {
		s.mu.Lock()
		s.ends = append(s.ends, m.stream)
		s.mu.Unlock()
	}
	return e, made
}

func (s *server) acceptAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go s.answerTCP(c.(*net.TCPConn)) // ends with the connection
		}
	}
}

// answerTCP serves one connection: a probe or a stream.
func (s *server) answerTCP(c *net.TCPConn) {
	defer c.Close()
	buf := make([]byte, maxStamped)
	m, b, err := readStamped(c, buf)
	if err != nil {
		return // somebody who only connected
	}
	if m.kind == kindProbe {
		_, _ = c.Write(b) // what is lost shows at the other end
		return
	}
	e, _ := s.end(m, c.LocalAddr(), c.RemoteAddr())
	stop := context.AfterFunc(e.ctx, func() { reset(c) })
	defer stop()
	if m.kind == kindDownload {
		go e.pace(m, func(b []byte) error { _, err := c.Write(b); return err }, true) // ends with the connection
	}
	for {
		e.read(m)
		if m.kind == kindEcho || m.kind == kindUpload && m.seq == 0 {
			_, err := c.Write(b)
			e.sent(err)
		}
		if m, b, err = readStamped(c, buf); err != nil {
			e.fail(err)
			return
		}
	}
}

// reset closes a connection without leaving anything to be sent behind.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // then the close merely takes longer
	}
	c.Close()
}

func (s *server) answerAll(c *net.UDPConn) {
	buf := make([]byte, maxStamped)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if m, ok := getStamped(buf[:n]); err == nil && ok && int(m.size) == n {
			s.answerUDP(c, m, buf[:n], from)
		}
	}
}

func (s *server) answerUDP(c *net.UDPConn, m stamped, b []byte, from netip.AddrPort) {
	back := func(b []byte) error { _, err := c.WriteToUDPAddrPort(b, from); return err }
	if m.kind == kindProbe {
		_ = back(b) // what is lost shows at the other end
		return
	}
	e, made := s.end(m, c.LocalAddr(), net.UDPAddrFromAddrPort(from))
	e.read(m)
	switch {
	case m.kind == kindDownload && made:
		go e.pace(m, back, false) // ends with the stream
	case m.kind == kindEcho, m.kind == kindUpload && m.seq == 0:
		e.sent(back(b))
	}
}
