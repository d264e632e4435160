package console

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// TestPageForPeople: a browser at the API's root reads whom to turn to; programs are answered
// as ever, and whoever may not ask the API may not ask this either.
func TestPageForPeople(t *testing.T) {
	const browser = "text/html,application/xhtml+xml,*/*;q=0.8"
	l := newLab(t)
	ask := func(method, path, accept, site string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		if site != "" {
			r.Header.Set("Sec-Fetch-Site", site)
		}
		w := httptest.NewRecorder()
		l.API().ServeHTTP(w, r)
		return w
	}
	w := ask(http.MethodGet, "/", browser, "none")
	for _, want := range []string{"lazaretctl connect", "lazaretctl claim", `href="/api/v1/openapi.json"`} {
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%d, no %q: %s", w.Code, want, w.Body)
		}
	}
	if w := ask(http.MethodHead, "/", browser, ""); w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d %s", w.Code, w.Body)
	}
	for name, x := range map[string]struct {
		method, path, accept, site string
		want                       int
	}{
		"a program":           {http.MethodGet, "/", "", "", http.StatusNotFound},
		"a program, of sorts": {http.MethodGet, "/", "*/*", "", http.StatusNotFound},
		"JSON":                {http.MethodGet, "/", "application/json", "", http.StatusNotFound},
		"another path":        {http.MethodGet, "/index.html", browser, "", http.StatusNotFound},
		"a post":              {http.MethodPost, "/", browser, "", http.StatusNotFound},
		"another site's post": {http.MethodPost, "/", browser, "cross-site", http.StatusForbidden},
		"the status":          {http.MethodGet, "/api/v1/status", browser, "", http.StatusUnauthorized},
	} {
		if w := ask(x.method, x.path, x.accept, x.site); w.Code != x.want || w.Header().Get("Content-Type") != "application/json" || !strings.HasPrefix(w.Body.String(), `{"error":`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	l.cfg.From = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} // not where the test asks from
	if w := ask(http.MethodGet, "/", browser, ""); w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "<") {
		t.Errorf("from a network that may not: %d %s", w.Code, w.Body)
	}
}
