package poll

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// server is a TLS server and a client that trusts it alone.
type server struct {
	*httptest.Server
	waits []time.Duration // of the client
}

func serve(t *testing.T, h http.HandlerFunc, change func(*ClientConfig)) (*server, *Client) {
	t.Helper()
	s := &server{Server: httptest.NewTLSServer(h)}
	t.Cleanup(s.Close)
	s.Config.ErrorLog = nil
	c := ClientConfig{
		Base: s.URL, Auth: Bearer("se-cret"), Agent: "lazaret/1.2.3",
		Roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})),
		Wait:  func(ctx context.Context, d time.Duration) bool { s.waits = append(s.waits, d); return ctx.Err() == nil },
	}
	if change != nil {
		change(&c)
	}
	client, err := NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return s, client
}

func TestClientSendsWhatItMust(t *testing.T) {
	_, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer se-cret" || r.UserAgent() != "lazaret/1.2.3" || r.Method != "GET" || r.TLS == nil {
			t.Errorf("sent %s %v", r.Method, r.Header)
		}
		fmt.Fprint(w, r.URL.String())
	}, func(c *ClientConfig) { c.Base += "/mdm/" })
	if body, err := c.Get(t.Context(), "/hosts", url.Values{"page": {"0"}}); err != nil || string(body) != "/mdm/hosts?page=0" {
		t.Errorf("%q, %v", body, err)
	}
}

