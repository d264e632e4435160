package stream

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"lazaret/internal/audit"
	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// take makes an entry's tokens. It is all or nothing, so that the cursor stands between entries.
func (p *poller) take(n audit.Numbered) error {
	var fresh []given
	for _, e := range events(p.m.cfg.Gateway, n) {
		if !p.r.wants(e.Type) {
			continue
		}
		tokens, err := p.m.tokens(p.r, e)
		if err != nil {
			return err
		}
		for _, t := range tokens {
			fresh = append(fresh, given{t, n.Sequence})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = n.Sequence
	p.out = append(p.out, fresh...)
	p.settle()
	return nil
}

// Where the transmitter answers (SSF 1.0 section 7), on the enrollment listener.
const (
	configurationPath = "/.well-known/ssf-configuration"
	jwksPath          = "/.well-known/jwks.json"
	streamPath        = "/streams/v1/stream"
	statusPath        = "/streams/v1/status"
	verifyPath        = "/streams/v1/verify"
	pollPath          = "/streams/v1/poll/"
)

const (
	deliverPush = "urn:ietf:rfc:8935"
	deliverPoll = "urn:ietf:rfc:8936"
	maxRequest  = 64 << 10
)

// Handlers are what the transmitter answers, by pattern of http.ServeMux. All but the first
// two ask for the receiver's token.
func (m *Manager) Handlers() map[string]http.Handler {
	guarded := func(f func(http.ResponseWriter, *http.Request, Receiver) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			who, err := m.authenticate(r)
			if err == nil {
				r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
				err = f(w, r, who)
			}
			if err != nil {
				m.fail(w, r, err)
			}
		})
	}
	return map[string]http.Handler{
		"GET " + configurationPath:      http.HandlerFunc(m.configuration),
		"GET " + jwksPath:               http.HandlerFunc(m.jwks),
		"GET " + streamPath:             guarded(m.showStream),
		"GET " + statusPath:             guarded(m.showStatus),
		"POST " + statusPath:            guarded(m.setStatus),
		"POST " + verifyPath:            guarded(m.verifyStream),
		"POST " + pollPath + "{stream}": guarded(m.poll),
	}
}

// refusal is an error with its status, whose text the receiver may see.
type refusal struct {
	status int
	text   string
}

func (e refusal) Error() string { return e.text }

var errWho = refusal{http.StatusUnauthorized, "send the stream's token as bearer"}

// authenticate finds the receiver whose token is sent. Every one is compared, with what is
// no secret: the sum. They are compared in memory, so that a stranger costs no look at the store;
// what is then read of the one that was found says whether the token is still its.
func (m *Manager) authenticate(r *http.Request) (Receiver, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !strings.HasPrefix(token, tokenPrefix) || len(token) != tokenLength {
		return Receiver{}, errWho
	}
	raw := sha256.Sum256([]byte(token))
	sum, name := hex.EncodeToString(raw[:]), ""
	m.mu.Lock()
	for n, want := range m.sums {
		if subtle.ConstantTimeCompare([]byte(want), []byte(sum)) == 1 {
			name = n
		}
	}
	m.mu.Unlock()
	if name == "" {
		return Receiver{}, errWho
	}
	found, _, err := m.load(r.Context(), name)
	switch {
	case errors.Is(err, ErrNotFound):
		return Receiver{}, errWho
	case err != nil:
		return Receiver{}, err
	case found.Kind != SSF || subtle.ConstantTimeCompare([]byte(found.TokenSum), []byte(sum)) != 1:
		return Receiver{}, errWho
	}
	return found, nil
}

func (m *Manager) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody waits for the answer any more
	}
	status, text := http.StatusInternalServerError, "internal error"
	if e, ok := errors.AsType[refusal](err); ok {
		status, text = e.status, e.text
	} else {
		m.cfg.Log.Error("answering a stream's receiver", "path", r.URL.Path, "err", err)
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	answer(w, status, map[string]string{"err": "invalid_request", "description": text})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// The status is on its way; an error here means that the caller is gone.
	_ = json.NewEncoder(w).Encode(v)
}

// read decodes a request: one JSON object. Names that are not known are passed over, as the
// RFCs want.
func read(r *http.Request, v any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refusal{http.StatusUnsupportedMediaType, "send application/json"}
	}
	d := json.NewDecoder(r.Body)
	if err := d.Decode(v); err != nil {
		return refusal{http.StatusBadRequest, "the request is no JSON object of this form"}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refusal{http.StatusBadRequest, "something follows the JSON object"}
	}
	return nil
}

// configuration is the transmitter's metadata (SSF 1.0 section 7.1).
func (m *Manager) configuration(w http.ResponseWriter, _ *http.Request) {
	at := strings.TrimSuffix(m.cfg.Issuer, "/")
	answer(w, http.StatusOK, map[string]any{
		"spec_version": "1_0", "issuer": m.cfg.Issuer, "jwks_uri": at + jwksPath,
		"delivery_methods_supported": []string{deliverPush, deliverPoll},
		"configuration_endpoint":     at + streamPath, "status_endpoint": at + statusPath, "verification_endpoint": at + verifyPath,
		"authorization_schemes": []map[string]string{{"spec_urn": "urn:ietf:rfc:6750"}},
		"default_subjects":      "ALL",
	})
}

