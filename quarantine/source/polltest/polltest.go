// Package polltest stands in for a product in tests: a TLS server that the test writes, and a
// poller that asks it.
package polltest

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/poll"
	"lazaret/quarantine/source/sourcetest"
)

// Noon is when every test begins.
var Noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Lab is a poller of one kind, what it asks, and what it tells.
type Lab struct {
	Gate   *sourcetest.Gate
	Poller *poll.Poller
	Client *poll.Client
	Setup  poll.Setup
	Waits  []time.Duration // that the client was told to wait
	At     time.Time       // what the clock shows; the server's shows the same
	Skew   time.Duration   // by which the server's is ahead

	t      *testing.T
	ledger *source.Ledger
}

// New makes a Lab. settings are those of the kind, without url and ca; a value "URL" stands
// for the server's.
func New(t *testing.T, kind poll.Kind, settings map[string]any, secrets map[string]string, h http.Handler, devices ...quarantine.Record) *Lab {
	t.Helper()
	l := &Lab{At: Noon, t: t, ledger: &source.Ledger{}}
	now := func() time.Time { return l.At }
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", l.At.Add(l.Skew).Format(http.TimeFormat))
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	all := map[string]any{"url": s.URL, "ca": ca}
	for k, v := range settings {
		if v == "URL" {
			v = s.URL
		}
		all[k] = v
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if l.Setup, err = kind.Make(raw, secrets); err != nil {
		t.Fatal(err)
	}
	l.Client, err = poll.NewClient(poll.ClientConfig{
		Base: l.Setup.URL, Roots: l.Setup.CA, Auth: l.Setup.Auth, Agent: "lazaret/test", Now: now,
		Wait: func(ctx context.Context, d time.Duration) bool { l.Waits = append(l.Waits, d); return ctx.Err() == nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Client.Close)
	src := quarantine.Source{Name: "mdm", Kind: kind.Kind, MayRelease: true, MaxValidity: kind.Validity, Facts: []string{"*"}}
	l.Gate = sourcetest.NewGate(src, now, devices...)
	l.Poller, err = poll.New(poll.Config{
		Name: src.Name, Source: src, Product: l.Setup.Product, Client: l.Client, Gate: l.Gate, Ledger: l.ledger, Now: now,
		Match: l.Setup.Match, Interval: l.Setup.Every,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Round asks once.
func (l *Lab) Round() error { return l.Poller.Round(l.t.Context()) }

// Must asks once, which must go well.
func (l *Lab) Must() {
	l.t.Helper()
	if err := l.Round(); err != nil {
		l.t.Fatal(err)
	}
}

// Problem is what the health page says.
func (l *Lab) Problem() string { return l.ledger.List()[0].Problem }

// Device is a device of ours with a serial number.
func Device(id, serial string) quarantine.Record {
	return quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(id), Name: id, Serial: serial}}
}

// Server stands in for an API that takes a token of its own making.
type Server struct {
	Tokens int    // issued
	Path   string // of the token endpoint
	Form   func(r *http.Request) bool
	Pages  http.HandlerFunc // behind the token
	Valid  string           // the token that is taken
	Status int              // of every answer but a token, where set
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Path != "" && r.URL.Path == s.Path {
		if r.Method != http.MethodPost || r.FormValue("grant_type") != "client_credentials" || !s.Form(r) {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		s.Tokens++
		s.Valid = "token" + string(rune('0'+s.Tokens))
		_ = json.NewEncoder(w).Encode(map[string]any{"token_type": "Bearer", "expires_in": 3599, "access_token": s.Valid})
		return
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+s.Valid:
		w.WriteHeader(http.StatusUnauthorized)
	case s.Status != 0:
		w.WriteHeader(s.Status)
	default:
		s.Pages(w, r)
	}
}
