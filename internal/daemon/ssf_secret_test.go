package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/set"
	"lazaret/quarantine/source/ssf"
)

// streamLab is the console's side of streams, with the source "idp" and a key set.
func streamLab(t *testing.T, names ...string) (signals, quarantine.Actor, json.RawMessage) {
	t.Helper()
	s, _ := newStore(t)
	admin := quarantine.Actor{Kind: "administrator", Name: "root"}
	r, err := ssf.New(ssf.Config{Store: streams{s}, Gate: askedGate{make(chan string, 10)}, Ledger: &source.Ledger{}, Auditor: refusals{s}, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := s.SourceTable().Put(t.Context(), admin, store.Item[quarantine.Source]{Name: name, Value: quarantine.Source{Kind: quarantine.SourceSSF}}); err != nil {
			t.Fatal(err)
		}
	}
	key, err := set.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := set.JWKS(key)
	if err != nil {
		t.Fatal(err)
	}
	return signals{s, r, "https://gw.example.net"}, admin, jwks
}

// TestStreamSecretsStayWithTheirServer: whoever changes where a stream leads, or whom it
// trusts, must give the secrets that are sent there again.
func TestStreamSecretsStayWithTheirServer(t *testing.T) {
	c, admin, jwks := streamLab(t, "idp")
	ctx := t.Context()
	first := api.SignalsSettings{Issuer: "https://idp.example.com", Audience: []string{"gw"}, JWKS: jwks, Delivery: "poll", PollURL: "https://idp.example.com/poll"}
	secret, fresh := "idp-s3cr3t", "of-another"
	if err := c.PutStream(ctx, admin, "idp", api.SignalsRequest{Bearer: &secret, ClientSecret: &secret, Settings: first}); err != nil {
		t.Fatal(err)
	}
	kept := func(kind ssf.Secret) string {
		t.Helper()
		text, err := streams{c.store}.Secret(ctx, "idp", kind)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	revision := func() int64 {
		t.Helper()
		shown, err := c.Stream(ctx, "idp")
		if err != nil {
			t.Fatal(err)
		}
		return shown.Revision
	}
	for name, change := range map[string]func(*api.SignalsSettings){
		"issuer":    func(s *api.SignalsSettings) { s.Issuer = "https://evil.example.net" },
		"jwks_uri":  func(s *api.SignalsSettings) { s.JWKS, s.JWKSURI = nil, "https://evil.example.net/keys" },
		"poll_url":  func(s *api.SignalsSettings) { s.PollURL = "https://evil.example.net/poll" },
		"token_url": func(s *api.SignalsSettings) { s.TokenURL, s.ClientID = "https://evil.example.net/token", "c" },
		"allow":     func(s *api.SignalsSettings) { s.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
	} {
		q := api.SignalsRequest{Settings: first, Revision: revision()}
		change(&q.Settings)
		if err := c.PutStream(ctx, admin, "idp", q); !errors.Is(err, console.ErrInvalid) {
			t.Errorf("%s changed without the secrets: %v", name, err)
		}
		q.Bearer = &fresh
		if err := c.PutStream(ctx, admin, "idp", q); !errors.Is(err, console.ErrInvalid) || kept(ssf.Bearer) != secret {
			t.Errorf("%s changed with one of two secrets: %v, kept %q", name, err, kept(ssf.Bearer))
		}
	}
	q := api.SignalsRequest{Settings: first, Revision: revision()}
	q.Settings.MaxAge = "1h"
	if err := c.PutStream(ctx, admin, "idp", q); err != nil || kept(ssf.Bearer) != secret {
		t.Errorf("a change that leads nowhere else: %v, kept %q", err, kept(ssf.Bearer))
	}
	q.Settings.PollURL, q.Bearer, q.ClientSecret = "https://idp2.example.com/poll", &fresh, new("")
	if err := c.PutStream(ctx, admin, "idp", q); err == nil || kept(ssf.Bearer) != secret {
		t.Errorf("at a revision that is over: %v, kept %q", err, kept(ssf.Bearer))
	}
	q.Revision = revision()
	if err := c.PutStream(ctx, admin, "idp", q); err != nil || kept(ssf.Bearer) != fresh || kept(ssf.ClientSecret) != "" {
		t.Errorf("with the secrets: %v, kept %q and %q", err, kept(ssf.Bearer), kept(ssf.ClientSecret))
	}
}

// TestStreamsShareNoToken: a second stream of one issuer and audience is refused.
func TestStreamsShareNoToken(t *testing.T) {
	c, admin, jwks := streamLab(t, "idp", "idp-release")
	q := api.SignalsRequest{Settings: api.SignalsSettings{Issuer: "https://idp.example.com", Audience: []string{"gw", "gw2"}, JWKS: jwks, Delivery: "push"}}
	if err := c.PutStream(t.Context(), admin, "idp", q); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		issuer   string
		audience []string
		taken    bool
	}{
		{"https://idp.example.com", []string{"other", "gw2"}, false},
		{"https://idp.example.com", []string{"gw"}, false},
		{"https://idp.example.com", []string{"other"}, true},
	} {
		q.Settings.Issuer, q.Settings.Audience = s.issuer, slices.Clone(s.audience)
		if err := c.PutStream(t.Context(), admin, "idp-release", q); (err == nil) != s.taken || !s.taken && !errors.Is(err, console.ErrInvalid) {
			t.Errorf("%s %v: %v", s.issuer, s.audience, err)
		}
	}
}
