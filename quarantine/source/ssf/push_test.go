package ssf

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/internal/testneed"
	"lazaret/quarantine/source/set"
)

func (l *lab) serve(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.Handle(PushPattern, l.Handler())
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

// TestPush is RFC 8935 from the outside: status, body and what the gate is asked.
func TestPush(t *testing.T) {
	l := newLab(t, nil)
	l.store.secrets["idp/authorization"] = "Bearer letmein"
	srv := l.serve(t)
	text := l.sign(l.token(set.DeviceComplianceChange, device("d1"), bad()))
	other := l.token(set.DeviceComplianceChange, device("d1"), bad())
	other.Audience = []string{"https://elsewhere.example.org"}
	const kind = set.ContentType
	for _, c := range []struct {
		name, path, kind, auth, body string
		status                       int
		err                          set.Code
		asked                        string
	}{
		{"good", "/ssf/v1/idp", kind, "Bearer letmein", text, 202, "", "d1 noncompliant"},
		{"again", "/ssf/v1/idp", kind, "Bearer letmein", text, 202, "", ""},
		{"no header", "/ssf/v1/idp", kind, "", text, 400, set.AuthenticationFailed, ""},
		{"wrong header", "/ssf/v1/idp", kind, "Bearer letmeim", text, 400, set.AuthenticationFailed, ""},
		{"other scheme", "/ssf/v1/idp", kind, "bearer letmein", text, 400, set.AuthenticationFailed, ""},
		{"wrong type", "/ssf/v1/idp", "application/jwt", "Bearer letmein", text, 400, set.InvalidRequest, ""},
		{"no type", "/ssf/v1/idp", "", "Bearer letmein", text, 400, set.InvalidRequest, ""},
		{"too long", "/ssf/v1/idp", kind, "Bearer letmein", strings.Repeat("a", set.MaxBytes+1), 400, set.InvalidRequest, ""},
		{"empty", "/ssf/v1/idp", kind, "Bearer letmein", "", 400, set.InvalidRequest, ""},
		{"for others", "/ssf/v1/idp", kind, "Bearer letmein", l.sign(other), 400, set.InvalidAudience, ""},
		{"other stream", "/ssf/v1/other", kind, "Bearer letmein", text, 404, "", ""},
		{"type with a parameter", "/ssf/v1/idp", kind + "; charset=utf-8", "Bearer letmein", text, 202, "", ""},
	} {
		req, err := http.NewRequest(http.MethodPost, srv.URL+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Content-Type"] = []string{c.kind}
		if c.auth != "" {
			req.Header.Set("Authorization", c.auth)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var got struct{ Err, Description string }
		if c.err != "" {
			if json.Unmarshal(body, &got) != nil || got.Description == "" || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: answered %q, %s", c.name, body, resp.Header.Get("Content-Type"))
			}
		}
		if err != nil || resp.StatusCode != c.status || got.Err != string(c.err) || c.status == 202 && len(body) > 0 {
			t.Errorf("%s: status %d, %q, %v; want %d, %s", c.name, resp.StatusCode, body, err, c.status, c.err)
		}
		if asked := l.gate.told(); asked != c.asked {
			t.Errorf("%s: the gate was asked %q", c.name, asked)
		}
	}
	if st, err := l.Status(t.Context(), "idp"); err != nil || st.Refused[set.AuthenticationFailed] != 3 || st.Endpoint != "/ssf/v1/idp" {
		t.Errorf("status is %+v, %v", st, err)
	}
	resp, err := srv.Client().Get(srv.URL + "/ssf/v1/idp")
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v", resp.StatusCode, err)
	}
}

// TestPushIsPutOff: what is not the token's fault is answered 503, so that it comes again.
func TestPushIsPutOff(t *testing.T) {
	l := newLab(t, nil)
	srv := l.serve(t)
	post := func() int {
		resp, err := srv.Client().Post(srv.URL+"/ssf/v1/idp", set.ContentType, strings.NewReader(l.sign(l.token(set.AccountDisabled, user("ben"), nil))))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
		return resp.StatusCode
	}
	l.store.err = fmt.Errorf("no quorum")
	if got := post(); got != http.StatusServiceUnavailable {
		t.Errorf("store down: %d", got)
	}
	l.store.err = nil
	if got := post(); got != http.StatusAccepted {
		t.Errorf("store up: %d", got)
	}
	l.stop()
	if got := post(); got != http.StatusServiceUnavailable {
		t.Errorf("before the settings are read: %d", got)
	}
}

// TestSettingsAreFollowed: a stream follows its settings, also when they are wrong, and ends
// with them. What was seen stays known.
func TestSettingsAreFollowed(t *testing.T) {
	l := newLab(t, nil)
	text := l.sign(l.token(set.DeviceComplianceChange, device("d1"), bad()))
	send := func() error { return l.take(t.Context(), l.idp(), text, "") }
	if err := send(); err != nil {
		t.Fatal(err)
	}
	right := l.store.streams["idp"]
	l.store.streams["idp"] = json.RawMessage(strings.Replace(string(right), audience, audience+"/2", 1))
	reload := func() {
		t.Helper()
		if err := l.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	reload()
	if err := send(); !isCode(err, set.InvalidAudience) {
		t.Errorf("another audience: %v", err)
	}
	l.store.streams["idp"] = json.RawMessage(`{"issuer":""}`)
	reload()
	if err := send(); err == nil || isRefusal(err) {
		t.Errorf("wrong settings: %v", err)
	}
	l.store.streams["idp"] = right
	reload()
	l.gate.told()
	if err := send(); err != nil || l.gate.told() != "" {
		t.Errorf("as before: %v", err)
	}
	delete(l.store.streams, "idp")
	reload()
	if _, err := l.stream("idp"); err != ErrUnknownStream {
		t.Errorf("without settings: %v", err)
	}
	if h := l.ledger.List(); len(h) != 0 {
		t.Errorf("health is %+v", h)
	}
}

// TestRun: Run notices changes that it is told of at once, others in ten seconds, and ends
// with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		l.stop()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		if _, err := l.stream("idp"); err != nil {
			t.Error(err)
		}
		add := func(name string) {
			l.store.mu.Lock()
			defer l.store.mu.Unlock()
			l.store.streams[name] = l.store.streams["idp"]
		}
		add("second")
		l.Changed()
		synctest.Wait()
		if _, err := l.stream("second"); err != nil {
			t.Error(err)
		}
		add("third")
		synctest.Wait()
		if _, err := l.stream("third"); err != ErrUnknownStream {
			t.Error("nobody told of the third, yet it is there:", err)
		}
		time.Sleep(reloadEvery + time.Millisecond) // of the bubble's clock
		synctest.Wait()
		if _, err := l.stream("third"); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestOpenSSLAndCurl sends a token that openssl signed, with curl: what docs/shared-signals.md
// shows.
func TestOpenSSLAndCurl(t *testing.T) {
	openssl, curl := testneed.Program(t, "openssl"), testneed.Program(t, "curl")
	dir := t.TempDir()
	run := func(name string, args ...string) []byte {
		t.Helper()
		c := exec.Command(name, args...)
		c.Dir = dir
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%s %v: %v", name, args, err)
		}
		return out
	}
	run(openssl, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key.pem")
	modulus := strings.TrimSpace(strings.TrimPrefix(string(run(openssl, "rsa", "-in", "key.pem", "-noout", "-modulus")), "Modulus="))
	var n []byte
	if _, err := fmt.Sscanf(modulus, "%x", &n); err != nil {
		t.Fatal(err)
	}
	jwks := fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"k1","use":"sig","alg":"RS256","e":"AQAB","n":%q}]}`, base64.RawURLEncoding.EncodeToString(n))
	l := newLab(t, func(s *Settings) { s.JWKS = json.RawMessage(jwks) })
	l.store.secrets["idp/authorization"] = "Bearer letmein"
	srv := l.serve(t)
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), []byte((&server{Server: srv}).root()), 0o600); err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	send := func(jti string, spoil bool) string {
		payload := fmt.Sprintf(`{"iss":%q,"aud":%q,"jti":%q,"iat":%d,"sub_id":{"format":"complex","device":{"format":"opaque","id":"C1"}},
			"events":{%q:{"current_status":"not-compliant","event_timestamp":%d}}}`, issuer, audience, jti, then.Unix(), set.DeviceComplianceChange, then.Add(-time.Minute).Unix())
		input := b64([]byte(`{"typ":"secevent+jwt","alg":"RS256","kid":"k1"}`)) + "." + b64([]byte(payload))
		if err := os.WriteFile(filepath.Join(dir, "input"), []byte(input), 0o600); err != nil {
			t.Fatal(err)
		}
		signature := run(openssl, "dgst", "-sha256", "-sign", "key.pem", "input")
		if spoil {
			signature[0] ^= 1
		}
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(input+"."+b64(signature)), 0o600); err != nil {
			t.Fatal(err)
		}
		return string(run(curl, "-sS", "--cacert", "root.pem", "-H", "Content-Type: application/secevent+jwt", "-H", "Authorization: Bearer letmein",
			"--data-binary", "@token", "-w", " %{http_code}", srv.URL+"/ssf/v1/idp"))
	}
	if got := send("1", false); got != " 202" || l.gate.told() != "d1 noncompliant" {
		t.Errorf("curl says %q", got)
	}
	if got := send("2", true); !strings.Contains(got, `"err":"authentication_failed"`) || !strings.HasSuffix(got, " 400") || l.gate.told() != "" {
		t.Errorf("with a spoilt signature, curl says %q", got)
	}
}
