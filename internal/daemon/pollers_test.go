package daemon

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lazaret/enroll"
	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/polltest"
	"lazaret/quarantine/source/sourcetest"
)

// fleetServer stands in for Fleet with one host; it takes one token.
type fleetServer struct {
	*httptest.Server
	token string
	pass  string
	asked atomic.Int32
}

func newFleetServer(t *testing.T, token, pass string) *fleetServer {
	f := &fleetServer{token: token, pass: pass}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		if r.Header.Get("Authorization") != "Bearer "+f.token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		hosts := []any{}
		if r.URL.Query().Get("page") == "0" {
			now := time.Now().UTC().Format(time.RFC3339)
			hosts = append(hosts, map[string]any{"id": 1, "hardware_serial": "C02AAAA1", "computer_name": "mac", "policy_updated_at": now, "seen_time": now,
				"policies": []any{map[string]any{"id": 1, "name": "Disk", "response": f.pass}}})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"hosts": hosts})
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fleetServer) settings() map[string]any {
	return map[string]any{"url": f.URL, "ca": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))}
}

// TestPollersFollowTheirSettings: what an administrator saves is asked at once, with the
// secret that came with it; what is changed is asked otherwise, and what is deleted not at all.
func TestPollersFollowTheirSettings(t *testing.T) {
	s, _ := newStore(t)
	admin := quarantine.Actor{Kind: "administrator", Name: "root"}
	gate := sourcetest.NewGate(quarantine.Source{Name: "fleet", MayRelease: true, MaxValidity: time.Hour}, time.Now, polltest.Device("dev1", "C02AAAA1"))
	ledger := &source.Ledger{}
	p := newPollers(s, gate, ledger, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	health := func() source.Health {
		for _, h := range ledger.List() {
			if h.Source == "fleet" {
				return h
			}
		}
		return source.Health{}
	}

	src := quarantine.Source{Name: "fleet", Kind: quarantine.SourceFleet, MayRelease: true, MaxValidity: time.Hour, Facts: []string{"*"}}
	if _, err := s.SourceTable().Put(ctx, admin, store.Item[quarantine.Source]{Name: "fleet", Value: src}); err != nil {
		t.Fatal(err)
	}
	p.connections.Changed()
	eventually(t, "the lack of settings is told", func() bool { return strings.Contains(health().Problem, "not configured") })

	first := newFleetServer(t, "to-ken-1", "pass")
	token, hook := "to-ken-1", "0123456789abcdefghij"
	q := api.ConnectionRequest{Settings: first.settings(), Secrets: map[string]*string{"token": &token, "hook": &hook}}
	if err := p.connections.Connect(ctx, admin, src, q); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is released", func() bool { return gate.Released("dev1") })
	eventually(t, "the health is told", func() bool { h := health(); return h.Problem == "" && h.Accepted == 1 && !h.Next.IsZero() })

	shown, err := p.connections.Connection(ctx, src)
	text, _ := json.Marshal(shown)
	if err != nil || !slices.Equal(shown.Secrets, []string{"hook", "token"}) || strings.Contains(string(text), "to-ken") || strings.Contains(string(text), hook) || !strings.HasSuffix(shown.Webhook, "/SECRET") {
		t.Errorf("shown is %s, %v", text, err)
	}

	// Its webhook asks again, at once.
	mux := http.NewServeMux()
	mux.Handle("POST /sources/v1/fleet/{name}/{secret}", p.doors)
	push := func(secret string) int {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("POST", "/sources/v1/fleet/fleet/"+secret, strings.NewReader(`{"hosts":[]}`)))
		return w.Code
	}
	if got := push("wrong"); got != http.StatusNotFound {
		t.Errorf("a webhook with a guess: %d", got)
	}
	if got := push(hook); got != http.StatusNoContent {
		t.Errorf("a webhook: %d", got)
	}

	// Settings alone keep the secrets; another server does not get them.
	second := newFleetServer(t, "to-ken-2", "fail")
	q = api.ConnectionRequest{Settings: second.settings(), Revision: shown.Revision}
	if err := p.connections.Connect(ctx, admin, src, q); !errors.Is(err, console.ErrInvalid) || !strings.Contains(err.Error(), "given again") {
		t.Errorf("another server with the old secret: %v", err)
	}
	token = "to-ken-2"
	q.Secrets = map[string]*string{"token": &token}
	if err := p.connections.Connect(ctx, admin, src, api.ConnectionRequest{Settings: q.Settings, Secrets: q.Secrets}); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("of an older state: %v", err)
	}
	if err := p.connections.Connect(ctx, admin, src, q); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other server's word counts", func() bool { return gate.Last("dev1").Verdict == quarantine.NonCompliant })
	before := first.asked.Load()
	if got := push(hook); got != http.StatusNotFound {
		t.Errorf("the old webhook: %d", got)
	}

	// With the source all of it goes.
	if err := p.connections.Forget(ctx, admin, "fleet"); err != nil {
		t.Fatal(err)
	}
	if err := s.SourceTable().Delete(ctx, admin, "fleet", store.Any); err != nil {
		t.Fatal(err)
	}
	p.connections.Changed()
	eventually(t, "it is forgotten", func() bool { return health().Source == "" })
	names, err := s.Secrets().Names(ctx)
	if err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "source/") }) {
		t.Errorf("secrets left behind: %v, %v", names, err)
	}
	if n := first.asked.Load(); n != before {
		t.Errorf("the first server was asked %d times after it was replaced", n-before)
	}
}