// TestClientTrustsNobodyElse: no certificate of others, no plain HTTP, no other host.
func TestClientTrustsNobodyElse(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer plain.Close()
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, map[string]string{"/tls": other.URL, "/plain": plain.URL, "/self": "/end"}[r.URL.Path], http.StatusFound)
	}, nil)
	for _, path := range []string{"/tls", "/plain", "/self"} {
		var status *StatusError
		if _, err := c.Get(t.Context(), path, nil); !errors.As(err, &status) || status.Code != http.StatusFound {
			t.Errorf("redirected by %s: %v", path, err)
		}
	}
	for _, link := range []string{other.URL + "/next", plain.URL + "/next", strings.Replace(s.URL, "https://", "https://user@", 1), "/relative", "https://", strings.Replace(s.URL, "https:", "http:", 1)} {
		if _, err := c.Follow(t.Context(), link); err == nil || !strings.Contains(err.Error(), "does not lead to itself") {
			t.Errorf("followed %s: %v", link, err)
		}
	}
	stranger, err := NewClient(ClientConfig{Base: other.URL, Auth: Bearer("x"), Roots: c.Roots, Wait: c.Wait, Trip: func(rt http.RoundTripper) http.RoundTripper {
		rt.(*http.Transport).TLSClientConfig.ServerName = "example.org" // not in the certificate
		return rt
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Get(t.Context(), "/", nil); err == nil {
		t.Error("took a certificate for another name")
	}
	system, err := NewClient(ClientConfig{Base: s.URL, Auth: Bearer("x"), Wait: c.Wait})
	if err != nil {
		t.Fatal(err)
	}
	var unknown *tls.CertificateVerificationError
	if _, err := system.Get(t.Context(), "/", nil); !errors.As(err, &unknown) {
		t.Errorf("an authority of nobody's: %v", err)
	}
	if elsewhere.Load() != 0 {
		t.Errorf("%d requests went elsewhere", elsewhere.Load())
	}
	for _, bad := range []string{"http://mdm.example.com", "https://", "mdm.example.com", "https://u:p@mdm.example.com", "https://mdm.example.com/?a=b", "ftp://mdm.example.com"} {
		if _, err := NewClient(ClientConfig{Base: bad, Auth: Bearer("x")}); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

// TestThrottling: 429 and 503 are waited for as asked, other failures of the server a little,
// and those of the client not at all.
func TestThrottling(t *testing.T) {
	var status atomic.Int32
	var calls atomic.Int32
	after := "7"
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) > 2 {
			fmt.Fprint(w, "{}")
			return
		}
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(int(status.Load()))
	}, nil)
	ask := func(code int) error {
		status.Store(int32(code))
		calls.Store(0)
		s.waits = nil
		_, err := c.Get(t.Context(), "/", nil)
		return err
	}
	for _, code := range []int{429, 503} {
		if err := ask(code); err != nil || len(s.waits) != 2 || s.waits[0] != 7*time.Second {
			t.Errorf("%d: %v, waited %v", code, err, s.waits)
		}
	}
	after = time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	var throttled *Throttled
	if err := ask(429); !errors.As(err, &throttled) || throttled.After < 59*time.Minute || throttled.After > 61*time.Minute || calls.Load() != 1 {
		t.Errorf("until a date: %v after %d calls", err, calls.Load())
	}
	after = ""
	if err := ask(429); err != nil || len(s.waits) != 2 || s.waits[1] < 2*time.Second {
		t.Errorf("without a time: %v, waited %v", err, s.waits)
	}
	if err := ask(502); err != nil || len(s.waits) != 2 {
		t.Errorf("502: %v, waited %v", err, s.waits)
	}
	for _, code := range []int{400, 401, 403, 404, 410} {
		var failed *StatusError
		if err := ask(code); !errors.As(err, &failed) || failed.Code != code || calls.Load() != 1 {
			t.Errorf("%d: %v after %d calls", code, err, calls.Load())
		}
	}
}

// TestBounds: an answer is as long as it may be, also unpacked, and a request as long.
func TestBounds(t *testing.T) {
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/long":
			chunk := []byte(strings.Repeat(" ", 1<<20))
			for range maxBody>>20 + 1 {
				w.Write(chunk)
			}
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"hosts":[`)
		}
	}, nil)
	if _, err := c.Get(t.Context(), "/long", nil); !errors.Is(err, errBody) {
		t.Errorf("a long answer: %v", err)
	}
	if _, err := c.Get(t.Context(), "/cut", nil); !errors.Is(err, io.ErrUnexpectedEOF) || len(s.waits) != tries-1 {
		t.Errorf("an answer cut short: %v, waited %v", err, s.waits)
	}
}

// TestNoSecretsInErrors: neither what was sent nor what was answered is in an error.
func TestNoSecretsInErrors(t *testing.T) {
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, `{"error":"token se-cret is wrong"}`)
	}, nil)
	_, err := c.Get(t.Context(), "/x", url.Values{"skiptoken": {"pri-vate"}})
	creds := &Credentials{Endpoint: s.URL + "/token", ID: "gateway", Secret: "se-cret"}
	c.Auth = creds
	_, err2 := c.Get(t.Context(), "/x", nil)
	s.Close()
	c.Auth = Bearer("se-cret")
	_, err3 := c.Get(t.Context(), "/x", url.Values{"skiptoken": {"pri-vate"}})
	_, err4 := c.Follow(t.Context(), "https://other.example.com/?$skiptoken=pri-vate")
	for _, err := range []error{err, err2, err3, err4} {
		if err == nil || strings.Contains(err.Error(), "se-cret") || strings.Contains(err.Error(), "pri-vate") {
			t.Errorf("the error is %v", err)
		}
	}
}

// TestTokens: a token is kept until it runs out, and a refused one replaced once.
func TestTokens(t *testing.T) {
	var issued, asked int
	now := noon
	valid := ""
	answer := func(n int) string {
		return fmt.Sprintf(`{"access_token":"t%d","token_type":"Bearer","expires_in":1200}`, n)
	}
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			issued++
			if r.Method != "POST" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("client_id") != "gateway" || r.FormValue("client_secret") != "se-cret" || r.FormValue("scope") != "all" || r.URL.RawQuery != "" {
				t.Errorf("asked for a token by %v", r.Form)
			}
			valid = fmt.Sprintf("Bearer t%d", issued)
			fmt.Fprint(w, answer(issued))
			return
		}
		asked++
		if r.Header.Get("Authorization") != valid {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "{}")
	}, func(c *ClientConfig) { c.Now = func() time.Time { return now } })
	c.Auth = &Credentials{Endpoint: s.URL + "/token", ID: "gateway", Secret: "se-cret", Scope: "all"}
	get := func() error {
		_, err := c.Get(t.Context(), "/", nil)
		return err
	}
	for range 5 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	if issued != 1 {
		t.Errorf("%d tokens for five requests", issued)
	}
	now = now.Add(19*time.Minute + time.Second) // a minute before its end
	if err := get(); err != nil || issued != 2 {
		t.Errorf("%v, %d tokens when the first ran out", err, issued)
	}
	valid = "Bearer revoked"
	if err := get(); err != nil || issued != 3 {
		t.Errorf("%v, %d tokens when the second was refused", err, issued)
	}
	answer = func(int) string {
		valid = "Bearer never"
		return `{"access_token":"x","token_type":"bearer"}`
	}
	valid, asked = "Bearer never", 0
	var status *StatusError
	if err := get(); !errors.As(err, &status) || status.Code != 401 || asked != 2 {
		t.Errorf("a server that takes no token: %v after %d requests", err, asked)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"access_token":"x"}`, `{"access_token":"","token_type":"bearer"}`, `{"access_token":"a\nb","token_type":"bearer"}`, `{"access_token":1,"token_type":"bearer"}`, `{"access_token":"x","token_type":"mac"}`} {
		if _, _, err := readToken([]byte(bad)); err == nil {
			t.Errorf("took %s", bad)
		}
	}
	for text, want := range map[string]time.Duration{"1200": 19 * time.Minute, "-5": 9 * time.Second, `"x"`: 9 * time.Second, "1e99": 9 * time.Second, "99999999999": longToken - time.Minute} {
		_, life, err := readToken([]byte(`{"access_token":"x","token_type":"Bearer","expires_in":` + text + `}`))
		if err != nil || life != want {
			t.Errorf("expires_in %s: used for %s, %v", text, life, err)
		}
	}
}
