package stream

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/internal/audit"
	"lazaret/quarantine"
	"lazaret/quarantine/source/webhook"
)

// memory is settings, secrets and notes, as the store keeps them.
type memory struct {
	mu       sync.Mutex
	settings map[string]json.RawMessage
	revision map[string]int64
	secrets  map[string][]byte
	notes    map[string][]byte
}

type settingsOf struct{ *memory }

func (m settingsOf) List(_ context.Context, prefix string) (map[string]json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]json.RawMessage{}
	for n, v := range m.settings {
		if strings.HasPrefix(n, prefix) {
			out[n] = v
		}
	}
	return out, nil
}

func (m settingsOf) Get(_ context.Context, name string) (json.RawMessage, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings[name], m.revision[name], nil
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
	return nil
}

func (m notesOf) List(_ context.Context, prefix string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]byte{}
	for n, v := range m.notes {
		if strings.HasPrefix(n, prefix) {
			out[n] = v
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

// logbook is an audit log in memory.
type logbook struct {
	mu   sync.Mutex
	all  []audit.Numbered
	more chan struct{} // closed when it grows
}

func newLogbook() *logbook { return &logbook{more: make(chan struct{})} }

func (l *logbook) write(e audit.Entry) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := uint64(len(l.all) + 1)
	e.ID, e.Revision = fmt.Sprintf("%024x", n), int64(10*n)
	if e.Time.IsZero() {
		e.Time = noon.Add(time.Duration(n) * time.Second)
	}
	l.all = append(l.all, audit.Numbered{Sequence: n, Entry: e})
	close(l.more)
	l.more = make(chan struct{})
	return n
}

func (l *logbook) last(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.all)), nil
}

// follower reads a logbook.
type follower struct {
	l  *logbook
	at uint64
}

func (f *follower) More(_ context.Context, limit int) ([]audit.Numbered, error) {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	some := slices.Clone(f.l.all[f.at:min(int(f.at)+limit, len(f.l.all))])
	f.at += uint64(len(some))
	return some, nil
}

func (f *follower) Next(ctx context.Context, limit int) ([]audit.Numbered, error) {
	for {
		f.l.mu.Lock()
		more := f.l.more
		f.l.mu.Unlock()
		if some, _ := f.More(ctx, limit); len(some) > 0 {
			return some, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-more:
		}
	}
}

func (f *follower) Close() error { return nil }

// lab is a manager over fakes; start and stop are a process's life.
type lab struct {
	t      testing.TB
	memory *memory
	book   *logbook
	cfg    Config
	*Manager
	stop func()
}

func newLab(t testing.TB) *lab {
	l := &lab{t: t, book: newLogbook(), memory: &memory{settings: map[string]json.RawMessage{}, revision: map[string]int64{}, secrets: map[string][]byte{}, notes: map[string][]byte{}}}
	l.cfg = Config{
		Settings: settingsOf{l.memory}, Secrets: secretsOf{l.memory}, Notes: notesOf{l.memory}, Last: l.book.last,
		Follow: func(after uint64) Tail { return &follower{l.book, after} }, Gateway: "gw", Issuer: "https://gw.example.com",
		Log: slog.New(slog.DiscardHandler), Loopback: true, First: time.Millisecond, Longest: 5 * time.Millisecond,
	}
	l.start()
	return l
}

// start runs a manager until stop, or the end of the test.
func (l *lab) start() {
	l.t.Helper()
	m, err := New(context.Background(), l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	l.Manager = m
	until(l.t, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.ctx != nil })
	func() { // until all are started
		m.changing.Lock()
		defer m.changing.Unlock()
	}()
	var once sync.Once
	l.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				l.t.Error(err)
			}
		})
	}
	l.t.Cleanup(l.stop)
}

// until waits for something that others bring about.
func until(t testing.TB, what func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !what() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("it does not come about")
		}
	}
}

func (l *lab) moved(device, from, to string) uint64 {
	detail := map[string]string{"from": from, "to": to, "pool": "full", "reason": "because", "rule": "release.report", "source": "mdm", "verdict": "compliant"}
	return l.book.write(audit.Entry{Actor: audit.Actor{Kind: "source", Name: "mdm", Address: "192.0.2.7:443"}, Action: "device.report", Device: device, Subject: "laptop-" + device, Detail: detail})
}

// receiver is a server that takes events, verifies them and remembers them in order.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	secrets []webhook.Secret
	got     []Event
	ids     []string
	bad     []string
	answer  func(w http.ResponseWriter, r *http.Request, n int) bool // true: answered; n-th request
	n       int
	busy    int // requests that are being answered
	life    int // of the sender, as quiet counts them
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		r.mu.Lock()
		defer r.mu.Unlock()
		return context.WithValue(ctx, lifeKey{}, r.life)
	}
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
}

// ServeHTTP verifies by the specification's own words: HMAC-SHA-256 over id.timestamp.body.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.busy++
	r.mu.Unlock()
	body, err := io.ReadAll(q.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy--
	if q.Context().Value(lifeKey{}) != r.life {
		return // its sender is gone, and has no answer
	}
	r.n++
	if err != nil || r.answer != nil && r.answer(w, q, r.n) {
		return
	}
	var e Event
	if json.Unmarshal(body, &e) != nil || q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json" || !verified(q.Header, body, r.secrets) {
		r.bad = append(r.bad, string(body))
	}
	r.got, r.ids = append(r.got, e), append(r.ids, q.Header.Get("webhook-id"))
	w.WriteHeader(http.StatusNoContent)
}

// lifeKey is where a connection's context has the sender's life that it was opened in.
type lifeKey struct{}

// quiet ends all connections and waits for what came over them: a request that was given up
// by who sent it must not be taken after those of its next life. One that is not with its
// handler yet is dropped there.
func (r *receiver) quiet(t testing.TB) {
	r.mu.Lock()
	r.life++
	r.mu.Unlock()
	r.CloseClientConnections()
	until(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.busy == 0 })
}

func (r *receiver) events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// add makes a stream to a receiver.
func (l *lab) add(r *receiver, name string, alter func(*Receiver)) {
	l.t.Helper()
	v := Receiver{Name: name, Kind: Webhook, URL: r.URL + "/in", CA: r.ca()}
	if alter != nil {
		alter(&v)
	}
	_, secret, err := l.Add(context.Background(), boss, v, "")
	if err != nil {
		l.t.Fatal(err)
	}
	s, err := webhook.ParseSecret(secret)
	if err != nil {
		l.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, s)
}

func (l *lab) state(name string) State {
	l.t.Helper()
	all, err := l.List(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, s := range all {
		if s.Receiver.Name == name {
			return s
		}
	}
	l.t.Fatalf("no stream %s", name)
	return State{}
}

func verified(h http.Header, body []byte, secrets []webhook.Secret) bool {
	at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		return false
	}
	for _, one := range strings.Fields(h.Get("webhook-signature")) {
		for _, s := range secrets {
			if one == "v1,"+mac(s, h.Get("webhook-id")+"."+h.Get("webhook-timestamp")+"."+string(body)) {
				return true
			}
		}
	}
	return false
}
