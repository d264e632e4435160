package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"lazaret/quarantine/source/set"
	"lazaret/quarantine/source/webhook"
)

// message is one request to a receiver.
type message struct {
	id   string
	body []byte
}

// credentials are what a receiver is convinced by.
type credentials struct {
	secrets []webhook.Secret // webhook
	push    string           // SSF: the header Authorization; empty: none
}

// messages are what the receiver is sent of an event: nothing, where it is not to know.
func (w *worker) messages(e Event) ([]message, error) {
	if !w.r.wants(e.Type) && e.Type != "ping" && e.Type != verification {
		return nil, nil
	}
	if w.r.Kind == SSF {
		tokens, err := w.m.tokens(w.r, e)
		if err != nil {
			return nil, err
		}
		var out []message
		for _, t := range tokens {
			out = append(out, message{t.id, []byte(t.text)})
		}
		return out, nil
	}
	body, err := json.Marshal(e.shown(w.r))
	if err != nil {
		return nil, fmt.Errorf("encoding event %s: %w", e.ID, err)
	}
	return []message{{e.ID, body}}, nil
}

// send makes one attempt to deliver a message.
func (w *worker) send(ctx context.Context, msg message) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, w.r.URL, bytes.NewReader(msg.body))
	if err != nil {
		return &failure{text: err.Error()}
	}
	if w.r.Kind == SSF {
		q.Header.Set("Content-Type", set.ContentType) // RFC 8935 section 2.1
		q.Header.Set("Accept", "application/json")
		if w.with.push != "" {
			q.Header.Set("Authorization", w.with.push)
		}
	} else {
		q.Header.Set("Content-Type", "application/json")
		webhook.Sign(q.Header, msg.id, w.m.cfg.Now(), msg.body, w.with.secrets...)
	}
	return post(w.client, q)
}
