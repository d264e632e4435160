package daemon

import (
	"net"
	"net/netip"
	"sync"
)

// limitEach accepts at most n connections at once of one address, where n is not 0; others
// are closed, so that a device that holds many leaves the rest of a listener's to the others.
func limitEach(l net.Listener, n int) net.Listener {
	if n == 0 {
		return l
	}
	return &eachListener{Listener: l, most: n, held: make(map[netip.Addr]int)}
}

type eachListener struct {
	net.Listener
	most int

	mu   sync.Mutex
	held map[netip.Addr]int
}

// Accept waits for a connection of an address that has room for it.
func (l *eachListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && l.enter(from.Addr().Unmap()) {
			return &eachConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from.Addr().Unmap()) })}, nil
		}
		c.Close()
	}
}

func (l *eachListener) enter(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[a] >= l.most {
		return false
	}
	l.held[a]++
	return true
}

func (l *eachListener) leave(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[a]--; l.held[a] == 0 {
		delete(l.held, a)
	}
}

type eachConn struct {
	net.Conn
	leave func()
}

func (c *eachConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
