package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// sendToken pushes the token of a file, as RFC 8935 has it, and prints answer and status.
const sendToken = `set -eu; cd "$1"; curl -sS --cacert root.pem -H 'Content-Type: application/secevent+jwt' \
  -H "Authorization: $3" --data-binary @token -w '%{http_code}' "$2"`

// TestSharedSignalsMoveADevice: a CAEP event, signed by another implementation and sent with
// curl, releases a device; a replay and a late one move nothing, and a newer one cuts it off.
func TestSharedSignalsMoveADevice(t *testing.T) {
	t.Parallel()
	testneed.Program(t, "curl")
	g := newGateway(t, options{})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	g.want(t, http.StatusOK, "PUT", "/api/v1/sources/idp", api.Source{Name: "idp", Kind: "ssf", MayRelease: true, MaxValidity: "24h"}, nil)
	header := "Bearer hunter2hunter2"
	q := api.SignalsRequest{Authorization: &header, Settings: api.SignalsSettings{Issuer: "https://idp.example.com", Audience: []string{"https://gw.example.net"}, Delivery: "push",
		JWKS: map[string]any{"keys": []any{map[string]any{"kty": "RSA", "kid": "k1", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}}}}}
	var stream api.Signals
	g.want(t, http.StatusOK, "PUT", "/api/v1/sources/idp/ssf", q, &stream)
	until(t, "the stream is not taken up", func() bool {
		g.want(t, http.StatusOK, "GET", "/api/v1/sources/idp/ssf", nil, &stream)
		return stream.Status != nil
	})

	d := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{User: "ssf@example.com"})
	d.open(t)
	dir := t.TempDir()
	root, err := os.ReadFile(filepath.Join(g.admin, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root.pem", string(root))
	sign := func(method jwt.SigningMethod, by any, event string, subject, claims map[string]any) string {
		t.Helper()
		token := jwt.NewWithClaims(method, jwt.MapClaims{"iss": "https://idp.example.com", "aud": "https://gw.example.net", "jti": rand.Text(), "iat": time.Now().Unix(),
			"sub_id": subject, "events": map[string]any{"https://schemas.openid.net/secevent/" + event: claims}})
		token.Header["typ"], token.Header["kid"] = "secevent+jwt", "k1"
		text, err := token.SignedString(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	device := map[string]any{"format": "complex", "device": map[string]any{"format": "opaque", "id": d.id}}
	caep := func(status string, at time.Time) string {
		return sign(jwt.SigningMethodRS256, key, "caep/event-type/device-compliance-change", device, map[string]any{"current_status": status, "event_timestamp": at.Unix()})
	}
	push := func(text, want string) {
		t.Helper()
		write("token", text)
		if out := command(t, theLab(t).Dev2, "/bin/sh", "-c", sendToken, "sh", dir, stream.Endpoint, header); !strings.Contains(out, want) {
			t.Fatalf("curl says %q, want %q", out, want)
		}
	}
	began := time.Now()
	compliant := caep("compliant", began.Add(-10*time.Second))
	push(sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "caep/event-type/device-compliance-change", device, map[string]any{"current_status": "compliant"}), "authentication_failed")
	if !d.shut(t) {
		t.Fatal("a new device is not quarantined")
	}
	push(compliant, "202")
	if !d.routed(t) {
		t.Errorf("released, and not routed: %+v", g.explain(t, d.id))
	}
	push(caep("not-compliant", began.Add(-20*time.Second)), "202") // happened before
	if !d.routed(t) {
		t.Error("a late event cut it off")
	}
	push(caep("not-compliant", began.Add(-5*time.Second)), "202")
	if !d.shut(t) {
		t.Error("not compliant, and not shut")
	}
	g.restartServe(t)
	until(t, "the stream is not taken up again", func() bool {
		g.want(t, http.StatusOK, "GET", "/api/v1/sources/idp/ssf", nil, &stream)
		return stream.Status != nil
	})
	push(compliant, "202") // a replay
	if !d.shut(t) {
		t.Error("a replay released it")
	}
	user := map[string]any{"format": "email", "email": "SSF@example.com"}
	push(sign(jwt.SigningMethodRS256, key, "risc/event-type/account-disabled", user, map[string]any{}), "202")
	push(caep("compliant", time.Now().Add(time.Second)), "202")
	if !d.shut(t) {
		t.Error("a sound device of a disabled account is let in")
	}
	g.want(t, http.StatusOK, "GET", "/api/v1/sources/idp/ssf", nil, &stream)
	if len(stream.Accounts) != 1 || stream.Accounts[0].Account != "ssf@example.com" || stream.Status.Repeated != 1 {
		t.Errorf("the stream is shown as %+v, %+v", stream, stream.Status)
	}
	g.want(t, http.StatusNoContent, "DELETE", fmt.Sprintf("/api/v1/sources/idp/ssf/accounts/%s", stream.Accounts[0].Account), nil, nil)
	push(caep("compliant", time.Now().Add(10*time.Second)), "202")
	if !d.routed(t) {
		t.Errorf("lifted, compliant, and not routed: %+v", g.explain(t, d.id))
	}
	refused := false
	for _, e := range g.audit(t, "") {
		refused = refused || e.Action == "source.refuse" && strings.Contains(e.Detail["why"], "authentication_failed")
	}
	if !refused {
		t.Error("the audit log does not tell of the forged token")
	}
}
