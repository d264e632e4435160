package stream

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"lazaret/internal/audit"
)

// progress is how far a receiver was told: kept in the notes.
type progress struct {
	Version int       `json:"v"`
	Cursor  uint64    `json:"cursor"`           // number of the audit entry that is done with
	Since   time.Time `json:"since,omitzero"`   // it has failed to take the next one
	Parked  bool      `json:"parked,omitempty"` // nothing is tried any more until a person says so
	Problem string    `json:"problem,omitempty"`
}

const progressVersion = 1

// Health is how a receiver does.
type Health struct {
	Name      string    `json:"name"`
	Cursor    uint64    `json:"cursor"`            // number of the audit entry that it has had
	Waiting   uint64    `json:"waiting"`           // entries behind it; not each is an event
	Delivered uint64    `json:"delivered"`         // events, since this control plane began
	Last      time.Time `json:"last,omitzero"`     // when it last took something
	Failures  int       `json:"failures"`          // attempts that failed in a row
	Since     time.Time `json:"since,omitzero"`    // of the first of them
	Next      time.Time `json:"next,omitzero"`     // when the next attempt is
	Problem   string    `json:"problem,omitempty"` // of the last attempt; empty: it went well
	Parked    bool      `json:"parked"`            // nothing is tried until it is resumed
}

// batch is how many entries are read at once.
const batch = 64

// farBehind is how far a cursor moves over entries that are no events before it is noted.
const farBehind = 1000

// worker tells one receiver.
type worker struct {
	m      *Manager
	r      Receiver
	client *http.Client
	with   credentials
	stop   context.CancelFunc
	done   chan struct{}
	kick   chan struct{} // capacity 1: resume, or something to be told out of turn

	mu     sync.Mutex
	p      progress
	noted  progress // as it is in the notes
	health Health
	extra  []Event // to be told before what follows in the log: pings, and an SSF stream's verification
}

func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	tail := w.m.cfg.Follow(w.cursor())
	defer func() { tail.Close() }()
	defer w.note(context.WithoutCancel(ctx))
	for ctx.Err() == nil {
		if w.held() {
			w.wait(ctx, 0)
			continue
		}
		if !w.tellExtra(ctx) {
			continue
		}
		reading, stop := context.WithCancel(ctx)
		release := w.interrupt(stop)
		some, err := tail.Next(reading, batch)
		release()
		stop()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			w.m.cfg.Log.Error("following the audit log", "stream", w.r.Name, "err", err)
			w.problem("the audit log cannot be read: " + err.Error())
			tail.Close()
			tail = w.m.cfg.Follow(w.cursor())
			w.wait(ctx, w.m.cfg.First)
		}
		for _, n := range some {
			if !w.tellAll(ctx, n) {
				tail.Close()
				tail = w.m.cfg.Follow(w.cursor())
				break
			}
		}
		w.noteIfMoved(ctx)
	}
}

