package portal

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// devices are by address: one in quarantine, whose name and reasons are hostile, one routed
// for ten more minutes, one routed without end, and one that ought to have no peer.
func find(a netip.Addr) (quarantine.Record, error) {
	d := quarantine.Record{Device: quarantine.Device{Since: now.Add(-time.Hour)}}
	switch a.String() {
	case "10.66.0.2":
		d.ID, d.Name, d.Stage = "d-held", "<script>alert(1)</script>\x1b[31m\u202eevil", quarantine.Quarantined
		d.Reasons = []quarantine.Reason{
			{Rule: quarantine.RuleReport, Text: `mdm reported not compliant at noon, which stands until "one"`},
			{Rule: quarantine.RuleHold, Text: "held in quarantine by administrator eve at noon: <img src=x onerror=alert(1)>"},
			{Rule: quarantine.RuleReport, Text: "another"},
			{Rule: quarantine.RuleCertificate, Holds: true, Text: "certificate 01 is valid until tomorrow"},
		}
	case "10.66.0.3":
		d.ID, d.Name, d.Stage, d.Until = "d-free", "laptop", quarantine.Routed, now.Add(10*time.Minute+500*time.Millisecond)
		d.Reasons = []quarantine.Reason{{Rule: quarantine.RuleReport, Holds: true, Text: "mdm reported compliant"}, {Rule: quarantine.RuleReport, Text: "scan reported compliant: received, not releasing"}}
	case "10.66.0.4":
		d.ID, d.Stage = "d-ever", quarantine.Routed
	case "10.66.0.5":
		d.ID, d.Stage = "d-pending", quarantine.Pending
	default:
		return quarantine.Record{}, errors.New("nobody there")
	}
	return d, nil
}

