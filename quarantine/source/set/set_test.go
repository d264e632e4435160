package set

import (
	"testing"
	"time"
)

func TestSignedIsRead(t *testing.T) {
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := JWKS(key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(jwks)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	subject := Complex(map[string]Subject{"device": Opaque("d1"), "user": Email("a@example.com")})
	text, err := key.Sign(Token{ID: NewID(), Issuer: "https://tr.example.com", Audience: []string{"https://rc.example.com"}, IssuedAt: now,
		Subject: &subject, Events: []Event{{Type: DeviceComplianceChange, Claims: Claims(map[string]any{"current_status": "compliant", "event_timestamp": 1772366400})}}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Verify(keys, Expect{Issuer: "https://tr.example.com", Audience: []string{"https://rc.example.com"}, Now: now, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if id := got.Subject.Members["device"].Fields["id"]; id != "d1" {
		t.Errorf("device is %q", id)
	}
	if at, err := got.Events[0].Timestamp(); err != nil || !at.Equal(now) {
		t.Errorf("event_timestamp is %s, %v", at, err)
	}
}
