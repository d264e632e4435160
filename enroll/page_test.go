package enroll

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lazaret/enroll/code"
)

// TestPageForPeople: who follows an enrollment link in a browser reads what to do with it.
// Every other path and method is CMP's, as before.
func TestPageForPeople(t *testing.T) {
	g := newGateway(t)
	at := func(method, target string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(method, target, nil))
		return w
	}
	for _, path := range []string{"/", "/enroll", "/enroll?from=mail"} {
		w := at(http.MethodGet, path)
		for _, want := range []string{"<pre>lazaret enroll</pre>", Path, "POST"} {
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d, no %q: %s", path, w.Code, want, w.Body)
			}
		}
		if policy := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") || w.Header().Get("Referrer-Policy") != "no-referrer" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, w.Header())
		}
		for _, not := range []string{"<script", "src=", "href=", "http-equiv"} { // it loads, and leads, nowhere
			if strings.Contains(w.Body.String(), not) {
				t.Errorf("%s: the page has %q", path, not)
			}
		}
		if w := at(http.MethodHead, path); w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("HEAD %s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, Path, http.StatusMethodNotAllowed}, {http.MethodHead, Path, http.StatusMethodNotAllowed}, {http.MethodGet, "/enroll/", http.StatusMethodNotAllowed},
		{http.MethodGet, "/index.html", http.StatusMethodNotAllowed}, {http.MethodPut, "/", http.StatusMethodNotAllowed}, {http.MethodPost, "/enroll", http.StatusUnsupportedMediaType},
	} {
		if w := at(c.method, c.path); w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}

// TestLinkIsNotSent: of a link, a client sends the path that the page is at, and no more.
func TestLinkIsNotSent(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.RequestURI }))
	defer server.Close()
	resp, err := http.Get(code.Link(server.URL, "00000-00000-00000-00000-00000", strings.Repeat("ab", 32)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-asked; got != linked {
		t.Errorf("sent %q, want %q", got, linked)
	}
}