// TestConnectionsAreChecked: what cannot be used is not kept, and no secret is in an error.
func TestConnectionsAreChecked(t *testing.T) {
	s, _ := newStore(t)
	admin := quarantine.Actor{Kind: "administrator", Name: "root"}
	c := connections{store: s, changed: make(chan struct{}, 1)}
	src := quarantine.Source{Name: "mdm", Kind: quarantine.SourceIntune}
	secret, empty := "se-cret", ""
	for what, q := range map[string]api.ConnectionRequest{
		"nothing":           {},
		"no secret":         {Settings: map[string]any{"tenant": "t", "client_id": "c"}},
		"an empty secret":   {Settings: map[string]any{"tenant": "t", "client_id": "c"}, Secrets: map[string]*string{"client_secret": &empty}},
		"an unknown secret": {Settings: map[string]any{"tenant": "t", "client_id": "c"}, Secrets: map[string]*string{"client_secret": &secret, "password": &secret}},
		"an unknown key":    {Settings: map[string]any{"tenant": "t", "client_id": "c", "client_secret": "se-cret"}, Secrets: map[string]*string{"client_secret": &secret}},
	} {
		if err := c.Connect(t.Context(), admin, src, q); !errors.Is(err, console.ErrInvalid) || strings.Contains(fmt.Sprint(err), "se-cret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if shown, err := c.Connection(t.Context(), src); err != nil || shown.Revision != 0 || len(shown.Secrets) != 0 {
		t.Errorf("something was kept: %+v, %v", shown, err)
	}
	good := api.ConnectionRequest{Settings: map[string]any{"tenant": "t", "client_id": "c"}, Secrets: map[string]*string{"client_secret": &secret}}
	if err := c.Connect(t.Context(), admin, src, good); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context(), admin, src, good); !errors.Is(err, quarantine.ErrConflict) && !errors.Is(err, enroll.ErrExists) {
		t.Errorf("the same, as if there were none: %v", err)
	}
	src.Kind = quarantine.SourceAPI
	if err := c.Connect(t.Context(), admin, src, good); !errors.Is(err, console.ErrInvalid) {
		t.Errorf("a source that is not asked: %v", err)
	}
}

// eventually waits until something that happens elsewhere has.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	limit := time.After(time.Minute)
	for !done() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
