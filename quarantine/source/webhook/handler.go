// Package webhook takes compliance reports that a management server sends by itself: signed
// messages as Standard Webhooks has them (standardwebhooks.com), so that its libraries, or
// openssl and curl, suffice. A message is signed with HMAC-SHA-256 over its id, its time stamp
// and its body, is fresh, and is taken once.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/door"
)

// Pattern is where messages are posted, for http.ServeMux.
const Pattern = "POST /hooks/v1/{source}"

// Config is what a Handler needs. Every field is required unless marked.
type Config struct {
	Gate   source.Gate
	Audit  source.Auditor
	Ledger *source.Ledger
	Keys   *Keys
	Notes  Notes
	// Source returns a source by its name; false: there is none.
	Source func(ctx context.Context, name string) (quarantine.Source, bool, error)
	Log    *slog.Logger
	Now    func() time.Time // optional: time.Now
}

// Handler answers webhooks of every source.
type Handler struct {
	cfg  Config
	seen *seen
	// Two, so that those who know of no source take no place of those who do.
	door, decoys door.Door
	// Two, so that no stranger uses up what is for those who hold a key.
	strangers, holders budget
}

// readTime is how long a message may take to arrive.
const readTime = 10 * time.Second

// New reads which messages were taken already.
func New(ctx context.Context, c Config) (*Handler, error) {
	for what, missing := range map[string]bool{
		"gate": c.Gate == nil, "auditor": c.Audit == nil, "ledger": c.Ledger == nil, "keys": c.Keys == nil,
		"notes": c.Notes == nil, "sources": c.Source == nil, "log": c.Log == nil,
	} {
		if missing {
			return nil, errors.New("taking webhooks: no " + what)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s, err := loadSeen(ctx, c.Notes, c.Now())
	if err != nil {
		return nil, err
	}
	return &Handler{cfg: c, seen: s, door: door.Door{Total: doorTotal, Each: doorEach}, decoys: door.Door{Total: doorTotal, Each: doorEach},
		strangers: budget{most: 30, window: 10 * time.Minute}, holders: budget{most: 600, window: 10 * time.Minute}}, nil
}

// call is one message on its way through.
type call struct {
	h      *Handler
	ctx    context.Context
	name   string // of the source, as asked for
	remote string
	now    time.Time
	window time.Duration
	head   head
	body   []byte
}

// ServeHTTP implements http.Handler. Whatever is wrong before a message is known to be of a
// source, and fresh, has one answer, so that nobody learns which names and keys there are.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	c := &call{h: h, ctx: r.Context(), name: r.PathValue("source"), remote: r.RemoteAddr, now: h.cfg.Now()}
	if why := c.look(r.Header); why != "" { // whoever has no more than an address takes nobody's place
		c.refuse(why)
		unauthenticated(w)
		return
	}
	known, err := c.known()
	if err != nil {
		h.cfg.Log.Error("reading a webhook's source", "source", c.name, "err", err)
		busy(w, "the gateway cannot look up keys at this moment")
		return
	}
	places := &h.door
	if !known {
		places = &h.decoys
	}
	leave := places.Enter(r.RemoteAddr)
	if leave == nil {
		busy(w, "too many messages at once")
		return
	}
	defer leave()
	// Not every writer can; the server has a limit of its own.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime))
	if c.body, err = arrive(http.MaxBytesReader(w, r.Body, maxBody), known); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			reply(w, http.StatusRequestEntityTooLarge, Problem{"the message is larger than 1 MiB", "send less at a time"})
			return
		}
		reply(w, http.StatusBadRequest, Problem{"the message did not arrive whole", ""})
		return
	}
	switch why, err := c.authenticate(known); {
	case err != nil:
		h.cfg.Log.Error("reading the keys of a webhook's source", "source", c.name, "err", err)
		busy(w, "the gateway cannot look up keys at this moment")
	case why != "":
		c.refuse(why)
		unauthenticated(w)
	default:
		c.once(w)
	}
}

// look says why the message can be of no source, by what is known before it is read; empty: it
// may be. It looks at nothing that tells sources apart.
func (c *call) look(header http.Header) (why string) {
	var err error
	if c.head, err = parseHead(header); err != nil {
		return err.Error()
	}
	if off := c.now.Sub(c.head.at); off > MaxWindow || off < -MaxWindow {
		return fmt.Sprintf("its time stamp is %s off, more than %s", off.Round(time.Second), MaxWindow)
	}
	return ""
}

// known reports whether there is a source of that name that sends webhooks.
func (c *call) known() (bool, error) {
	src, known, err := c.h.cfg.Source(c.ctx, c.name)
	return known && src.Kind == quarantine.SourceWebhook, err
}

// arrive reads a body. One for a source that does not exist is worked through as the others
// are, so that nothing tells which there are, and is not kept.
func arrive(body io.Reader, known bool) ([]byte, error) {
	if known {
		return io.ReadAll(body)
	}
	_, err := io.Copy(hmac.New(sha256.New, decoy.key), body)
	return nil, err
}

