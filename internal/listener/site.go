package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

// longest is how long one answer may take: the agents' long poll and a little more.
const longest = time.Minute

// Site is one HTTP service and where it listens. Connections beyond Most wait to be
// accepted, so that strangers cannot take the file descriptors that others need.
type Site struct {
	Name    string                      // required: in logs, and of a socket that is handed over
	Most    int                         // connections in all; required
	Each    int                         // of one holder; 0: as many as Most
	Holder  func(netip.Addr) netip.Addr // optional, as in Each
	Idle    time.Duration               // how long a connection may be kept without a request; required
	At      []netip.AddrPort            // where it listens; none: where it was handed sockets alone
	Free    bool                        // the addresses may be nobody's yet
	TLS     *tls.Config                 // nil: plain HTTP
	Handler http.Handler                // required
}

// Serve opens every listener before it answers on any, then serves until ctx ends, and
// lets what is under way finish.
func (s Site) Serve(ctx context.Context, group *errgroup.Group, log *slog.Logger) error {
	server := &http.Server{
		Handler: s.Handler, TLSConfig: s.TLS, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: longest, IdleTimeout: s.Idle, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.With("listener", s.Name).Handler(), slog.LevelDebug),
	}
	open, err := Inherited(s.Name)
	if err != nil {
		return err
	}
	if len(open) > 0 {
		s.At = nil // what was handed over takes the place of the configured addresses
	}
	for _, at := range s.At {
		l, err := TCP(ctx, s.Name, at, s.Free)
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
			if s.TLS == nil {
				serve = server.Serve
			}
			if err := serve(Each(netutil.LimitListener(l, s.Most), s.Each, s.Holder, log.With("listener", s.Name))); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving %s on %s: %w", s.Name, l.Addr(), err)
			}
			return nil
		})
		log.Info("listening", "listener", s.Name, "address", l.Addr().String())
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
