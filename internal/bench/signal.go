package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// signals is a transmitter of Shared Signals, by the standard library alone.
type signals struct {
	key      *ecdsa.PrivateKey
	endpoint string
}

// hook is a sender of signed webhooks.
type hook struct {
	key []byte
	url string
}

const (
	transmitter    = "https://idp.example.com"
	audience       = "https://gateway.example.net"
	complianceType = "https://schemas.openid.net/secevent/caep/event-type/device-compliance-change"
)

// prepare assigns the ready-made baseline set, releases n devices that were there before and
// the own one by a report with the facts that the set asks for, and makes the two sources.
func (d *driver) prepare(ctx context.Context, n int) error {
	set, err := baseline()
	if err != nil {
		return err
	}
	assigned := true
	q := api.Policy{Name: set.Name, Text: set.Text, Assigned: &assigned}
	for _, r := range set.Rules {
		q.Rules = append(q.Rules, api.PolicyRule{Name: r.Name, Text: r.Text, Remedy: r.Remedy, Expression: r.Expression, OnFailure: string(r.OnFailure)})
	}
	if err := d.call(ctx, d.admin, http.MethodPut, "/api/v1/policies/baseline", "", q, nil); err != nil {
		return err
	}
	done, err := d.batch(ctx, "up", n)
	if err == nil && done.Failed > 0 {
		err = fmt.Errorf("releasing %d devices failed for %d: %s", n, done.Failed, done.First)
	}
	if err != nil {
		return err
	}
	if err := d.signals.connect(ctx, d); err != nil {
		return err
	}
	if err := d.hook.connect(ctx, d); err != nil {
		return err
	}
	for _, send := range []func(context.Context, *driver, string) (span, error){d.signals.send, d.hook.send} {
		if err := retry(ctx, func() error { _, err := send(ctx, d, "up"); return err }); err != nil {
			return err
		}
	}
	return nil
}

// retry tries until it succeeds, for as long as a new source may take to be known everywhere.
func retry(ctx context.Context, try func() error) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-late.C:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// connect makes the transmitter's source, and waits until it is taken up.
func (t *signals) connect(ctx context.Context, d *driver) error {
	var err error
	if t.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	point, err := t.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		return err
	}
	keys := map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "kid": "bench", "use": "sig", "alg": "ES256", "x": base64url(point[1:33]), "y": base64url(point[33:]),
	}}}
	if err := d.call(ctx, d.admin, http.MethodPut, "/api/v1/sources/idp", "", api.Source{Name: "idp", Kind: "ssf", MayRelease: true, MaxValidity: "2h"}, nil); err != nil {
		return err
	}
	q := api.SignalsRequest{Settings: api.SignalsSettings{Issuer: transmitter, Audience: []string{audience}, Delivery: "push", JWKS: keys}}
	if err := d.call(ctx, d.admin, http.MethodPut, "/api/v1/sources/idp/ssf", "", q, nil); err != nil {
		return err
	}
	return retry(ctx, func() error {
		var s api.Signals
		err := d.call(ctx, d.admin, http.MethodGet, "/api/v1/sources/idp/ssf", "", nil, &s)
		if err == nil && s.Status == nil {
			err = errors.New("the stream is not taken up")
		}
		t.endpoint = s.Endpoint
		return err
	})
}

// send pushes a Security Event Token (RFC 8417, RFC 8935) about the driver's device, signed
// with ES256 before the time is taken: that is the transmitter's work.
func (t *signals) send(ctx context.Context, d *driver, direction string) (span, error) {
	status := "not-compliant"
	if direction == "up" {
		status = "compliant"
	}
	now := time.Now()
	payload, err := json.Marshal(map[string]any{
		"iss": transmitter, "aud": audience, "jti": rand.Text(), "iat": now.Unix(),
		"sub_id": map[string]any{"format": "complex", "device": map[string]any{"format": "opaque", "id": d.device}},
		"events": map[string]any{complianceType: map[string]any{"current_status": status, "event_timestamp": now.UnixMilli()}},
	})
	if err != nil {
		return span{}, err
	}
	text := base64url([]byte(`{"typ":"secevent+jwt","alg":"ES256","kid":"bench"}`)) + "." + base64url(payload)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return span{}, err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	token := []byte(text + "." + base64url(signature[:]))
	took := span{From: testnet.Now()}
	_, err = send(ctx, d.reports, http.MethodPost, t.endpoint, http.Header{"Content-Type": {"application/secevent+jwt"}}, token)
	took.To = testnet.Now()
	return took, err
}

// connect makes the sender's source and a key for it.
func (h *hook) connect(ctx context.Context, d *driver) error {
	if err := d.call(ctx, d.admin, http.MethodPut, "/api/v1/sources/hook", "", api.Source{Name: "hook", Kind: "webhook", MayRelease: true, MaxValidity: "2h"}, nil); err != nil {
		return err
	}
	var key api.HookKey
	if err := d.post(ctx, d.admin, "/api/v1/hooks/hook/keys", "", nil, &key); err != nil {
		return err
	}
	var at api.Hook
	if err := d.call(ctx, d.admin, http.MethodGet, "/api/v1/hooks/hook", "", nil, &at); err != nil {
		return err
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Secret, "whsec_"))
	h.key, h.url = secret, at.URL
	return err
}

// send sends a signed message about the driver's device.
func (h *hook) send(ctx context.Context, d *driver, direction string) (span, error) {
	verdict, _ := verdicts(direction)
	now := time.Now()
	body, err := json.Marshal(map[string]any{"device": d.device, "verdict": verdict, "at": now})
	if err != nil {
		return span{}, err
	}
	id, stamp := "msg_"+rand.Text(), strconv.FormatInt(now.Unix(), 10)
	m := hmac.New(sha256.New, h.key)
	fmt.Fprintf(m, "%s.%s.%s", id, stamp, body)
	header := http.Header{"Content-Type": {"application/json"}}
	header.Set("Webhook-Id", id)
	header.Set("Webhook-Timestamp", stamp)
	header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	took := span{From: testnet.Now()}
	text, err := send(ctx, d.reports, http.MethodPost, h.url, header, body)
	took.To = testnet.Now()
	if err != nil {
		return took, err
	}
	var a struct {
		OK bool `json:"ok"`
	}
	if err := json.Unmarshal(text, &a); err != nil || !a.OK {
		return took, errors.Join(err, fmt.Errorf("the webhook was not taken: %s", text))
	}
	return took, nil
}
