package ssf

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"lazaret/quarantine/source/set"
)

const (
	// PushPath is where streams are pushed to; the name of the stream follows.
	PushPath = "/ssf/v1/"
	// PushPattern is that for http.ServeMux.
	PushPattern = "POST " + PushPath + "{stream}"
)

const (
	// maxAtOnce bounds tokens that are being worked on; more get 503. Who is slow in sending
	// one holds none of these places.
	maxAtOnce = 64
	// doorTotal and doorEach bound those that are being read, each up to set.MaxBytes: of all,
	// and of one IPv4 address or IPv6 /64, so that one who is slow keeps nobody else out.
	doorTotal = 512
	doorEach  = 32
)

// Handler serves PushPattern (RFC 8935). It is reached by strangers.
func (r *Receiver) Handler() http.Handler {
	places := make(chan struct{}, maxAtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r.push(w, req, places)
	})
}

func (r *Receiver) push(w http.ResponseWriter, req *http.Request, places chan struct{}) {
	st, err := r.stream(req.PathValue("stream"))
	switch {
	case errors.Is(err, ErrNotReady):
		later(w)
		return
	case err != nil, st.fault == nil && st.settings.Delivery != Push:
		http.NotFound(w, req)
		return
	}
	text, err := r.pushed(w, req, st)
	if err == nil {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			err = r.take(req.Context(), st, text, req.RemoteAddr)
		default:
			err = errors.New("too many at once")
		}
	}
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
	} else if refusal, ok := errors.AsType[*set.Error](err); ok {
		refuse(w, refusal)
	} else {
		later(w)
	}
}

// pushed is the token of a request.
func (r *Receiver) pushed(w http.ResponseWriter, req *http.Request, st *stream) (string, error) {
	leave := r.door.Enter(req.RemoteAddr)
	if leave == nil {
		return "", errors.New("too many are being read")
	}
	defer leave()
	if err := r.authorized(req.Context(), st, req.Header.Values("Authorization")); err != nil {
		return "", r.unheard(req, st, err)
	}
	kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || kind != set.ContentType {
		return "", r.unheard(req, st, set.Refuse(set.InvalidRequest, "the body is not of type %s", set.ContentType))
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, set.MaxBytes))
	if err != nil {
		return "", r.unheard(req, st, set.Refuse(set.InvalidRequest, "the token could not be read, or is longer than %d bytes", set.MaxBytes))
	}
	return string(body), nil
}

// authorized compares the whole Authorization header with the stream's, if it has one, in
// the same time whatever is sent.
func (r *Receiver) authorized(ctx context.Context, st *stream, sent []string) error {
	want, err := st.authorization(ctx, r)
	if err != nil {
		return err
	}
	if want == "" {
		return nil // the signature authenticates the transmitter
	}
	var got [32]byte
	if len(sent) == 1 {
		got = sha256.Sum256([]byte(sent[0]))
	}
	sum := sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(got[:], sum[:]) != 1 {
		return set.Refuse(set.AuthenticationFailed, "the Authorization header is not that of this stream")
	}
	return nil
}

// secretFresh is how long the header is kept in memory, so that strangers cause no reading.
const secretFresh = 5 * time.Second

// authorization is the header that a push must bear; empty: any.
func (st *stream) authorization(ctx context.Context, r *Receiver) (string, error) {
	st.headerMu.Lock()
	defer st.headerMu.Unlock()
	now := r.cfg.Now()
	if age := now.Sub(st.headerAt); age < 0 || age > secretFresh {
		text, err := r.cfg.Store.Secret(ctx, st.name, Authorization)
		if err != nil {
			return "", fmt.Errorf("reading the Authorization header of stream %s: %w", st.name, err)
		}
		st.header, st.headerAt = text, now
	}
	return st.header, nil
}

// unheard counts and audits a request that bears no token to look at.
func (r *Receiver) unheard(req *http.Request, st *stream, err error) error {
	if refusal, ok := errors.AsType[*set.Error](err); ok {
		st.state.count(func(c *Counts) { c.Refused[refusal.Code]++ })
		r.strange(req.Context(), st, req.RemoteAddr, "push: "+refusal.Error())
	}
	return err
}

// refuse answers as RFC 8935 section 2.4.
func refuse(w http.ResponseWriter, e *set.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Language", "en")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(refusal(e)) // the caller may be gone
}

// refusalForm is an error of RFC 8935 section 2.3 and RFC 8936 section 2.6.
type refusalForm struct {
	Err         set.Code `json:"err"`
	Description string   `json:"description"`
}

func refusal(e *set.Error) refusalForm { return refusalForm{e.Code, e.Text} }

// later asks the transmitter to send the token again.
func later(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "10")
	http.Error(w, "not now: send it again", http.StatusServiceUnavailable)
}
