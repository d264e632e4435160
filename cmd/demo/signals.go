package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/netip"
	"time"

	"lazaret/internal/console/api"
)

// The transmitter of step j. It signs with the standard library alone, and shares no code
// with the receiver.
const (
	transmitter    = "https://idp.example.com"
	audience       = "https://gateway.example.net"
	complianceType = "https://schemas.openid.net/secevent/caep/event-type/device-compliance-change"
)

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// publicKeys is the key as a JSON Web Key Set (RFC 7517).
func publicKeys(key *ecdsa.PrivateKey) (map[string]any, error) {
	point, err := key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		return nil, err
	}
	return map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "kid": "demo", "use": "sig", "alg": "ES256", "x": base64url(point[1:33]), "y": base64url(point[33:]),
	}}}, nil
}

// complianceToken is a Security Event Token (RFC 8417) with a CAEP event about a device,
// signed with ES256 (RFC 7518 section 3.4).
func complianceToken(key *ecdsa.PrivateKey, device, status string, at time.Time) ([]byte, error) {
	payload, err := json.Marshal(map[string]any{
		"iss": transmitter, "aud": audience, "jti": rand.Text(), "iat": at.Unix(),
		"sub_id": map[string]any{"format": "complex", "device": map[string]any{"format": "opaque", "id": device}},
		"events": map[string]any{complianceType: map[string]any{"current_status": status, "event_timestamp": at.Unix()}},
	})
	if err != nil {
		return nil, err
	}
	text := base64url([]byte(`{"typ":"secevent+jwt","alg":"ES256","kid":"demo"}`)) + "." + base64url(payload)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return []byte(text + "." + base64url(signature[:])), nil
}

// connectTransmitter makes a source of the transmitter, and returns where it pushes to.
func (d *demo) connectTransmitter(ctx context.Context, key *ecdsa.PrivateKey) (string, error) {
	if err := d.operator.put(ctx, "/api/v1/sources/idp", api.Source{Name: "idp", Kind: "ssf", MayRelease: true, MaxValidity: "1h"}, nil); err != nil {
		return "", err
	}
	keys, err := publicKeys(key)
	if err != nil {
		return "", err
	}
	q := api.SignalsRequest{Settings: api.SignalsSettings{Issuer: transmitter, Audience: []string{audience}, Delivery: "push", JWKS: keys}}
	if err := d.operator.put(ctx, "/api/v1/sources/idp/ssf", q, nil); err != nil {
		return "", err
	}
	var s api.Signals
	err = until(ctx, pollEvery, func() (bool, error) {
		err := d.operator.get(ctx, "/api/v1/sources/idp/ssf", &s)
		return s.Status != nil, err
	})
	return s.Endpoint, err
}

// releaseBySignal is step j.
func (d *demo) releaseBySignal(ctx context.Context, r *result) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	endpoint, err := d.connectTransmitter(ctx, key)
	if err != nil {
		return err
	}
	push := func(by *ecdsa.PrivateKey) (outsideRequest, error) {
		token, err := complianceToken(by, d.honest.enrolled.Device, "compliant", time.Now())
		return outsideRequest{endpoint, http.Header{"Content-Type": {"application/secevent+jwt"}}, token}, err
	}
	forged, err := push(stranger)
	if err != nil {
		return err
	}
	a, err := d.post(ctx, forged)
	if err != nil {
		return err
	}
	var refused struct {
		Err string `json:"err"` // RFC 8935 section 2.3
	}
	_ = json.Unmarshal(a.Body, &refused) // then it is empty, and the check fails
	x, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	r.figure("forged_status", a.Status)
	r.check(a.Status == http.StatusBadRequest && refused.Err == "authentication_failed" && x.Decided.Stage == "quarantined",
		"an event signed with another key: %d %s, dev1 stays %s", a.Status, refused.Err, x.Decided.Stage)
	if d.signal, err = push(key); err != nil {
		return err
	}
	took, answered, err := d.timeRelease(ctx, d.honest, netip.Addr{}, "", d.posting(d.signal, http.StatusAccepted))
	if err != nil {
		return err
	}
	r.figure("event_to_first_packet_ms", took)
	r.figure("event_answered_ms", answered)
	r.check(took > 0 && took < 2*time.Second, "the provider's own, a signed device-compliance-change: first packet at the intranet server %s after it was sent (202 after %s)", ms(took), ms(answered))
	return nil
}
