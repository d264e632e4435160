package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The bounds of sessions by TCP (RFC 7766, section 6).
const (
	sessions     = 512 // at once
	sessionsEach = 4   // of one device
	sessionIdle  = 5 * time.Second
	sessionMost  = 100 // questions in one
)

// Run answers on the sockets until ctx ends, and closes them. It returns nil then.
func (s *Service) Run(ctx context.Context, datagrams []*net.UDPConn, listeners []net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	failed := make(chan error, len(datagrams)+len(listeners))
	open := newTally[netip.Addr](sessions, sessionsEach)
	for _, c := range datagrams {
		context.AfterFunc(ctx, func() { c.Close() })
		all.Go(func() { failed <- s.serveUDP(ctx, c, &all) })
	}
	for _, l := range listeners {
		context.AfterFunc(ctx, func() { l.Close() })
		all.Go(func() { failed <- s.serveTCP(ctx, l, open, &all) })
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stopped := ctx.Err() != nil
	cancel()
	all.Wait()
	if stopped || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("answering devices' questions for names: %w", err)
}

// serveUDP answers datagrams. What comes while too many are under way is dropped.
func (s *Service) serveUDP(ctx context.Context, c *net.UDPConn, all *sync.WaitGroup) error {
	buf := make([]byte, maxUDP+1)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			s.cfg.Log.Debug("reading a question", "error", err) // an ICMP error about an answer, for one
			continue
		}
		if err != nil {
			return err
		}
		if n > maxUDP || !s.pace.allow(from.Addr().Unmap(), time.Now()) {
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			continue
		}
		message := append([]byte(nil), buf[:n]...)
		all.Go(func() {
			defer func() { <-s.slots }()
			if out := s.safely(ctx, from.Addr(), message, true); out != nil {
				_, _ = c.WriteToUDPAddrPort(out, from) // a lost answer is asked for again
			}
		})
	}
}

// safely answers, and a fault in doing so costs no more than the answer.
func (s *Service) safely(ctx context.Context, from netip.Addr, message []byte, udp bool) (out []byte) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("answering a question failed", "panic", p)
			out = nil
		}
	}()
	return s.Answer(ctx, from, message, udp)
}

func (s *Service) serveTCP(ctx context.Context, l net.Listener, open *tally[netip.Addr], all *sync.WaitGroup) error {
	for {
		c, err := l.Accept()
		if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			s.cfg.Log.Warn("accepting a session", "error", err)
			t := time.NewTimer(100 * time.Millisecond) // out of file descriptors, perhaps
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
			continue
		}
		if err != nil {
			return err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || !open.enter(from.Addr()) {
			c.Close()
			continue
		}
		all.Go(func() {
			defer open.leave(from.Addr())
			s.session(ctx, c, from.Addr().Unmap())
		})
	}
}

// session answers one question after the other.
func (s *Service) session(ctx context.Context, c net.Conn, from netip.Addr) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for range sessionMost {
		if c.SetDeadline(time.Now().Add(sessionIdle)) != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(size[:]))
		if len(message) > maxUDP || !s.pace.allow(from, time.Now()) {
			return
		}
		if _, err := io.ReadFull(c, message); err != nil {
			return
		}
		out := s.safely(ctx, from, message, false)
		if out == nil || c.SetDeadline(time.Now().Add(sessionIdle)) != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}