func (m *Manager) jwks(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	raw, err := set.JWKS(m.signers...)
	m.mu.Unlock()
	if err != nil {
		m.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age=300")
	_, _ = w.Write(raw) // an error here means that the caller is gone
}

// named refuses a stream_id that is another's.
func named(who Receiver, id string) error {
	if id != "" && id != who.StreamID {
		return refusal{http.StatusNotFound, "there is no such stream"}
	}
	return nil
}

// showStream answers how the stream is (SSF 1.0 section 8.1.1.2): one, or all there are. It is
// administrators who make and change streams.
func (m *Manager) showStream(w http.ResponseWriter, r *http.Request, who Receiver) error {
	id := r.URL.Query().Get("stream_id")
	if err := named(who, id); err != nil {
		return err
	}
	types := []string{set.DeviceComplianceChange, set.SessionRevoked}
	delivery := map[string]string{"method": deliverPush, "endpoint_url": who.URL}
	if who.asks() {
		delivery = map[string]string{"method": deliverPoll, "endpoint_url": strings.TrimSuffix(m.cfg.Issuer, "/") + pollPath + who.StreamID}
	}
	v := map[string]any{"stream_id": who.StreamID, "iss": m.cfg.Issuer, "aud": who.audience(), "delivery": delivery,
		"events_supported": types, "events_requested": types, "events_delivered": types, "min_verification_interval": 60, "description": who.Name}
	if id != "" {
		answer(w, http.StatusOK, v)
		return nil
	}
	answer(w, http.StatusOK, []any{v})
	return nil
}

type streamStatus struct {
	StreamID string `json:"stream_id"`
	Status   Status `json:"status"`
	Reason   string `json:"reason,omitempty"`
}

func (m *Manager) showStatus(w http.ResponseWriter, r *http.Request, who Receiver) error {
	if err := named(who, r.URL.Query().Get("stream_id")); err != nil {
		return err
	}
	answer(w, http.StatusOK, streamStatus{StreamID: who.StreamID, Status: who.Status})
	return nil
}

// mostToggles is how often a stream may change its own status within a minute: each change is
// kept, and stands in the audit log.
const mostToggles = 6

// mayToggle counts a change of a stream's status by itself, unless there are too many.
func (m *Manager) mayToggle(name string) bool {
	now := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	late := slices.DeleteFunc(m.toggles[name], func(at time.Time) bool { return now.Sub(at) >= time.Minute })
	may := len(late) < mostToggles
	if may {
		late = append(late, now)
	}
	m.toggles[name] = late
	return may
}

// setStatus lets a receiver pause, disable and enable its own stream (SSF 1.0 section 8.1.2.2).
func (m *Manager) setStatus(w http.ResponseWriter, r *http.Request, who Receiver) error {
	var q streamStatus
	if err := read(r, &q); err != nil {
		return err
	}
	if err := named(who, q.StreamID); err != nil {
		return err
	}
	if q.Status != Enabled && q.Status != Paused && q.Status != Disabled {
		return refusal{http.StatusBadRequest, "status is enabled, paused or disabled"}
	}
	if q.Status != who.Status {
		if !m.mayToggle(who.Name) {
			return refusal{http.StatusTooManyRequests, "the status changes too often: wait a minute"}
		}
		by := quarantine.Actor{Kind: "stream", Name: who.Name, Address: r.RemoteAddr}
		var err error
		if who, err = m.change(r.Context(), by, who.Name, func(o *Receiver) error { o.Status = q.Status; return nil }); err != nil {
			return err
		}
	}
	answer(w, http.StatusOK, streamStatus{StreamID: who.StreamID, Status: who.Status})
	return nil
}

func (m *Manager) verifyStream(w http.ResponseWriter, r *http.Request, who Receiver) error {
	var q struct {
		StreamID string `json:"stream_id"`
		State    string `json:"state"`
	}
	if err := read(r, &q); err != nil {
		return err
	}
	if err := named(who, q.StreamID); err != nil {
		return err
	}
	if len(q.State) > 512 {
		return refusal{http.StatusBadRequest, "state is longer than 512 bytes"}
	}
	switch err := m.verify(who, q.State); {
	case errors.Is(err, errTooMany):
		return refusal{http.StatusTooManyRequests, err.Error()}
	case err != nil:
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (m *Manager) poll(w http.ResponseWriter, r *http.Request, who Receiver) error {
	if err := named(who, r.PathValue("stream")); err != nil {
		return err
	}
	var q pollRequest
	if err := read(r, &q); err != nil {
		return err
	}
	if len(q.Ack) > 10*mostTokens || len(q.SetErrs) > 10*mostTokens {
		return refusal{http.StatusBadRequest, "too many acknowledgements at once"}
	}
	m.mu.Lock()
	p := m.polls[who.Name]
	m.mu.Unlock()
	if p == nil {
		return refusal{http.StatusConflict, fmt.Sprintf("stream %s is pushed, or is starting", who.StreamID)}
	}
	ctx, stop := context.WithTimeout(r.Context(), pollTime+5*time.Second)
	defer stop()
	a, err := p.poll(ctx, q)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, a)
	return nil
}