// tellAll tells all that follows from an entry, and moves the cursor. False: not all of it.
func (w *worker) tellAll(ctx context.Context, n audit.Numbered) bool {
	for _, e := range events(w.m.cfg.Gateway, n) {
		if !w.tell(ctx, e) {
			return false
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p.Cursor = n.Sequence
	return true
}

// tellExtra tells what goes first.
func (w *worker) tellExtra(ctx context.Context) bool {
	for {
		w.mu.Lock()
		if len(w.extra) == 0 {
			w.mu.Unlock()
			return true
		}
		e := w.extra[0]
		w.mu.Unlock()
		if !w.tell(ctx, e) {
			return false
		}
		w.mu.Lock()
		w.extra = w.extra[1:]
		w.mu.Unlock()
	}
}

// tell tells one event and tries again until it is taken; false: it is given up, or ctx ended.
func (w *worker) tell(ctx context.Context, e Event) bool {
	messages, err := w.messages(e)
	if err != nil {
		w.m.cfg.Log.Error("making a stream's message", "stream", w.r.Name, "event", e.ID, "err", err)
		w.park("a message could not be made: " + err.Error())
		return false
	}
	for _, msg := range messages {
		for attempt := 0; ; attempt++ {
			err := w.send(ctx, msg)
			if err == nil {
				w.delivered()
				break
			}
			if ctx.Err() != nil {
				return false
			}
			wait, ok := w.failed(err, attempt)
			if !ok {
				return false
			}
			if w.wait(ctx, wait); w.held() || ctx.Err() != nil {
				return false
			}
		}
	}
	return true
}

func (w *worker) delivered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.health.Delivered++
	w.health.Last, w.health.Failures, w.health.Next = w.m.cfg.Now().UTC(), 0, time.Time{}
	w.p.Since, w.p.Problem = time.Time{}, ""
}

// failed notes an attempt that failed, and says how long to wait; false: no more.
func (w *worker) failed(err error, attempt int) (time.Duration, bool) {
	c, now := w.m.cfg, w.m.cfg.Now().UTC()
	wait := min(c.First<<min(attempt, 20), c.Longest)
	wait += time.Duration(rand.Int64N(int64(wait)/2+1)) - wait/4
	gone := false
	if f, ok := errors.AsType[*failure](err); ok {
		wait, gone = max(wait, f.wait), f.gone
	}
	w.mu.Lock()
	if w.p.Since.IsZero() {
		w.p.Since = now
	}
	w.p.Problem = err.Error()
	w.health.Failures++
	w.health.Next = now.Add(wait)
	since, first := w.p.Since, w.health.Failures == 1
	w.mu.Unlock()
	switch {
	case gone:
		w.park("it wants to be told nothing more: " + err.Error())
		return 0, false
	case now.Sub(since) >= c.GiveUp:
		w.park("it took nothing for " + c.GiveUp.String() + ": " + err.Error())
		return 0, false
	}
	if first {
		w.m.cfg.Log.Warn("a stream's receiver does not take an event; trying again", "stream", w.r.Name, "why", err)
		w.note(context.Background())
	}
	return wait, true
}

// park stops telling until a person resumes it.
func (w *worker) park(why string) {
	w.mu.Lock()
	w.p.Parked, w.p.Problem, w.health.Next = true, why, time.Time{}
	w.mu.Unlock()
	w.m.cfg.Log.Error("a stream is parked: nothing is sent until it is resumed", "stream", w.r.Name, "why", why)
	w.note(context.Background())
}

func (w *worker) problem(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p.Problem = text
}

// held reports whether nothing is to be told for now.
func (w *worker) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.p.Parked || w.r.Status == Paused || w.r.Status == Disabled
}

func (w *worker) cursor() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.p.Cursor
}

// wait waits for a while, or until the worker is kicked; 0: for a kick alone.
func (w *worker) wait(ctx context.Context, d time.Duration) {
	var over <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-ctx.Done():
	case <-w.kick:
	case <-over:
	}
}

// interrupt calls stop when the worker is kicked, until it is released.
func (w *worker) interrupt(stop func()) (release func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-w.kick:
			stop()
		case <-over:
		}
	}()
	return func() { close(over); <-ended }
}

func (w *worker) nudge() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// noteIfMoved notes the progress where something was told, or where much was passed over.
func (w *worker) noteIfMoved(ctx context.Context) {
	w.mu.Lock()
	moved := w.p.Since != w.noted.Since || w.p.Parked != w.noted.Parked || w.p.Cursor > w.noted.Cursor+farBehind ||
		w.p.Cursor != w.noted.Cursor && !w.health.Last.IsZero()
	w.mu.Unlock()
	if moved {
		w.note(ctx)
	}
}

// note keeps the progress. What could not be kept is told again after a restart.
func (w *worker) note(ctx context.Context) {
	w.mu.Lock()
	p, same := w.p, w.p == w.noted
	w.mu.Unlock()
	if same {
		return
	}
	if err := w.m.keep(ctx, w.r.Name, p); err != nil {
		w.m.cfg.Log.Error("noting a stream's progress", "stream", w.r.Name, "err", err)
		return
	}
	w.mu.Lock()
	w.noted = p
	w.mu.Unlock()
}

// state is how the receiver does now.
func (w *worker) state() Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.health
	h.Name, h.Cursor, h.Since, h.Problem, h.Parked = w.r.Name, w.p.Cursor, w.p.Since, w.p.Problem, w.p.Parked
	return h
}

func (m *Manager) keep(ctx context.Context, name string, p progress) error {
	p.Version = progressVersion
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return m.cfg.Notes.Put(ctx, notePrefix+name, raw)
}
