package servercert

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func text2(leaf *x509.Certificate, l *lab) []*x509.Certificate {
	return []*x509.Certificate{leaf, l.issuer}
}

// TestSettingsAreChecked, all at once; a key of an external account goes to no other server.
func TestSettingsAreChecked(t *testing.T) {
	l := newLab(t)
	bad := ACMESettings{Directory: "http://acme.example.test", Contacts: []string{"not mail"}, Names: []string{"x.example.test"}, KeyID: "kid", Roots: "x", Key: "dsa"}
	err := l.SetACME(t.Context(), l.note, bad)
	for _, want := range []string{"no https URL", "no mail address", "terms are not agreed", "do not belong together", "holds no certificate", `key "dsa"`, "gw.example.test is not among the names"} {
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrInvalid) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	good := settings
	good.KeyID, good.MAC = "kid", "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
	if err := l.SetACME(t.Context(), l.note, good); err != nil {
		t.Fatal(err)
	}
	was := *l.acme.Load()
	good.MAC, good.Contacts = "", nil
	if err := l.SetACME(t.Context(), l.note, good); err != nil {
		t.Errorf("the key of the external account was forgotten: %v", err)
	}
	if now := l.acme.Load(); string(now.Key) != string(was.Key) || now.Settings.MAC != was.Settings.MAC {
		t.Error("another account for the same server")
	}
	good.Directory = "https://elsewhere.example.test"
	if err := l.SetACME(t.Context(), l.note, good); err == nil {
		t.Error("the key of the external account went to another server")
	}
	s := l.State(t.Context())
	if strings.Contains(fmt.Sprintf("%+v %+v", s, s.ACME), "c2VjcmV0") {
		t.Errorf("the state holds the key: %+v (%v)", s.ACME, err)
	}
}

// evil is an ACME server that gives whatever it is told to.
type evil struct {
	url    string
	asked  atomic.Int32
	answer func(w http.ResponseWriter, r *http.Request) bool // false: the usual
}

func (e *evil) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.asked.Add(1)
	w.Header().Set("Replay-Nonce", "n")
	if e.answer != nil && e.answer(w, r) {
		return
	}
	say := func(status int, location, format string, args ...any) {
		w.Header().Set("Location", e.url+location)
		w.WriteHeader(status)
		fmt.Fprintf(w, format, args...)
	}
	switch r.URL.Path {
	case "/directory":
		say(200, "", `{"newNonce":"%[1]s/nonce","newAccount":"%[1]s/account","newOrder":"%[1]s/order"}`, e.url)
	case "/account":
		say(201, "/account/1", `{"status":"valid"}`)
	case "/order":
		say(201, "/order/1", `{"status":"pending","authorizations":["%[1]s/authz"],"finalize":"%[1]s/final"}`, e.url)
	case "/authz":
		say(200, "", `{"status":"pending","identifier":{"type":"dns","value":%q},"challenges":[{"type":"tls-alpn-01","url":"%s/challenge","token":"t"}]}`, name, e.url)
	case "/challenge":
		say(200, "", `{"type":"tls-alpn-01","status":"processing","url":"%s/challenge","token":"t"}`, e.url)
	default:
		say(200, "", `{}`)
	}
}

// TestServersThatMeanNoGood: whatever a server answers, an attempt ends, and asks no more than
// it may; nothing is shown for it.
func TestServersThatMeanNoGood(t *testing.T) {
	for what, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool
		want   string
		most   int32
	}{
		"asks for patience for ever": {func(w http.ResponseWriter, r *http.Request) bool { w.Header().Set("Retry-After", "-5"); return false }, "asked 400 times", 400},
		"leads to what is not https": {func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, `{"newNonce":"http://192.0.2.1/","newAccount":"http://192.0.2.1/","newOrder":"http://192.0.2.1/"}`)
			return true
		}, "not https", 1},
		"leads elsewhere": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
			return true
		}, "leads elsewhere", 1},
		"answers without end": {func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, `{"meta":"`)
			for range 64 * maxAnswer / 1024 {
				if _, err := w.Write([]byte(strings.Repeat("x", 1024))); err != nil {
					return true
				}
			}
			t.Error("64 MiB were read")
			return true
		}, "directory", 1},
		"was asked too often": {func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(429); return true }, "429", 1},
		"offers no challenge that we can meet": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/authz" {
				return false
			}
			fmt.Fprintf(w, `{"status":"pending","identifier":{"type":"dns","value":%q},"challenges":[{"type":"dns-01","url":"x","token":"t"}]}`, name)
			return true
		}, "no challenge of type tls-alpn-01", 10},
		"wants an external account": {func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, `{"newNonce":"https://192.0.2.1","newAccount":"https://192.0.2.1","newOrder":"https://192.0.2.1","meta":{"externalAccountRequired":true}}`)
			return r.URL.Path == "/directory"
		}, "external account", 1},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLab(t)
			e := &evil{answer: c.answer}
			s := httptest.NewTLSServer(e)
			defer s.Close()
			e.url = s.URL
			set := settings
			set.Directory, set.Roots = s.URL+"/directory", string(text(s.Certificate()))
			if err := l.SetACME(t.Context(), l.note, set); err != nil {
				t.Fatal(err)
			}
			l.tick(t.Context())
			st := l.State(t.Context())
			if !strings.Contains(st.ACME.Problem, c.want) || st.Certificate != nil || e.asked.Load() > c.most {
				t.Errorf("asked %d times: %q; want %q", e.asked.Load(), st.ACME.Problem, c.want)
			}
			if !st.ACME.Next.After(time.Now().Add(firstWait / 2)) {
				t.Errorf("the next attempt is at %s", st.ACME.Next)
			}
			if l.proofs.of(name) != nil {
				t.Error("a proof is left")
			}
		})
	}
}
