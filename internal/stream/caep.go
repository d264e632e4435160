package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// verification is the type of an event that stands for an SSF verification (SSF 1.0 section 8.1.4).
const verification = "verification"

// token is a signed Security Event Token.
type token struct{ id, text string }

// compliant reports whether a stage is that of a device held for compliant.
func compliant(stage string) bool { return stage == "routed" }

// lost reports whether a stage is one in which a device has no session any more.
func lost(stage string) bool { return stage == "blocked" || stage == "revoked" }

// statements are what CAEP 1.0 says of an event: a change of compliance where a device was
// released or lost its release, and the end of its session where it was blocked or revoked.
func statements(e Event) []set.Event {
	d := e.Data
	if e.Type == verification {
		claims := map[string]any{}
		if d.Subject != "" {
			claims["state"] = d.Subject
		}
		return []set.Event{{Type: set.Verification, Claims: set.Claims(claims)}}
	}
	if e.Type != "device.moved" || d.From == nil || d.To == nil {
		return nil
	}
	claims := func(more map[string]any) map[string]json.RawMessage {
		more["event_timestamp"] = e.Time.Unix()
		more["initiating_entity"] = initiator(d.By)
		if reason := d.Reason; reason != "" {
			more["reason_admin"] = map[string]string{"en": reason}
		}
		return set.Claims(more)
	}
	var out []set.Event
	if was, is := compliant(d.From.Stage), compliant(d.To.Stage); was != is {
		name := map[bool]string{true: "compliant", false: "not-compliant"}
		out = append(out, set.Event{Type: set.DeviceComplianceChange, Claims: claims(map[string]any{"previous_status": name[was], "current_status": name[is]})})
	}
	if lost(d.To.Stage) && !lost(d.From.Stage) {
		out = append(out, set.Event{Type: set.SessionRevoked, Claims: claims(map[string]any{})})
	}
	return out
}

// initiator is who CAEP 1.0 section 2 says that it came from.
func initiator(by *Actor) string {
	switch {
	case by == nil:
		return "system"
	case by.Kind == "administrator" || by.Kind == "token":
		return "admin"
	case by.Kind == "device":
		return "user"
	case by.Kind == "source":
		return "policy"
	}
	return "system"
}

// tokens signs what follows from an event. Told again, a token has the same jti and the same
// payload.
func (m *Manager) tokens(r Receiver, e Event) ([]token, error) {
	key, err := m.signing()
	if err != nil {
		return nil, err
	}
	var out []token
	for i, s := range statements(e) {
		t := set.Token{ID: fmt.Sprintf("%s_%d", e.ID, i), Issuer: m.cfg.Issuer, Audience: []string{r.audience()}, IssuedAt: e.Time,
			Transaction: e.ID, Events: []set.Event{s}}
		subject := set.Opaque(r.StreamID)
		if e.Data.Device != nil {
			subject = set.Complex(map[string]set.Subject{"device": set.Opaque(e.Data.Device.ID)})
		}
		t.Subject = &subject
		text, err := key.Sign(t)
		if err != nil {
			return nil, err
		}
		out = append(out, token{t.ID, text})
	}
	return out, nil
}

// signer is how the keys that sign tokens are kept: the first signs, all are published.
type signer struct {
	Version int         `json:"v"`
	Keys    []signerKey `json:"keys"`
}

type signerKey struct {
	PKCS8   []byte    `json:"pkcs8"`
	Created time.Time `json:"created"`
}

const (
	secretSigner  = "stream-signer" // not below "stream/", which is receivers'
	signerVersion = 1
	mostSigners   = 3
)

// loadSigner reads the organization's keys, and makes the first one.
func (m *Manager) loadSigner(ctx context.Context) error {
	raw, err := m.cfg.Secrets.Get(ctx, secretSigner)
	if err != nil {
		return fmt.Errorf("reading the keys that sign events: %w", err)
	}
	if raw == nil {
		return m.RotateSigner(ctx, quarantine.Actor{Kind: "gateway", Name: m.cfg.Gateway})
	}
	var s signer
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("reading the keys that sign events: %w", err)
	}
	if s.Version != signerVersion || len(s.Keys) == 0 {
		return fmt.Errorf("reading the keys that sign events: version %d with %d keys, this program reads %d", s.Version, len(s.Keys), signerVersion)
	}
	return m.take(s)
}

func (m *Manager) take(s signer) error {
	var keys []*set.Key
	for _, k := range s.Keys {
		key, err := set.ParseKey(k.PKCS8)
		if err != nil {
			return fmt.Errorf("reading the keys that sign events: %w", err)
		}
		keys = append(keys, key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.signer, m.signers = s, keys
	return nil
}

// RotateSigner makes a new key that signs from now on. The one before stays published, so
// that tokens under way are verified.
func (m *Manager) RotateSigner(ctx context.Context, by quarantine.Actor) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	key, err := set.GenerateKey()
	if err != nil {
		return err
	}
	pkcs8, err := key.PKCS8()
	if err != nil {
		return fmt.Errorf("keeping a key that signs events: %w", err)
	}
	m.mu.Lock()
	s := signer{signerVersion, append([]signerKey{{pkcs8, m.cfg.Now().UTC()}}, m.signer.Keys...)}
	m.mu.Unlock()
	s.Keys = s.Keys[:min(len(s.Keys), mostSigners)]
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := m.cfg.Secrets.Put(ctx, secretSigner, raw); err != nil {
		return fmt.Errorf("keeping a key that signs events: %w", err)
	}
	m.cfg.Log.Info("a new key signs events", "by", by.Name)
	return m.take(s)
}

// signing is the key that signs.
func (m *Manager) signing() (*set.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.signers) == 0 {
		return nil, errNoSigner
	}
	return m.signers[0], nil
}

var errNoSigner = errors.New("there is no key that signs events")
