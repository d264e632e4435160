package ssf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

const (
	manageEvery = 15 * time.Minute
	verifyTime  = 20 * time.Second // for a verification event to come back
)

// transmitter is what its well-known document says (SSF 1.0 section 7.1).
type transmitter struct {
	Issuer        string `json:"issuer"`
	JWKSURI       string `json:"jwks_uri"`
	Configuration string `json:"configuration_endpoint"`
	Status        string `json:"status_endpoint"`
	Verification  string `json:"verification_endpoint"`
}

// discover reads the transmitter's configuration.
func (st *stream) discover(ctx context.Context) (transmitter, error) {
	at, err := wellKnown(st.settings.Issuer)
	if err != nil {
		return transmitter{}, err
	}
	var t transmitter
	if err := st.client.call(ctx, http.MethodGet, at, false, nil, &t); err != nil {
		return transmitter{}, fmt.Errorf("reading the transmitter's configuration: %w", err)
	}
	if t.Issuer != st.settings.Issuer {
		return transmitter{}, fmt.Errorf("reading the transmitter's configuration: it is of issuer %.80q", t.Issuer)
	}
	return t, nil
}

// jwksURI is where the issuer's keys are.
func (st *stream) jwksURI(ctx context.Context) (string, error) {
	if st.settings.JWKSURI != "" {
		return st.settings.JWKSURI, nil
	}
	t, err := st.discover(ctx)
	if err == nil && t.JWKSURI == "" {
		err = errors.New("the transmitter's configuration has no jwks_uri")
	}
	return t.JWKSURI, err
}

// configuration is a stream as the transmitter has it (SSF 1.0 section 8.1.1).
type configuration struct {
	StreamID string          `json:"stream_id"`
	Issuer   string          `json:"iss"`
	Audience json.RawMessage `json:"aud"`
	Delivery struct {
		Method string `json:"method"`
	} `json:"delivery"`
}

// streamID is the configured one, or that of the only stream of ours at the transmitter.
func (st *stream) streamID(ctx context.Context, t transmitter) (string, error) {
	if st.settings.StreamID != "" {
		return st.settings.StreamID, nil
	}
	if t.Configuration == "" {
		return "", errors.New("finding the stream: the transmitter has no configuration_endpoint; set stream_id")
	}
	var raw json.RawMessage
	if err := st.client.call(ctx, http.MethodGet, t.Configuration, true, nil, &raw); err != nil {
		return "", fmt.Errorf("finding the stream: %w", err)
	}
	var list []configuration
	var one configuration
	if json.Unmarshal(raw, &list) != nil {
		if err := json.Unmarshal(raw, &one); err != nil {
			return "", fmt.Errorf("finding the stream: %w", err)
		}
		list = []configuration{one}
	}
	list = slices.DeleteFunc(list, func(c configuration) bool { return c.StreamID == "" || c.Issuer != st.settings.Issuer || !st.ours(c) })
	if len(list) != 1 {
		return "", fmt.Errorf("finding the stream: the transmitter has %d that fit; set stream_id", len(list))
	}
	return list[0].StreamID, nil
}

// ours reports whether a stream has one of our audiences and comes our way.
func (st *stream) ours(c configuration) bool {
	var auds []string
	if json.Unmarshal(c.Audience, &auds) != nil {
		var aud string
		_ = json.Unmarshal(c.Audience, &aud) // "" is nobody's
		auds = []string{aud}
	}
	method := map[Delivery]string{Push: "urn:ietf:rfc:8935", Poll: "urn:ietf:rfc:8936"}[st.settings.Delivery]
	return c.Delivery.Method == method && slices.ContainsFunc(auds, func(a string) bool { return slices.Contains(st.settings.Audience, a) })
}

// located is the transmitter's configuration and the stream's id there.
func (st *stream) located(ctx context.Context) (transmitter, string, error) {
	if st.fault != nil {
		return transmitter{}, "", st.fault
	}
	t, err := st.discover(ctx)
	if err != nil {
		return t, "", err
	}
	id, err := st.streamID(ctx, t)
	if err == nil {
		st.state.set(func(s *Status) { s.StreamID = id })
	}
	return t, id, err
}

// manage asks for the stream's status every so often.
func (r *Receiver) manage(ctx context.Context, st *stream) {
	failed := false
	for {
		err := r.askStatus(ctx, st)
		if err == nil && failed {
			r.heard(st, 0)
		}
		if failed = err != nil; failed && ctx.Err() == nil {
			r.cfg.Log.Warn("asking for a stream's status", "stream", st.name, "err", err)
			r.cfg.Ledger.Failed(st.name, quarantine.SourceSSF, r.cfg.Now(), err)
		}
		if !sleep(ctx, jitter(manageEvery)) {
			return
		}
	}
}

// statusForm is SSF 1.0 section 8.1.2.
type statusForm struct {
	StreamID string `json:"stream_id"`
	Status   string `json:"status"`
	Reason   string `json:"reason,omitempty"`
}

// askStatus reads the stream's status (SSF 1.0 section 8.1.2.1).
func (r *Receiver) askStatus(ctx context.Context, st *stream) error {
	t, id, err := st.located(ctx)
	if err != nil {
		return err
	}
	at, err := httpsURL(t.Status)
	if err != nil {
		return fmt.Errorf("asking for the stream's status: status_endpoint: %w", err)
	}
	q := at.Query()
	q.Set("stream_id", id)
	at.RawQuery = q.Encode()
	var got statusForm
	if err := st.client.call(ctx, http.MethodGet, at.String(), true, nil, &got); err != nil {
		return fmt.Errorf("asking for the stream's status: %w", err)
	}
	r.streamIs(st, got.Status, got.Reason, r.cfg.Now())
	return nil
}

// SetStatus asks the transmitter to make the stream enabled, paused or disabled.
func (r *Receiver) SetStatus(ctx context.Context, name, status, why string) error {
	st, err := r.stream(name)
	if err != nil {
		return err
	}
	switch status {
	case "enabled", "paused", "disabled":
	default:
		return set.Refuse(set.InvalidRequest, "status is %.20q: write enabled, paused or disabled", status)
	}
	t, id, err := st.located(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTransmitter, err)
	}
	got := statusForm{Status: status}
	if err := st.client.call(ctx, http.MethodPost, t.Status, true, statusForm{id, status, why}, &got); err != nil {
		return fmt.Errorf("%w: changing the stream's status: %w", ErrTransmitter, err)
	}
	r.streamIs(st, got.Status, got.Reason, r.cfg.Now())
	return nil
}

// Verify asks the transmitter for a verification event, and waits some seconds for it. false
// without an error: it was asked for and has not come yet; Status tells when it does.
func (r *Receiver) Verify(ctx context.Context, name string) (back bool, err error) {
	st, err := r.stream(name)
	if err != nil {
		return false, err
	}
	t, id, err := st.located(ctx)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrTransmitter, err)
	}
	w := st.state.expect(set.NewID(), r.cfg.Now())
	in := map[string]string{"stream_id": id, "state": w.state}
	if err := st.client.call(ctx, http.MethodPost, t.Verification, true, in, nil); err != nil {
		return false, fmt.Errorf("%w: asking for a verification: %w", ErrTransmitter, err)
	}
	timer := time.NewTimer(verifyTime)
	defer timer.Stop()
	select {
	case <-w.done:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
