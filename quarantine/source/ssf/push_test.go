package ssf

import (
	"context"
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

// TestOpenSSLAndCurl runs what docs/shared-signals.md shows: openssl makes a key and signs,
// curl sends.
func TestOpenSSLAndCurl(t *testing.T) {
	for _, program := range []string{"openssl", "curl", "basenc"} {
		testneed.Program(t, program)
	}
	page, err := os.ReadFile("../../../docs/shared-signals.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "\n```sh\n")
	if len(blocks) != 3 {
		t.Fatalf("the page has %d blocks", len(blocks)-1)
	}
	dir := t.TempDir()
	sh := func(block int, gateway string) string {
		t.Helper()
		script, _, _ := strings.Cut(blocks[block], "```")
		c := exec.Command("/bin/sh", "-eu", "-c", script)
		c.Dir, c.Env = dir, append(os.Environ(), "GATEWAY="+gateway)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("block %d: %v\n%s", block, err, out)
		}
		return string(out)
	}
	sh(1, "")
	raw, err := os.ReadFile(filepath.Join(dir, "stream.json"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, nil)
	l.store.streams["idp"] = raw
	if err := l.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.pass(time.Since(then)) // date says what time it is
	srv := l.serve(t)
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), []byte((&server{Server: srv}).root()), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sh(2, srv.URL); got != "202\n" || l.gate.told() != "d1 noncompliant" {
		t.Errorf("curl says %q", got)
	}
	if r := l.gate.last(t); r.Detail != "device not compliant: disk not encrypted" {
		t.Errorf("reported %+v", r)
	}
	// The same with another key.
	for _, args := range [][]string{{"genpkey", "-algorithm", "RSA", "-out", "key.pem"}} {
		c := exec.Command("openssl", args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if got := sh(2, srv.URL); !strings.Contains(got, `"err":"authentication_failed"`) || !strings.HasSuffix(got, "400\n") || l.gate.told() != "" {
		t.Errorf("with a stranger's key, curl says %q", got)
	}
}
