package servercert

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"

	"lazaret/internal/servercert/acmetest"
)

// fromServer sets ACME at a server that issues what issue says, and makes an attempt.
func (l *lab) fromServer(t *testing.T, wants string, issue func(q *x509.CertificateRequest) [][]byte) (*acmetest.Server, State) {
	t.Helper()
	s := acmetest.New(t, wants, issue)
	set := settings
	set.Directory, set.Roots = s.Directory(), s.Roots()
	if err := l.SetACME(t.Context(), l.note, set); err != nil {
		t.Fatal(err)
	}
	l.tick(t.Context())
	return s, l.State(t.Context())
}

// TestWhatServersIssueIsLookedAt: a certificate that comes by ACME is held to what was asked
// for, and looked at as one that is brought.
func TestWhatServersIssueIsLookedAt(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		wants string
		issue func(l *lab, q *x509.CertificateRequest) [][]byte
		want  string // empty: it is shown
	}{
		"what was asked for": {name, func(l *lab, q *x509.CertificateRequest) [][]byte {
			return [][]byte{l.leaf(t, q.PublicKey, server(q.DNSNames...)).Raw, l.issuer.Raw}
		}, ""},
		"in capitals": {strings.ToUpper(name), func(l *lab, q *x509.CertificateRequest) [][]byte {
			return [][]byte{l.leaf(t, q.PublicKey, server(q.DNSNames...)).Raw, l.issuer.Raw}
		}, ""},
		"a name that nobody asked for": {"other.example.test", nil, `"other.example.test": the gateway did not ask for it`},
		"another name": {name, func(l *lab, q *x509.CertificateRequest) [][]byte {
			return [][]byte{l.leaf(t, q.PublicKey, server("other.example.test")).Raw, l.issuer.Raw}
		}, "does not bear gw.example.test"},
		"another key": {name, func(l *lab, q *x509.CertificateRequest) [][]byte {
			return [][]byte{l.leaf(t, &other.PublicKey, server(name)).Raw, l.issuer.Raw}
		}, "certificate"},
		"a heavy issuer": {name, func(l *lab, q *x509.CertificateRequest) [][]byte {
			return [][]byte{l.leaf(t, q.PublicKey, server(name)).Raw, heavy(t, 64000)}
		}, "its RSA key has 64000 bits"},
		"very much": {name, func(l *lab, q *x509.CertificateRequest) [][]byte {
			large := server(name)
			for range 2000 {
				large.DNSNames = append(large.DNSNames, strings.Repeat("a", 30)+".example.test")
			}
			return [][]byte{l.leaf(t, q.PublicKey, large).Raw}
		}, "more than 64 KiB"},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLab(t)
			_, st := l.fromServer(t, c.wants, func(q *x509.CertificateRequest) [][]byte { return c.issue(l, q) })
			if c.want == "" && (!st.Shown || st.Certificate.Source != ACME || st.ACME.Problem != "") {
				t.Errorf("not shown: %+v %+v", st, st.ACME)
			}
			if c.want != "" && (st.Certificate != nil || !strings.Contains(st.ACME.Problem, c.want)) {
				t.Errorf("%+v; want %q", st.ACME, c.want)
			}
		})
	}
}

// TestProofIsForWhoAsksForItAlone: while one is due, it is shown to who offers its protocol and
// no other (RFC 8737, section 3), by its name; and there is no ticket.
func TestProofIsForWhoAsksForItAlone(t *testing.T) {
	l := newLab(t)
	proof := &tls.Certificate{Certificate: [][]byte{l.own.Raw}}
	l.proofs.set(name, proof)
	for _, c := range []struct {
		host   string
		protos []string
		want   bool
	}{
		{name, []string{"acme-tls/1"}, true},
		{strings.ToUpper(name), []string{"acme-tls/1"}, true},
		{name, []string{"h2", "acme-tls/1"}, false},
		{name, []string{"acme-tls/1", "http/1.1"}, false},
		{name, []string{"h2"}, false},
		{name, nil, false},
		{"other.example.test", []string{"acme-tls/1"}, false},
		{"", []string{"acme-tls/1"}, false},
	} {
		got, err := l.proofs.config(&tls.ClientHelloInfo{ServerName: c.host, SupportedProtos: c.protos})
		if err != nil || (got != nil) != c.want {
			t.Errorf("%q %q: %v %v", c.host, c.protos, got != nil, err)
		}
		if got != nil && !got.SessionTicketsDisabled {
			t.Errorf("%q: the session can be taken up again", c.host)
		}
	}
	l.proofs.set(name, nil)
	if got, err := l.proofs.config(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: []string{"acme-tls/1"}}); got != nil || err != nil {
		t.Errorf("after it was due: %v %v", got, err)
	}
}

// TestRetryAfter: a server that says when is left alone until then, whatever its reason, for a
// week at most.
func TestRetryAfter(t *testing.T) {
	const limited = "urn:ietf:params:acme:error:rateLimited"
	for what, c := range map[string]struct {
		status     int
		kind, says string
		want       time.Duration
	}{
		"years":                {429, limited, "315360000", 7 * day},
		"two days":             {429, limited, "172800", 2 * day},
		"limited, not when":    {429, limited, "", time.Hour},
		"429 without a reason": {429, "", "7200", 2 * time.Hour},
		"429 without anything": {429, "", "", time.Hour},
		"503":                  {503, "", "10800", 3 * time.Hour},
		"less than the pause":  {503, "", "1", firstWait},
		"a date":               {503, "", "DATE", 5 * time.Hour},
		"nonsense":             {503, "", "-1", firstWait},
		"not a word":           {500, "", "", firstWait},
	} {
		synctest.Test(t, func(t *testing.T) {
			if c.says == "DATE" {
				c.says = time.Now().Add(5 * time.Hour).UTC().Format(http.TimeFormat)
			}
			l := newLab(t)
			f := &fakeServer{l: l, t: t, err: &acme.Error{StatusCode: c.status, ProblemType: c.kind, Header: http.Header{"Retry-After": {c.says}}}}
			l.ask = f.ask
			if err := l.SetACME(t.Context(), l.note, settings); err != nil {
				t.Fatal(err)
			}
			l.tick(t.Context())
			if got := time.Until(l.State(t.Context()).ACME.Next); got != c.want {
				t.Errorf("%s: left alone for %s, want %s", what, got, c.want)
			}
		})
	}
}

