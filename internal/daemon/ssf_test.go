package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/set"
	"lazaret/quarantine/source/ssf"
)

// askedGate knows one device, and says what it is asked.
type askedGate struct{ asked chan string }

func (g askedGate) Reports(_ context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	for _, r := range all {
		g.asked <- by.Kind + " " + by.Name + " " + string(r.Device) + " " + string(r.Verdict)
	}
	return make([]quarantine.Result, len(all))
}

func (g askedGate) Change(context.Context, quarantine.Actor, quarantine.Change) (quarantine.Placement, error) {
	return quarantine.Placement{}, nil
}

func (g askedGate) Device(string) (quarantine.Record, error) {
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

func (g askedGate) BySerial(serial string) []quarantine.Record { return g.Devices() }

func (g askedGate) Devices() []quarantine.Record {
	return []quarantine.Record{{Device: quarantine.Device{ID: "d1", Serial: "C1", Owner: "ann"}}}
}

// TestSSFSettingsReachTheReceiver: what an administrator saves is what pushes are held to;
// secrets go in and do not come out; with the source all of it goes.
func TestSSFSettingsReachTheReceiver(t *testing.T) {
	s, _ := newStore(t)
	admin := quarantine.Actor{Kind: "administrator", Name: "root"}
	gate := askedGate{make(chan string, 10)}
	ledger := &source.Ledger{}
	r, err := ssf.New(ssf.Config{Store: streams{s}, Gate: gate, Ledger: ledger, Auditor: refusals{s}, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	mux := http.NewServeMux()
	mux.Handle(ssf.PushPattern, r.Handler())

	key, err := set.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := set.JWKS(key)
	if err != nil {
		t.Fatal(err)
	}
	c := signals{s, r, "https://gw.example.net"}
	secret := "Bearer hunter2hunter2"
	q := api.SignalsRequest{Authorization: &secret, Settings: api.SignalsSettings{Issuer: "https://idp.example.com", Audience: []string{"gw"}, JWKS: json.RawMessage(jwks), Delivery: "push"}}
	if _, err := c.Stream(ctx, "idp"); !errors.Is(err, console.ErrNotFound) {
		t.Errorf("before it is made: %v", err)
	}
	wrong := q
	wrong.Settings.Delivery = "pigeon"
	if err := c.PutStream(ctx, admin, "idp", wrong); !errors.Is(err, console.ErrInvalid) {
		t.Errorf("wrong settings: %v", err)
	}
	table := s.SourceTable()
	if _, err := table.Put(ctx, admin, store.Item[quarantine.Source]{Name: "idp", Value: quarantine.Source{Kind: quarantine.SourceSSF}}); err != nil {
		t.Fatal(err)
	}
	if err := c.PutStream(ctx, admin, "idp", q); err != nil {
		t.Fatal(err)
	}
	if err := c.PutStream(ctx, admin, "idp", q); err == nil {
		t.Error("saved at revision 0 though it was there")
	}
	push := func(authorization string) int {
		tok, err := key.Sign(set.Token{ID: set.NewID(), Issuer: "https://idp.example.com", Audience: []string{"gw"}, IssuedAt: time.Now(), Subject: new(set.Opaque("C1")),
			Events: []set.Event{{Type: set.DeviceComplianceChange, Claims: set.Claims(map[string]any{"current_status": "compliant"})}}})
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodPost, "/ssf/v1/idp", strings.NewReader(tok))
		req.Header.Set("Content-Type", set.ContentType)
		req.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, req)
		return w.Code
	}
	until(t, "the stream is taken up", func() bool { _, err := r.Status(ctx, "idp"); return err == nil })
	if got := push("Bearer guess"); got != http.StatusBadRequest || len(gate.asked) != 0 {
		t.Errorf("a push with a guess: %d", got)
	}
	if got := push(secret); got != http.StatusAccepted || <-gate.asked != "source idp d1 compliant" {
		t.Errorf("a push: %d", got)
	}
	shown, err := c.Stream(ctx, "idp")
	text, _ := json.Marshal(shown)
	if err != nil || !slices.Equal(shown.Secrets, []string{"authorization"}) || shown.Endpoint != "https://gw.example.net/ssf/v1/idp" || shown.Status == nil || shown.Status.Accepted != 1 ||
		strings.Contains(string(text), "hunter2") {
		t.Errorf("shown is %s, %v", text, err)
	}
	// A change keeps the secrets that it does not name.
	q.Authorization, q.Revision, q.Settings.Audience = nil, shown.Revision, []string{"other"}
	if err := c.PutStream(ctx, admin, "idp", q); err != nil {
		t.Fatal(err)
	}
	until(t, "the change is taken up", func() bool { return push(secret) == http.StatusBadRequest })

	with := streamTable{sources{table}, c}
	if err := with.Delete(ctx, admin, "idp", 0); err != nil {
		t.Fatal(err)
	}
	until(t, "the stream is gone", func() bool { return push(secret) == http.StatusNotFound })
	names, err := s.Secrets().Names(ctx)
	if err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, streamPrefix) }) {
		t.Errorf("secrets left behind: %v, %v", names, err)
	}
	if _, err := c.Stream(ctx, "idp"); !errors.Is(err, console.ErrNotFound) {
		t.Errorf("settings left behind: %v", err)
	}
}

// sources is the console's table of sources.
type sources = table[quarantine.Source]

// until waits for something that another goroutine does at once.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain until " + what)
		}
	}
}
