package testnet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probe runs on a host's agent.
func probe(ctx context.Context, s ProbeSpec) (ProbeResult, error) {
	if s.Timeout <= 0 {
		s.Timeout = time.Second
	}
	if s.Tries <= 0 {
		s.Tries = 3
	}
	if s.Size == 0 {
		s.Size = 64
	}
	if s.Size < stampedLen || s.Size > maxStamped || !s.To.Addr().IsValid() {
		return ProbeResult{}, fmt.Errorf("a probe of %d bytes to %s cannot be", s.Size, s.To)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	var r ProbeResult
	switch s.Proto {
	case TCP:
		r = probeTCP(ctx, s)
	case UDP:
		r = probeUDP(ctx, s)
	case ICMP:
		r = probeICMP(ctx, s)
	default:
		return ProbeResult{}, fmt.Errorf("no probe of protocol %q", s.Proto)
	}
	r.To = s.To
	return r, nil
}

func newStream() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:]) | 1
}

// outcome says what an error that came back over the network means.
func outcome(err error) Outcome {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES),
		errors.Is(err, syscall.EPROTO), errors.Is(err, syscall.ENOPROTOOPT), errors.Is(err, syscall.EMSGSIZE):
		return Unreachable
	}
	return Silent
}

func (r ProbeResult) failed(o Outcome, err error) ProbeResult {
	r.Outcome, r.Detail = o, err.Error()
	return r
}

// probeTCP connects and has one message echoed. The socket is used by hand, since
// only what connect returns at once tells a packet that was never sent from one
// that was answered by an ICMP error.
func probeTCP(ctx context.Context, s ProbeSpec) ProbeResult {
	r := ProbeResult{ID: newStream(), At: Now()}
	f, local, err := connectTCP(s)
	if err != nil {
		return r.failed(NotSent, err)
	}
	defer f.Close()
	r.Local = local
	deadline, _ := ctx.Deadline()
	_ = f.SetDeadline(deadline) // else the probe ends with the connection
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := connected(f); err != nil {
		return r.failed(outcome(err), err)
	}
	m := stamped{kind: kindProbe, stream: r.ID, sent: r.At, size: uint32(s.Size)}
	if _, err := f.Write(m.bytes()); err != nil {
		return r.failed(outcome(err), err)
	}
	got := make([]byte, s.Size)
	for n := 0; n < len(got); {
		k, err := f.Read(got[n:])
		if err != nil {
			return r.failed(outcome(err), err)
		}
		n += k
	}
	return r.answered(got)
}

// answered checks the echo.
func (r ProbeResult) answered(b []byte) ProbeResult {
	m, ok := getStamped(b)
	if !ok || m.stream != r.ID {
		return r.failed(Silent, errors.New("answered with something else"))
	}
	r.Outcome, r.RTT, r.Detail = Echoed, Now().Sub(r.At), ""
	return r
}

func connectTCP(s ProbeSpec) (*os.File, netip.AddrPort, error) {
	family := unix.AF_INET6
	if s.To.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, netip.AddrPort{}, fmt.Errorf("opening a socket: %w", err)
	}
	err = bindFor(fd, s)
	if err == nil {
		err = unix.Connect(fd, sockaddr(s.To))
	}
	if err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		unix.Close(fd)
		return nil, netip.AddrPort{}, fmt.Errorf("connecting: %w", err)
	}
	return os.NewFile(uintptr(fd), "tcp probe"), localOf(fd), nil
}

func bindFor(fd int, s ProbeSpec) error {
	if s.Device != "" {
		if err := unix.BindToDevice(fd, s.Device); err != nil {
			return fmt.Errorf("binding to %s: %w", s.Device, err)
		}
	}
	if s.From.IsValid() {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(s.From, 0))); err != nil {
			return fmt.Errorf("binding to %s: %w", s.From, err)
		}
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func localOf(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// connected waits until the connection is made or has failed.
func connected(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case code != 0:
			result = syscall.Errno(code)
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil // else still on its way
		}
		return true
	})
	return errors.Join(err, result)
}

// dialer is for connected sockets of probes and streams.
func dialer(proto Proto, from netip.Addr, device string) *net.Dialer {
	d := &net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return controlSocket(c, device, proto == UDP)
	}}
	switch {
	case !from.IsValid():
	case proto == TCP:
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	default:
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	return d
}

// controlSocket binds a socket to an interface and asks for every ICMP error that
// concerns it, not only the fatal ones.
func controlSocket(c syscall.RawConn, device string, icmpErrors bool) error {
	var result error
	err := c.Control(func(fd uintptr) {
		if device != "" {
			result = unix.BindToDevice(int(fd), device)
		}
		if icmpErrors {
			// One of the two is of the socket's family.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		}
	})
	return errors.Join(err, result)
}

func probeUDP(ctx context.Context, s ProbeSpec) ProbeResult {
	r := ProbeResult{ID: newStream(), At: Now()}
	c, err := dialer(UDP, s.From, s.Device).DialContext(ctx, "udp", s.To.String())
	if err != nil {
		return r.failed(NotSent, err)
	}
	defer c.Close()
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		r.Local = a.AddrPort()
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	send := func(n int) error {
		_, err := c.Write(stamped{kind: kindProbe, stream: r.ID, seq: uint64(n), sent: Now(), size: uint32(s.Size)}.bytes())
		return err
	}
	receive := func() ProbeResult {
		b := make([]byte, maxStamped)
		for {
			n, err := c.Read(b)
			if err != nil {
				return r.failed(outcome(err), err)
			}
			if got := r.answered(b[:n]); got.Outcome == Echoed {
				return got
			}
		}
	}
	return r.ask(ctx, s, send, receive)
}

// ask sends a probe's packets until there is an answer or no time left.
func (r ProbeResult) ask(ctx context.Context, s ProbeSpec, send func(int) error, receive func() ProbeResult) ProbeResult {
	if err := send(0); err != nil {
		return r.failed(NotSent, err)
	}
	answer := make(chan ProbeResult, 1)
	go func() { answer <- receive() }() // ends when the caller closes the socket
	again := time.NewTicker(s.Timeout / time.Duration(s.Tries))
	defer again.Stop()
	for n := 1; ; {
		select {
		case got := <-answer:
			if ctx.Err() != nil && got.Outcome != Echoed {
				return r.failed(Silent, ctx.Err())
			}
			return got
		case <-again.C:
			if n < s.Tries {
				_ = send(n) // an error shows in what is received, too
			}
			n++
		case <-ctx.Done():
			return r.failed(Silent, ctx.Err())
		}
	}
}