func newServer(t *testing.T, change func(*Config)) *Server {
	t.Helper()
	c := Config{Find: find, Host: "lazaret.internal", Addrs: []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")},
		HTTPPort: 80, HTTPSPort: 8445, Help: "Call <4711>.", Now: func() time.Time { return now }}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(h http.Handler, from, url string, headers ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	r.RemoteAddr = from
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(r *http.Response) string {
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

// TestPage says where the device stands, why, and what to do, in HTML without script,
// style or anything from elsewhere, whatever a device calls itself.
func TestPage(t *testing.T) {
	s := newServer(t, nil)
	for _, h := range []http.Handler{s.Plain(), s.Secure()} {
		r := get(h, "10.66.0.2:1234", "http://lazaret.internal/")
		text := body(r)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/html; charset=utf-8" || r.Header.Get("Cache-Control") != "no-store, private" {
			t.Fatalf("%d %v", r.StatusCode, r.Header)
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "unsafe") {
			t.Errorf("policy %q", csp)
		}
		for _, want := range []string{
			`<html lang="en">`, `<meta name="color-scheme" content="light dark">`, "<h1>This device is in quarantine</h1>", "<main>", "d-held", "2026-03-01 11:00 UTC",
			"&lt;script&gt;alert(1)&lt;/script&gt;[31mevil", "mdm reported not compliant at noon", "&lt;img src=x onerror=alert(1)&gt;", "Call &lt;4711&gt;.",
			"<h2 id=\"against\">What keeps it there</h2>", "Ask why, and what would end it.", "certificate 01 is valid until tomorrow",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the page lacks %q:\n%s", want, text)
			}
		}
		for _, bad := range []string{"<script", "<style", "<img", "<link", "<form", "http://", "https://", "\x1b", "\u202e", "d-free"} {
			if strings.Contains(text, bad) {
				t.Errorf("the page has %q", bad)
			}
		}
		if n := strings.Count(text, "Let your device management finish"); n != 1 {
			t.Errorf("the same advice %d times", n)
		}
		plain := get(h, "10.66.0.2:1234", "http://10.66.0.1/", "Accept", "text/plain")
		if text := body(plain); plain.Header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasPrefix(text, "This device is in quarantine\n") ||
			!strings.Contains(text, "- held in quarantine by administrator eve") || strings.ContainsAny(text, "\x1b\u202e") {
			t.Errorf("as plain text:\n%s", text)
		}
		free := body(get(h, "10.66.0.3:1234", "http://[fd66::1]/"))
		for _, want := range []string{"<h1>This device has full access</h1>", "2026-03-01 12:10 UTC", "What did not count", "Nothing. Access is prolonged"} {
			if !strings.Contains(free, want) {
				t.Errorf("the page of a routed device lacks %q:\n%s", want, free)
			}
		}
	}
}

func TestAccept(t *testing.T) {
	for accept, text := range map[string]bool{
		"": false, "*/*": false, "text/html": false, "text/plain": true, "text/html,text/plain": false, "text/plain, text/html;q=0.5": true,
		"text/plain;q=0": false, "text/plain;q=0.1,*/*": true, "text/html;q=0.1, text/plain;q=0.2": true, ";;;": false, "text/plain;q=x": true,
	} {
		if got := wantsText([]string{accept}); got != text {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// TestAPI is RFC 8908, section 5.
func TestAPI(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Venue = "https://www.example.com/" })
	for from, want := range map[string]string{
		"10.66.0.2:1":          `{"captive":true,"user-portal-url":"https://lazaret.internal:8445/","venue-info-url":"https://www.example.com/","can-extend-session":false}`,
		"[::ffff:10.66.0.3]:1": `{"captive":false,"user-portal-url":"https://lazaret.internal:8445/","venue-info-url":"https://www.example.com/","seconds-remaining":600,"can-extend-session":false}`,
		"10.66.0.4:1":          `{"captive":false,"user-portal-url":"https://lazaret.internal:8445/","venue-info-url":"https://www.example.com/","can-extend-session":false}`,
	} {
		r := get(s.Secure(), from, s.APIURL(), "Accept", "application/captive+json")
		if got := body(r); got != want || r.Header.Get("Content-Type") != "application/captive+json" || !json.Valid([]byte(got)) {
			t.Errorf("%s: %d %s %s", from, r.StatusCode, r.Header.Get("Content-Type"), got)
		}
	}
	if r := get(s.Plain(), "10.66.0.2:1", "http://lazaret.internal"+APIPath); r.StatusCode != http.StatusFound {
		t.Errorf("without TLS: %d", r.StatusCode)
	}
	if got := newServer(t, func(c *Config) { c.Host, c.HTTPPort, c.HTTPSPort = "fd66::1", 8080, 443 }); got.PageURL() != "http://[fd66::1]:8080/" || got.APIURL() != "https://[fd66::1]/captive-portal/api" {
		t.Errorf("URLs %s %s", got.PageURL(), got.APIURL())
	}
}

// TestNobodyElse: who is not known sees nothing, nor does another site's script, and
// nothing can be sent.
func TestNobodyElse(t *testing.T) {
	s := newServer(t, nil)
	for _, from := range []string{"10.66.0.9:1", "10.66.0.5:1", "not an address", ""} {
		for _, r := range []*http.Response{get(s.Plain(), from, "http://lazaret.internal/"), get(s.Secure(), from, s.APIURL())} {
			if text := body(r); r.StatusCode != http.StatusForbidden || strings.Contains(text, "d-") {
				t.Errorf("from %q: %d %s", from, r.StatusCode, text)
			}
		}
	}
	for _, host := range []string{"evil.example", "lazaret.internal.evil.example", "10.66.0.9", "10.66.0.2", "127.0.0.1", "xlazaret.internal"} {
		r := get(s.Plain(), "10.66.0.2:1", "http://"+host+"/")
		if r.StatusCode != http.StatusFound || r.Header.Get("Location") != "http://lazaret.internal/" || strings.Contains(body(r), "d-held") {
			t.Errorf("as %s: %d %s", host, r.StatusCode, r.Header.Get("Location"))
		}
		for _, path := range []string{"/", APIPath} {
			if r := get(s.Secure(), "10.66.0.2:1", "https://"+host+path); r.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("as %s%s by HTTPS: %d", host, path, r.StatusCode)
			}
		}
	}
	if r := get(s.Plain(), "10.66.0.2:1", "http://lazaret.internal/generate_204"); r.StatusCode != http.StatusFound {
		t.Errorf("another path: %d", r.StatusCode)
	}
	if r := get(s.Secure(), "10.66.0.2:1", "https://lazaret.internal/x"); r.StatusCode != http.StatusNotFound {
		t.Errorf("another path by HTTPS: %d", r.StatusCode)
	}
	for _, host := range []string{"LAZARET.internal:80", "lazaret.internal.", "[fd66::1]:80", "10.66.0.1:80"} {
		if !s.ours(host) {
			t.Errorf("%s is not known", host)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"} {
		for _, h := range []http.Handler{s.Plain(), s.Secure()} {
			r := httptest.NewRequest(method, "http://lazaret.internal/", strings.NewReader("x"))
			r.RemoteAddr = "10.66.0.2:1"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s: %d", method, w.Code)
			}
		}
	}
}

// TestEveryRuleHasAdvice: no reason for quarantine leaves a person without a next step.
func TestEveryRuleHasAdvice(t *testing.T) {
	for _, rule := range []string{quarantine.RuleFacts, quarantine.RuleProfile, quarantine.RuleHold, quarantine.RuleCertificate,
		quarantine.RuleProof, quarantine.RulePool, quarantine.RuleReport, quarantine.RuleSkip, "release", "policy"} {
		if advice(rule) == "" {
			t.Errorf("rule %s has none", rule)
		}
	}
}