// authenticate says why the message is not of its source; empty: it is.
func (c *call) authenticate(known bool) (why string, err error) {
	if !known {
		return fmt.Sprintf("there is no source %.64q that sends webhooks", c.name), nil
	}
	secrets, window, err := c.h.cfg.Keys.secrets(c.ctx, c.name)
	if err != nil {
		return "", err
	}
	if !c.head.signed(c.body, secrets) {
		return "no key of the source signed it", nil
	}
	c.window = window
	if off := c.now.Sub(c.head.at); off > window || off < -window {
		why = fmt.Sprintf("its time stamp is %s off, more than %s", off.Round(time.Second), window)
		c.failed(errors.New(why))
	}
	return why, nil
}

// decoy is what messages to sources that do not exist are signed with, for the work alone.
var decoy = NewSecret()

// once takes a message that was not taken before.
func (c *call) once(w http.ResponseWriter) {
	e, known := c.h.seen.begin(c.name, c.head.id, c.head.at, c.body, c.window, c.now)
	switch known {
	case replayed:
		c.refuse("it was replayed: the same id and time stamp came before")
		unauthenticated(w)
	case other:
		c.failed(errors.New("one id came with two bodies"))
		reply(w, http.StatusConflict, Problem{"this webhook-id came before with another body", "give every message an id of its own"})
	case underway:
		busy(w, "the same message is being worked on")
	case unknown:
		c.failed(errors.New("what was taken before a restart cannot be read: messages of that time are not taken"))
		busy(w, "the gateway cannot tell whether it took this message")
	case tooMany:
		c.failed(errors.New("it sends more messages than are remembered"))
		busy(w, "too many messages: send several reports in one")
	case repeated:
		c.keep(e)
		reply(w, http.StatusOK, Answer{OK: true, Repeated: true})
	default:
		c.take(w, e)
	}
}

// take hands a message's reports to the gate.
func (c *call) take(w http.ResponseWriter, e *entry) {
	taken := false
	defer func() { // also when the gate panics
		if !taken {
			c.h.seen.cancel(e)
		}
	}()
	m, err := parse(c.body)
	if err != nil {
		c.failed(err)
		reply(w, http.StatusBadRequest, Problem{err.Error(), "see docs/webhooks.md for the form"})
		return
	}
	if m.ping {
		taken = true
		c.keep(e)
		c.h.cfg.Ledger.Heard(c.name, quarantine.SourceWebhook, c.now, 0, 0)
		reply(w, http.StatusOK, Answer{OK: true})
		return
	}
	results, refused, again := c.reports(m.reports)
	if again {
		c.failed(errors.New("the gateway could not take all of it; it was told to send it again"))
		w.Header().Set("Retry-After", "5")
		reply(w, http.StatusServiceUnavailable, Answer{Results: results})
		return
	}
	taken = true
	c.keep(e)
	c.h.cfg.Ledger.Heard(c.name, quarantine.SourceWebhook, c.now, len(results)-refused, refused)
	reply(w, http.StatusOK, Answer{OK: refused == 0, Results: results})
}

// keep remembers the message across a restart. Where that fails it was taken all the same,
// and the order of reports stands against a replay.
func (c *call) keep(e *entry) {
	if err := c.h.seen.keep(context.WithoutCancel(c.ctx), e); err != nil {
		c.h.cfg.Log.Error("noting which webhooks were taken", "err", err)
	}
}

// failed notes in the source's health what was wrong with a message that it did sign.
func (c *call) failed(err error) {
	c.h.cfg.Ledger.Failed(c.name, quarantine.SourceWebhook, c.now, err)
}

// refuse records a message that is not taken as the source's.
func (c *call) refuse(why string) {
	c.audit(&c.h.strangers, quarantine.Actor{Kind: "stranger", Address: c.remote}, "", fmt.Sprintf("webhook to %.64q: %s", c.name, why))
}

// audit records a refusal as long as its budget lasts.
func (c *call) audit(b *budget, by quarantine.Actor, device quarantine.ID, why string) {
	ok, left := b.entry(c.now)
	if !ok {
		return
	}
	if left > 0 {
		why += fmt.Sprintf(" (%d refusals before it are not in this log: there were too many)", left)
	}
	if err := c.h.cfg.Audit.Refused(context.WithoutCancel(c.ctx), by, device, why); err != nil {
		c.h.cfg.Log.Error("writing to the audit log", "why", why, "err", err)
	}
}

// Problem is the body of an answer that is no success.
type Problem struct {
	Error  string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
}

func unauthenticated(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Webhook`)
	reply(w, http.StatusUnauthorized, Problem{"the message is not signed by a source, not fresh, or not new", "see docs/webhooks.md; the gateway's audit log says which"})
}

func busy(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", strconv.Itoa(1))
	reply(w, http.StatusServiceUnavailable, Problem{why, "send it again in a moment"})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status is on its way; an error here means that the caller is gone.
	_ = json.NewEncoder(w).Encode(v)
}
