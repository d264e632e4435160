package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// listen opens a TCP listener. free binds an address that no interface has yet, as the
// tunnel's are until its link is up.
func listen(ctx context.Context, name string, at netip.AddrPort, free bool) (net.Listener, error) {
	lc := net.ListenConfig{}
	if free {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			})
			return errors.Join(err, set)
		}
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

// inherited returns the listeners that the service manager handed over under a name
// (LISTEN_FDS, LISTEN_FDNAMES; sd_listen_fds(3)); none is no error.
func inherited(name string) ([]net.Listener, error) {
	return handedOver(name, net.FileListener)
}

// inheritedPackets is inherited for UDP sockets.
func inheritedPackets(name string) ([]*net.UDPConn, error) {
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

// longest is how long one answer may take: the agents' long poll and a little more.
const longest = time.Minute

// site is one HTTP service and where it listens. Connections beyond most wait to be
// accepted, so that strangers cannot take the file descriptors that others need.
type site struct {
	name    string
	most    int
	each    int                         // of one holder; 0: as many as most
	holder  func(netip.Addr) netip.Addr // as in limitEach
	idle    time.Duration
	at      []netip.AddrPort
	free    bool
	tls     *tls.Config // nil: plain HTTP
	handler http.Handler
}

// serve opens every listener before it answers on any, then serves until ctx ends, and
// lets what is under way finish.
func (s site) serve(ctx context.Context, group *errgroup.Group, log *slog.Logger) error {
	server := &http.Server{
		Handler: s.handler, TLSConfig: s.tls, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: longest, IdleTimeout: s.idle, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.With("listener", s.name).Handler(), slog.LevelDebug),
	}
	open, err := inherited(s.name)
	if err != nil {
		return err
	}
	if len(open) > 0 {
		s.at = nil // what was handed over takes the place of the configured addresses
	}
	for _, at := range s.at {
		l, err := listen(ctx, s.name, at, s.free)
		if err != nil {
			for _, o := range open {
				o.Close()
			}
			return err
		}
		open = append(open, l)
	}
	for _, l := range open {
		group.Go(func() error {
			serve := func(l net.Listener) error { return server.ServeTLS(l, "", "") }
			if s.tls == nil {
				serve = server.Serve
			}
			if err := serve(limitEach(netutil.LimitListener(l, s.most), s.each, s.holder, log.With("listener", s.name))); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving %s on %s: %w", s.name, l.Addr(), err)
			}
			return nil
		})
		log.Info("listening", "listener", s.name, "address", l.Addr().String())
	}
	group.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(end); err != nil {
			server.Close()
		}
		return nil
	})
	return nil
}
