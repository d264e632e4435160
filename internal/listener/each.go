package listener

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Each accepts at most n connections at once of one holder, where n is not 0; others
// are closed, so that a device that holds many leaves the rest of a listener's to the others.
// holder says whose an address is; nil: each is its own, the zero Addr: it is not bounded.
// What is closed is told once a minute.
func Each(l net.Listener, n int, holder func(netip.Addr) netip.Addr, log *slog.Logger) net.Listener {
	if n == 0 {
		return l
	}
	if holder == nil {
		holder = func(a netip.Addr) netip.Addr { return a }
	}
	return &eachListener{Listener: l, most: n, holder: holder, held: make(map[netip.Addr]int), log: log, now: time.Now}
}

// Outside says whose an address of the Internet is: an IPv6 host has a whole /64 of them. A
// proxy brings the connections of many, and is not bounded.
func Outside(proxies []netip.Prefix) func(netip.Addr) netip.Addr {
	return func(a netip.Addr) netip.Addr {
		if slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return netip.Addr{}
		}
		if a.Is6() && !a.IsLinkLocalUnicast() { // of which all hosts of a link have one /64
			return netip.PrefixFrom(a, 64).Masked().Addr()
		}
		return a
	}
}

type eachListener struct {
	net.Listener
	most   int
	holder func(netip.Addr) netip.Addr

	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	held    map[netip.Addr]int
	refused int       // since told
	told    time.Time // zero: never
}

// Accept waits for a connection of an address that has room for it.
func (l *eachListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			c.Close()
			continue
		}
		holder := l.holder(from.Addr().Unmap().WithZone(""))
		if !holder.IsValid() {
			return c, nil
		}
		if l.enter(holder) {
			return &eachConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(holder) })}, nil
		}
		c.Close()
		l.refuse(holder)
	}
}

// refuse notes that a holder has as many connections as it may.
func (l *eachListener) refuse(a netip.Addr) {
	l.mu.Lock()
	l.refused++
	n, now := l.refused, l.now()
	tell := l.told.IsZero() || now.Sub(l.told) >= time.Minute
	if tell {
		l.told, l.refused = now, 0
	}
	l.mu.Unlock()
	if tell {
		l.log.Warn("connection closed: the address holds as many as it may", "address", a, "most", l.most, "closed", n)
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
