package ssf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	quick      = 5 * time.Second // an empty answer within that was no long poll
)

// pollRequest is RFC 8936 section 2.2.
type pollRequest struct {
	MaxEvents         int                    `json:"maxEvents"`
	ReturnImmediately bool                   `json:"returnImmediately"`
	Ack               []string               `json:"ack,omitempty"`
	SetErrs           map[string]refusalForm `json:"setErrs,omitempty"`
}

// tells reports whether the request says what became of tokens. It asks to be answered at
// once, so that an empty answer to it says nothing of the transmitter's patience.
func (q pollRequest) tells() bool { return len(q.Ack)+len(q.SetErrs) > 0 }

// pollAnswer is RFC 8936 section 2.3.
type pollAnswer struct {
	Sets map[string]string `json:"sets"`
	More bool              `json:"moreAvailable"`
}

// poll asks for tokens until ctx ends. What was taken in or refused for good is told in the
// next request; what was not is not, and comes again.
func (r *Receiver) poll(ctx context.Context, st *stream) {
	var told pollRequest
	var failures int
	for ctx.Err() == nil {
		began := time.Now()
		next, more, err := r.pollOnce(ctx, st, told)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		switch {
		case err != nil:
			failures++
			wait = retryWait(failures, err)
			r.cfg.Ledger.Failed(st.name, quarantine.SourceSSF, r.cfg.Now(), err)
			r.cfg.Log.Warn("polling a stream", "stream", st.name, "failures", failures, "wait", wait, "err", err)
		default:
			failures = 0
			if !more && !told.tells() && !next.tells() && time.Since(began) < quick {
				wait = jitter(st.settings.pollEvery())
			}
		}
		told = next
		if !sleep(ctx, wait) {
			return
		}
	}
}

// pollOnce makes one request. next is what the following one has to tell: after a failure,
// the same again.
func (r *Receiver) pollOnce(ctx context.Context, st *stream, told pollRequest) (next pollRequest, more bool, err error) {
	told.MaxEvents = st.settings.maxEvents()
	told.ReturnImmediately = told.tells() // acknowledgements are not held back
	var got pollAnswer
	if err := st.client.poll(ctx, told, &got); err != nil {
		return told, false, fmt.Errorf("polling: %w", err)
	}
	r.heard(st, 0)
	st.state.set(func(s *Status) { s.PolledAt = r.cfg.Now() })
	if len(got.Sets) > maxMaxEvents {
		return pollRequest{}, false, fmt.Errorf("polling: %d tokens at once, more than %d", len(got.Sets), maxMaxEvents)
	}
	ids := make([]string, 0, len(got.Sets))
	for id := range got.Sets {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var postponed error
	for _, id := range ids {
		switch err := r.polled(ctx, st, id, got.Sets[id]); {
		case err == nil:
			next.Ack = append(next.Ack, id)
		default:
			refused, ok := errors.AsType[*set.Error](err)
			if !ok {
				postponed = errors.Join(postponed, err)
				continue
			}
			if next.SetErrs == nil {
				next.SetErrs = map[string]refusalForm{}
			}
			next.SetErrs[id] = refusal(refused)
		}
	}
	return next, got.More, postponed
}

// polled takes one token, which must be the one that the answer says it is.
func (r *Receiver) polled(ctx context.Context, st *stream, id, text string) error {
	if u, err := set.Parse(text); err == nil && u.ID() != id {
		return set.Refuse(set.InvalidRequest, "the token's jti is not %.80q", id)
	}
	return r.take(ctx, st, text, st.settings.PollURL)
}

// poll asks the transmitter, which may hold the request open.
func (c *client) poll(ctx context.Context, in pollRequest, out *pollAnswer) error {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	token, err := c.bearer(ctx)
	if err != nil {
		return err
	}
	header := ""
	if token != "" {
		header = "Bearer " + token
	}
	err = c.send(ctx, http.MethodPost, c.settings.PollURL, header, in, out, maxPolled)
	if f, ok := errors.AsType[*failure](err); ok && f.status == http.StatusUnauthorized {
		c.forget()
	}
	if errors.Is(err, context.DeadlineExceeded) && strings.HasPrefix(c.settings.PollURL, "https://") && ctx.Err() != nil {
		return fmt.Errorf("no answer within %s: %w", pollTime, err)
	}
	return err
}

// retryWait is how long to wait after so many failures in a row.
func retryWait(failures int, err error) time.Duration {
	wait := lastRetry
	if failures < 10 {
		wait = min(firstRetry<<(failures-1), lastRetry)
	}
	wait = jitter(wait)
	if f, ok := errors.AsType[*failure](err); ok {
		wait = max(wait, f.after)
	}
	return wait
}

// jitter is three quarters to five quarters of d.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// sleep waits, and reports whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
