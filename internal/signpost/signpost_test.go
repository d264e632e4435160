package signpost

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// TestPage: the text, nothing but one's own style, and nothing beside it.
func TestPage(t *testing.T) {
	p := New("A & B", "<p>Below.</p>")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		text := w.Body.String()
		if method == http.MethodHead {
			if text != "" || w.Header().Get("Content-Length") != strconv.Itoa(len(p.text)) {
				t.Errorf("HEAD: %q, %v", text, w.Header())
			}
			text = string(p.text)
		}
		if w.Code != http.StatusOK || !strings.Contains(text, "<h1>A &amp; B</h1>") || !strings.Contains(text, "<p>Below.</p>") {
			t.Errorf("%s: %d %s", method, w.Code, text)
		}
		_, styled, _ := strings.Cut(text, "<style>")
		styled, _, _ = strings.Cut(styled, "</style>")
		sum := sha256.Sum256([]byte(styled))
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
			t.Errorf("%s: the policy is %s", method, policy)
		}
		if h := w.Header(); h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", method, h)
		}
	}
}

func TestWanted(t *testing.T) {
	for accept, want := range map[string]bool{
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true, "text/html": true, "application/json, Text/HTML;q=0.1": true,
		"": false, "*/*": false, "text/*": false, "application/json": false, "text/html;q=0": false, "text/html;q=0.0, */*": false, "text/html;q=x": false, ";;;": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		if got := Wanted(r); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}
