// Package listener opens what the gateway answers on, with the bounds that keep strangers
// from taking what others need: how many connections in all, how many of one holder, how
// long each may take. Sockets that a service manager opened are taken over.
package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// TCP opens a TCP listener. free binds an address that no interface has yet, as the
// tunnel's are until its link is up.
func TCP(ctx context.Context, name string, at netip.AddrPort, free bool) (net.Listener, error) {
	lc := net.ListenConfig{}
	if free {
		lc.Control = freebind
	}
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	l, err := lc.Listen(ctx, network, at.String())
	if err != nil {
		if errors.Is(err, syscall.EACCES) {
			err = fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE or a listener handed over (LISTEN_FDS)", err)
		}
		return nil, fmt.Errorf("listening for %s: %w", name, err)
	}
	return l, nil
}

// Inherited returns the listeners that the service manager handed over under a name
// (LISTEN_FDS, LISTEN_FDNAMES; sd_listen_fds(3)); none is no error.
func Inherited(name string) ([]net.Listener, error) {
	return handedOver(name, net.FileListener)
}

// InheritedPackets is Inherited for UDP sockets.
func InheritedPackets(name string) ([]*net.UDPConn, error) {
	return handedOver(name, func(f *os.File) (*net.UDPConn, error) {
		c, err := net.FilePacketConn(f)
		if u, ok := c.(*net.UDPConn); ok {
			return u, err
		}
		if err == nil {
			err = errors.Join(errors.New("it is no UDP socket"), c.Close())
		}
		return nil, err
	})
}

func handedOver[T any](name string, open func(*os.File) (T, error)) ([]T, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil, fmt.Errorf("taking over listeners: LISTEN_FDS: %w", err)
	}
	var out []T
	for i, called := range strings.Split(os.Getenv("LISTEN_FDNAMES"), ":") {
		if called != name || i >= n {
			continue
		}
		f := os.NewFile(uintptr(firstInherited+i), name)
		l, err := open(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("taking over the listener for %s: %w", name, err)
		}
		out = append(out, l)
	}
	return out, nil
}

// firstInherited is SD_LISTEN_FDS_START; a variable for the test, whose own come later.
var firstInherited = 3

// UDP opens a UDP socket on an address that no interface may have yet, for a name in errors.
func UDP(ctx context.Context, name string, at netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: freebind}
	network := "udp4"
	if at.Addr().Is6() {
		network = "udp6"
	}
	c, err := lc.ListenPacket(ctx, network, at.String())
	if errors.Is(err, syscall.EACCES) {
		err = fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE or a socket handed over (LISTEN_FDS)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", name, err)
	}
	return c.(*net.UDPConn), nil
}

// freebind lets a socket be bound to an address that no interface has.
func freebind(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(err, set)
}
