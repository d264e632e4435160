package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/netutil"

	"lazaret/appliance"
	"lazaret/internal/peer"
)

const (
	mostAsking = 16      // connections at a time
	maxBody    = 1 << 20 // bytes of everything but a bundle
	patience   = 30 * time.Second
)

// Serve answers on the listener until ctx ends, and closes it then. Users that are not in
// allowed are hung up on before a byte of theirs is read.
func Serve(ctx context.Context, l *net.UnixListener, host Host, allowed []uint32, log *slog.Logger) error {
	s := &http.Server{
		Handler: routes(host, log), ReadHeaderTimeout: patience, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(end) != nil {
			s.Close()
		}
	})
	defer stop()
	err := s.Serve(netutil.LimitListener(door{l, allowed, log}, mostAsking))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving the machine's socket: %w", err)
}

// door lets in the users that may ask.
type door struct {
	*net.UnixListener
	allowed []uint32
	log     *slog.Logger
}

// Accept implements net.Listener.
func (d door) Accept() (net.Conn, error) {
	for {
		conn, err := d.AcceptUnix()
		if err != nil {
			return nil, err
		}
		user, err := peer.Admit(conn, d.allowed...)
		if err == nil {
			return conn, nil
		}
		d.log.Warn("a stranger asked at the machine's socket", "user", user, "err", err)
		conn.Close()
	}
}

// trial is the body of TryNetwork.
type trial struct {
	Network appliance.Network `json:"network"`
	Seconds int               `json:"seconds,omitempty"`
}

type until struct {
	Until time.Time `json:"until"`
}

type named struct {
	Name string `json:"name"`
}

// secret is the body of SetPassphrase and Seal.
type secret struct {
	Passphrase string `json:"passphrase,omitempty"`
	PIN        string `json:"pin,omitempty"`
}

type recovery struct {
	Recovery string `json:"recovery,omitempty"`
}

// fault is an error on the wire.
type fault struct {
	Kind  string `json:"kind,omitempty"`
	Error string `json:"error"`
}

// kinds are the errors that pass the socket with their text.
var kinds = map[string]error{"refused": ErrRefused, "busy": ErrBusy}

func tryNetwork(ctx context.Context, h Host, q trial) (time.Time, error) {
	d := time.Duration(q.Seconds) * time.Second
	if q.Seconds == 0 {
		d = DefaultTry
	}
	if q.Seconds < 0 || q.Seconds > int(MaxTry/time.Second) || d < MinTry {
		return time.Time{}, fmt.Errorf("%w: a network is tried for %s to %s", ErrRefused, MinTry, MaxTry)
	}
	return h.TryNetwork(ctx, q.Network, d)
}

func logQuery(r *http.Request) (n int, f Filter, err error) {
	q := r.URL.Query()
	f = Filter{Part: q.Get("part"), Contains: q.Get("contains")}
	if n, err = strconv.Atoi(q.Get("n")); err != nil || n < 1 || n > MaxLines {
		return 0, f, fmt.Errorf("%w: the log is asked for 1 to %d lines", ErrRefused, MaxLines)
	}
	if s := q.Get("since"); s != "" {
		if f.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return 0, f, fmt.Errorf("%w: since is no time", ErrRefused)
		}
	}
	return n, f, nil
}

func options(r *http.Request) (o Options, err error) {
	q := r.URL.Query()
	o.Reboot, o.Automatic = q.Get("reboot") == "true", q.Get("automatic") == "true"
	o.Version, o.SHA256 = q.Get("version"), q.Get("sha256")
	if s := q.Get("size"); s != "" {
		if o.Size, err = strconv.ParseInt(s, 10, 64); err != nil || o.Size < 0 {
			return o, fmt.Errorf("%w: size %q is no number of bytes", ErrRefused, s)
		}
	}
	if max(o.Size, r.ContentLength) > MaxBundle {
		return o, fmt.Errorf("%w: a bundle is no larger than %d bytes", ErrRefused, MaxBundle)
	}
	return o, nil
}

// read decodes a body: one JSON value, no unknown names.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: reading the request: %w", ErrRefused, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the request", ErrRefused)
	}
	return nil
}

func fail(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	for kind, of := range kinds {
		if errors.Is(err, of) {
			reply(w, http.StatusConflict, fault{kind, err.Error()})
			return
		}
	}
	log.Error("the machine could not do what it was asked", "what", r.Method+" "+r.URL.Path, "err", err)
	reply(w, http.StatusInternalServerError, fault{Error: "the machine failed; its log says why"})
}

func reply(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // an error here means that the asker is gone
}
