package imagetest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/netstack"
)

// echo is a server of this machine's, which the guest reaches as one outside.
type echo struct {
	port uint16

	mu    sync.Mutex
	conns []net.Conn
}

func listen(t testing.TB) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{port: netip.MustParseAddrPort(l.Addr().String()).Port()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns = append(e.conns, c)
			e.mu.Unlock()
			all.Go(func() {
				defer c.Close()
				io.Copy(c, c) // until either side ends it
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		e.mu.Lock()
		for _, c := range e.conns {
			c.Close()
		}
		e.mu.Unlock()
		all.Wait()
	})
	return e
}

// at is where the guest finds it.
func (e *echo) at() netip.AddrPort { return netip.AddrPortFrom(host, e.port) }

// count is how many connections there were.
func (e *echo) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.conns)
}

// echoes sends something through the tunnel and gets it back.
func echoes(t testing.TB, from *netstack.Net, e *echo) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := dial(ctx, from, e.at())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		return errors.Join(err, errors.New("no echo: "+string(b)))
	}
	return nil
}
