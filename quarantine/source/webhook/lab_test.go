package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// memory is settings, secrets and notes in one, as the store keeps them.
type memory struct {
	mu       sync.Mutex
	settings map[string]json.RawMessage
	revision map[string]int64
	secrets  map[string][]byte
	notes    map[string][]byte
	err      error
}

func newMemory() *memory {
	return &memory{settings: map[string]json.RawMessage{}, revision: map[string]int64{}, secrets: map[string][]byte{}, notes: map[string][]byte{}}
}

type settingsOf struct{ *memory }

func (m settingsOf) Get(_ context.Context, name string) (json.RawMessage, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings[name], m.revision[name], m.err
}

func (m settingsOf) Put(_ context.Context, _ quarantine.Actor, name string, value json.RawMessage, revision int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revision[name] != revision {
		return quarantine.ErrConflict
	}
	m.settings[name] = value
	m.revision[name]++
	return nil
}

func (m settingsOf) Delete(_ context.Context, _ quarantine.Actor, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.settings, name)
	delete(m.revision, name)
	return nil
}

type secretsOf struct{ *memory }

func (m secretsOf) Get(_ context.Context, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secrets[name] == nil {
		return nil, errors.New("no such secret")
	}
	return m.secrets[name], nil
}

func (m secretsOf) Put(_ context.Context, name string, plaintext []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets[name] = plaintext
	return nil
}

func (m secretsOf) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.secrets, name)
	return nil
}

type notesOf struct{ *memory }

func (m notesOf) Put(_ context.Context, name string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notes[name] = value
	return m.err
}

func (m notesOf) List(_ context.Context, prefix string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]byte{}
	for name, value := range m.notes {
		if strings.HasPrefix(name, prefix) {
			out[name] = value
		}
	}
	return out, nil
}

func (m notesOf) Delete(_ context.Context, names ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		delete(m.notes, n)
	}
	return nil
}

// gate remembers what it was asked, and answers by device.
type gate struct {
	mu    sync.Mutex
	calls int
	by    quarantine.Actor
	got   []quarantine.Report
	errs  map[quarantine.ID]error
}

func (g *gate) Reports(_ context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	g.by = by
	out := make([]quarantine.Result, len(all))
	for i, r := range all {
		g.got = append(g.got, r)
		out[i].Placement = quarantine.Placement{Stage: quarantine.Routed, Pool: "full", Until: noon.Add(time.Hour)}
		out[i].Err = g.errs[r.Device]
	}
	return out
}

func (g *gate) Change(context.Context, quarantine.Actor, quarantine.Change) (quarantine.Placement, error) {
	return quarantine.Placement{}, errors.New("a webhook changes nothing but by reports")
}

func (g *gate) Device(ref string) (quarantine.Record, error) {
	if strings.HasPrefix(ref, "dev") {
		return quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(ref)}}, nil
	}
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

func (g *gate) BySerial(serial string) []quarantine.Record {
	one := quarantine.Record{Device: quarantine.Device{ID: "dev-by-serial"}}
	switch serial {
	case "ONE":
		gone := quarantine.Record{Device: quarantine.Device{ID: "dev-gone", Stage: quarantine.Revoked}}
		return []quarantine.Record{gone, one}
	case "TWIN":
		return []quarantine.Record{one, one}
	}
	return nil
}

func (g *gate) Devices() []quarantine.Record { return nil }

type auditor struct {
	mu    sync.Mutex
	told  []string
	kinds map[string]int
}

func (a *auditor) Refused(_ context.Context, by quarantine.Actor, device quarantine.ID, why string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, fmt.Sprintf("%s %s %s: %s", by.Kind, by.Name, device, why))
	if a.kinds == nil {
		a.kinds = map[string]int{}
	}
	a.kinds[by.Kind]++
	return nil
}

// lab is a handler over fakes, with a clock that stands.
type lab struct {
	*Handler
	t      testing.TB
	memory *memory
	gate   *gate
	audit  *auditor
	keys   *Keys
	now    time.Time
	secret Secret
	key    Key
	n      int
}

var boss = quarantine.Actor{Kind: "administrator", Name: "root"}

func newLab(t testing.TB) *lab {
	l := &lab{t: t, memory: newMemory(), gate: &gate{errs: map[quarantine.ID]error{}}, audit: &auditor{}, now: noon}
	l.keys = &Keys{Settings: settingsOf{l.memory}, Secrets: secretsOf{l.memory}, Now: func() time.Time { return l.now }}
	var err error
	if l.key, l.secret, err = l.keys.Add(t.Context(), boss, "mdm"); err != nil {
		t.Fatal(err)
	}
	l.start()
	return l
}

// start makes the handler anew, as a restart does.
func (l *lab) start() {
	l.t.Helper()
	var err error
	l.Handler, err = New(context.Background(), Config{
		Gate: l.gate, Audit: l.audit, Ledger: &source.Ledger{}, Keys: l.keys, Notes: notesOf{l.memory}, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return l.now },
		Source: func(_ context.Context, name string) (quarantine.Source, bool, error) {
			kinds := map[string]quarantine.SourceKind{"mdm": quarantine.SourceWebhook, "other": quarantine.SourceWebhook, "api": quarantine.SourceAPI}
			kind, ok := kinds[name]
			return quarantine.Source{Name: name, Kind: kind}, ok, nil
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// send posts a message with these headers.
func (l *lab) send(name string, header http.Header, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/hooks/v1/"+name, strings.NewReader(body))
	maps.Copy(r.Header, header)
	mux := http.NewServeMux()
	mux.Handle(Pattern, l)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// signed are the headers of a new message.
func (l *lab) signed(body string) http.Header {
	l.n++
	h := http.Header{}
	Sign(h, fmt.Sprintf("msg_%d", l.n), l.now, []byte(body), l.secret)
	return h
}

func (l *lab) post(body string) (int, Answer, Problem) {
	l.t.Helper()
	return l.answer(l.send("mdm", l.signed(body), body))
}

func (l *lab) answer(w *httptest.ResponseRecorder) (int, Answer, Problem) {
	l.t.Helper()
	var a Answer
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		l.t.Fatalf("%s: %v", w.Body, err)
	}
	_ = json.Unmarshal(w.Body.Bytes(), &p)
	return w.Code, a, p
}

const good = `{"device":"dev1","verdict":"compliant","at":"2026-03-01T11:59:00Z","sequence":7,"validity":"30m","facts":{"os.name":"linux"},"detail":"fine"}`
