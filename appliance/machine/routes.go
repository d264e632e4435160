package machine

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"lazaret/appliance"
)

// router puts what a Host does behind paths.
type router struct {
	*http.ServeMux
	log *slog.Logger
}

func routes(h Host, log *slog.Logger) http.Handler {
	m := router{http.NewServeMux(), log}
	m.watch(h)
	m.network(h)
	m.update(h)
	m.protect(h)
	m.power(h)
	return m
}

// on answers with what f returns, or with its error.
func (m router) on(pattern string, f func(r *http.Request) (any, error)) {
	m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		out, err := f(r)
		if err != nil {
			fail(w, r, m.log, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
}

// plain is on for what takes and returns nothing.
func (m router) plain(pattern string, f func(context.Context) error) {
	m.on(pattern, func(r *http.Request) (any, error) { return struct{}{}, f(r.Context()) })
}

// taking is a handler for what takes a body.
func taking[T any](f func(context.Context, T) (any, error)) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var q T
		if err := read(r, &q); err != nil {
			return nil, err
		}
		return f(r.Context(), q)
	}
}

func (m router) watch(h Host) {
	m.on("GET /v1/status", func(r *http.Request) (any, error) {
		st, err := h.Status(r.Context())
		st.Code = ""
		return st, err
	})
	m.on("GET /v1/log", func(r *http.Request) (any, error) {
		n, f, err := logQuery(r)
		if err != nil {
			return nil, err
		}
		return h.Log(r.Context(), n, f)
	})
	m.on("GET /v1/check", func(r *http.Request) (any, error) { return h.SelfCheck(r.Context()) })
	m.on("GET /v1/inventory", func(r *http.Request) (any, error) { return h.Inventory(r.Context()) })
}

func (m router) network(h Host) {
	m.on("GET /v1/network", func(r *http.Request) (any, error) { return h.Network(r.Context()) })
	m.on("POST /v1/network", taking(func(ctx context.Context, q trial) (any, error) {
		at, err := tryNetwork(ctx, h, q)
		return until{at}, err
	}))
	m.plain("POST /v1/network/confirm", h.ConfirmNetwork)
	m.plain("POST /v1/clock/accept", h.AcceptTime)
}

// whole notes whether all of a body was read.
type whole struct {
	r     io.Reader
	ended atomic.Bool
}

// Read implements io.Reader.
func (b *whole) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// stage takes in a bundle. Staging may end before the bundle does, with a read under way of
// a peer that says nothing: the answer does not wait for it.
func (m router) stage(h Host) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		o, err := options(r)
		var out Staged
		body := &whole{r: r.Body}
		if err == nil {
			out, err = h.StageUpdate(r.Context(), io.LimitReader(body, MaxBundle+1), o)
		}
		switch {
		case err == nil:
			reply(w, http.StatusOK, out)
		case body.ended.Load():
			fail(w, r, m.log, err)
		default:
			m.refuse(w, r, body, err)
		}
	}
}

// lingerTime is how long what was refused is read on and thrown away, at most, and
// lingerSilence how long the peer may say nothing meanwhile.
const (
	lingerTime    = 30 * time.Second
	lingerSilence = 2 * time.Second
)

// refuse answers in the middle of a bundle, then reads on: who is still writing would find the
// connection closed, and perhaps no answer.
func (m router) refuse(w http.ResponseWriter, r *http.Request, body io.Reader, err error) {
	c := http.NewResponseController(w)
	if err := c.EnableFullDuplex(); err != nil {
		m.log.Error("answering in the middle of an update", "err", err)
	}
	w.Header().Set("Connection", "close")
	fail(w, r, m.log, err)
	if c.Flush() != nil {
		return // the peer is gone
	}
	for end := time.Now().Add(lingerTime); ; {
		at := time.Now().Add(lingerSilence)
		if at.After(end) {
			at = end
		}
		if c.SetReadDeadline(at) != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, body, 32<<10); err != nil {
			return
		}
	}
}

func (m router) update(h Host) {
	m.HandleFunc("POST /v1/update", m.stage(h))
	m.on("GET /v1/updates", func(r *http.Request) (any, error) { return h.UpdateSettings(r.Context()) })
	m.on("PUT /v1/updates", taking(func(ctx context.Context, u appliance.Updates) (any, error) {
		return struct{}{}, h.SetUpdates(ctx, u)
	}))
	m.on("POST /v1/heard", taking(func(ctx context.Context, said Heard) (any, error) {
		return struct{}{}, h.Heard(ctx, said)
	}))
	m.plain("POST /v1/rollback", h.Rollback)
}

func (m router) protect(h Host) {
	m.on("POST /v1/passphrase", taking(func(ctx context.Context, q secret) (any, error) {
		return struct{}{}, h.SetPassphrase(ctx, q.Passphrase)
	}))
	m.on("POST /v1/seal", taking(func(ctx context.Context, q secret) (any, error) {
		text, err := h.Seal(ctx, q.PIN)
		return recovery{text}, err
	}))
	m.on("POST /v1/recovery", func(r *http.Request) (any, error) {
		text, err := h.NewRecovery(r.Context())
		return recovery{text}, err
	})
}

func (m router) power(h Host) {
	m.plain("POST /v1/reboot", h.Reboot)
	m.plain("POST /v1/poweroff", h.PowerOff)
	m.on("POST /v1/reset", taking(func(ctx context.Context, q named) (any, error) {
		return struct{}{}, h.Reset(ctx, q.Name)
	}))
}