// TestNothingWithoutAnEntry: what the audit log does not take is not done.
func TestNothingWithoutAnEntry(t *testing.T) {
	l := newLab(t)
	c := l.bring(t, name)
	full := errors.New("the log is full")
	l.full = full
	key := newKey(t)
	brought := Brought{Chain: text(l.leaf(t, key.Public(), server(name)), l.issuer), Key: keyText(t, key)}
	_, _, asked := l.Request(t.Context(), l.note, nil, "")
	for what, err := range map[string]error{
		"set": l.Set(t.Context(), l.note, brought), "unset": l.Unset(t.Context(), l.note), "request": asked, "acme set": l.SetACME(t.Context(), l.note, settings),
	} {
		if !errors.Is(err, full) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if l.acme.Load() != nil || !l.shown.Load().leaf().Equal(c) || len(l.store.names()) != 1 {
		t.Errorf("something was done: %v", l.store.names())
	}
	l.full = nil
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	l.full = full
	f := &fakeServer{l: l, t: t, life: 90 * day}
	l.ask = f.ask
	l.tick(t.Context())
	if s := l.State(t.Context()); len(f.at) != 1 || !l.shown.Load().leaf().Equal(c) || !strings.Contains(s.ACME.Problem, full.Error()) {
		t.Errorf("obtained without an entry: %+v", s.ACME)
	}
	if err := l.UnsetACME(t.Context(), l.note); !errors.Is(err, full) || l.acme.Load() == nil {
		t.Errorf("acme unset: %v", err)
	}
}

// TestAskedOnceWritten: before the first request stands in the store what keeps a start from
// another; where that cannot be, the server is not asked.
func TestAskedOnceWritten(t *testing.T) {
	l := newLab(t)
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{l: l, t: t, err: errors.New("refused")}
	l.ask = f.ask
	l.store.fail = errors.New("disk full")
	if wait := l.tick(t.Context()); len(f.at) != 0 || wait != storeWait {
		t.Errorf("asked %d times, next look in %s", len(f.at), wait)
	}
	l.store.fail = nil
	l.ask = func(ctx context.Context, a account) (Bundle, string, error) {
		var kept account
		if err := json.Unmarshal(l.store.kept[blobACME], &kept); err != nil || kept.Failures != 1 || !kept.Next.After(time.Now().Add(firstWait/2)) {
			t.Errorf("while it asks, the store has %+v (%v)", kept, err)
		}
		return f.ask(ctx, a)
	}
	l.tick(t.Context())
	if len(f.at) != 1 {
		t.Errorf("asked %d times", len(f.at))
	}
}

// TestKeyOfAnother: a certificate that is kept with another's key, which is a key, is not shown.
func TestKeyOfAnother(t *testing.T) {
	l := newLab(t)
	l.bring(t, name)
	one := l.shown.Load().saved
	l.bring(t, name)
	one.Key = l.shown.Load().saved.Key
	blob, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	l.store.kept[blobShown] = blob
	l.open(t)
	if s := l.State(t.Context()); s.Certificate != nil || !strings.Contains(s.Problem, "another certificate's") {
		t.Errorf("%+v", s)
	}
}

// TestExternalKeyGoesNowhereElse: behind the same URL may be another server.
func TestExternalKeyGoesNowhereElse(t *testing.T) {
	l := newLab(t)
	set := settings
	set.KeyID, set.MAC, set.Roots = "kid", "c2VjcmV0LXNlY3JldC1zZWNyZXQ", string(text(l.root))
	if err := l.SetACME(t.Context(), l.note, set); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(s *ACMESettings){
		"roots": func(s *ACMESettings) { s.Roots = string(text(l.issuer)) }, "no roots": func(s *ACMESettings) { s.Roots = "" },
		"key id": func(s *ACMESettings) { s.KeyID = "other" }, "directory": func(s *ACMESettings) { s.Directory += "2" },
	} {
		other := set
		other.MAC = ""
		change(&other)
		if err := l.SetACME(t.Context(), l.note, other); !errors.Is(err, ErrInvalid) {
			t.Errorf("other %s: %v", what, err)
		}
	}
}

// TestFaultsAreBounded, in number, whatever a file holds.
func TestFaultsAreBounded(t *testing.T) {
	_, err := Parse([]byte(strings.Repeat("-----BEGIN X-----\n-----END X-----\n", 1500)), nil)
	f, ok := errors.AsType[*Faults](err)
	if !ok || len(*f) != mostFaults {
		t.Errorf("%d faults", len(*f))
	}
	if got := clip(strings.Repeat("ß", 600) + "\x1b[2J"); len(got) > 603 || !strings.HasSuffix(got, "ß...") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	if got := clip("a\x1b[2J\nb"); got != "a [2J b" {
		t.Errorf("%q", got)
	}
}
