package ssf

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/set"
)

const (
	issuer   = "https://idp.example.com/3456789"
	audience = "https://gw.example.net/ssf"
)

var then = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// lab is a receiver with one stream, "idp", over stand-ins that remember what they were asked.
type lab struct {
	*Receiver
	t      *testing.T
	gate   *fakeGate
	store  *fakeStore
	ledger *source.Ledger
	audit  *fakeAudit
	key    *set.Key
	dir    string

	mu  sync.Mutex
	now time.Time
}

func (l *lab) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *lab) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

// newLab makes a lab; change may change the stream's settings.
func newLab(t *testing.T, change func(*Settings)) *lab {
	t.Helper()
	key, err := set.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := set.JWKS(key)
	if err != nil {
		t.Fatal(err)
	}
	s := Settings{Issuer: issuer, Audience: []string{audience}, JWKS: jwks, Delivery: Push}
	if change != nil {
		change(&s)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, key: key, now: then, dir: t.TempDir(), ledger: &source.Ledger{}, audit: &fakeAudit{},
		gate:  &fakeGate{records: devices()},
		store: &fakeStore{streams: map[string]json.RawMessage{"idp": raw}, secrets: map[string]string{}, accounts: map[string]json.RawMessage{}}}
	l.start()
	return l
}

// start makes the receiver, as after a restart.
func (l *lab) start() {
	l.t.Helper()
	r, err := New(Config{Store: l.store, Gate: l.gate, Ledger: l.ledger, Auditor: l.audit, Dir: l.dir, Log: slog.New(slog.DiscardHandler), Now: l.clock})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Receiver = r
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.reload(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cancel(); r.stop() })
}

func (l *lab) idp() *stream {
	l.t.Helper()
	st, err := l.stream("idp")
	if err != nil {
		l.t.Fatal(err)
	}
	return st
}

// token is one with one event.
func (l *lab) token(event string, subject *set.Subject, claims map[string]any) set.Token {
	return set.Token{ID: set.NewID(), Issuer: issuer, Audience: []string{audience}, IssuedAt: l.clock(), Subject: subject,
		Events: []set.Event{{Type: event, Claims: set.Claims(claims)}}}
}

func (l *lab) sign(t set.Token) string {
	l.t.Helper()
	text, err := l.key.Sign(t)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

// send has a token taken.
func (l *lab) send(t set.Token) error {
	l.t.Helper()
	return l.take(l.t.Context(), l.idp(), l.sign(t), "192.0.2.1:1234")
}

// event sends one event, which must be taken.
func (l *lab) event(event string, subject *set.Subject, claims map[string]any) {
	l.t.Helper()
	if err := l.send(l.token(event, subject, claims)); err != nil {
		l.t.Fatalf("%s: %v", event, err)
	}
}

func on(s set.Subject) *set.Subject { return &s }

func device(id string) *set.Subject {
	return on(set.Complex(map[string]set.Subject{"device": set.Opaque(id)}))
}

func user(mail string) *set.Subject { return on(set.Email(mail)) }

// devices are of two users; d2 and d3 have one serial number, d4 is revoked, and d5 bears
// the serial number of d1 as its name.
func devices() []quarantine.Record {
	rec := func(id, name, owner, serial string) quarantine.Record {
		return quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(id), Name: name, Owner: owner, Serial: serial},
			Certificate: quarantine.Certificate{Serial: "0a1b2c" + id[1:]}, Reports: map[string]quarantine.Report{},
			Session: quarantine.UserSession{User: owner, At: then.Add(-time.Hour)}}
	}
	gone := rec("d4", "phone", "Ann@Example.com", "C4")
	gone.Revocation = quarantine.Decision{At: then.Add(-time.Hour)}
	return []quarantine.Record{rec("d1", "laptop", "Ann@Example.com", "C1"), rec("d2", "desk", "ben", "SAME"), rec("d3", "tablet", "ann@example.com", "SAME"),
		gone, rec("d5", "C1", "ben", "")}
}

// fakeGate files reports as the gate does, newest first, and remembers all that it is asked.
type fakeGate struct {
	mu      sync.Mutex
	records []quarantine.Record
	calls   []string // DEVICE VERDICT or DEVICE sign-out, in order
	reports []quarantine.Report
	fail    map[quarantine.ID]error
}

func (g *fakeGate) Reports(_ context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]quarantine.Result, len(all))
	for i, r := range all {
		verdict := string(r.Verdict)
		if verdict == "" {
			verdict = "unknown"
		}
		g.calls = append(g.calls, string(r.Device)+" "+verdict)
		g.reports = append(g.reports, r)
		if out[i].Err = g.fail[r.Device]; out[i].Err != nil {
			continue
		}
		for n := range g.records {
			if rec := &g.records[n]; rec.ID == r.Device {
				if last, ok := rec.Reports[by.Name]; ok && (r.At.Before(last.At) || r.At.Equal(last.At) && r.Sequence <= last.Sequence) {
					out[i].Err = quarantine.ErrStale
					continue
				}
				rec.Reports = map[string]quarantine.Report{by.Name: r}
			}
		}
	}
	return out
}

func (g *fakeGate) Change(_ context.Context, _ quarantine.Actor, c quarantine.Change) (quarantine.Placement, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, string(c.Device)+" "+string(c.Kind))
	return quarantine.Placement{}, g.fail[c.Device]
}

func (g *fakeGate) Device(ref string) (quarantine.Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		if string(r.ID) == ref || r.Name == ref {
			return r, nil
		}
	}
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

func (g *fakeGate) BySerial(serial string) (out []quarantine.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		if serial != "" && r.Serial == serial {
			out = append(out, r)
		}
	}
	return out
}

func (g *fakeGate) Devices() []quarantine.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.records)
}

// told is what the gate was asked since the last call, sorted.
func (g *fakeGate) told() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.calls)
	out := strings.Join(g.calls, ", ")
	g.calls = nil
	return out
}

// last is the last report.
func (g *fakeGate) last(t *testing.T) quarantine.Report {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.reports) == 0 {
		t.Fatal("nothing was reported")
	}
	return g.reports[len(g.reports)-1]
}

type fakeStore struct {
	mu       sync.Mutex
	streams  map[string]json.RawMessage
	secrets  map[string]string
	accounts map[string]json.RawMessage
	revision int64
	err      error // of everything about accounts and secrets
}

func (s *fakeStore) Streams(context.Context) (map[string]json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]json.RawMessage{}
	for name, raw := range s.streams {
		out[name] = raw
	}
	return out, nil
}

func (s *fakeStore) Secret(_ context.Context, stream string, kind Secret) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets[stream+"/"+string(kind)], s.err
}

func (s *fakeStore) Accounts(_ context.Context, stream string) (json.RawMessage, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accounts[stream], s.revision, s.err
}

func (s *fakeStore) PutAccounts(_ context.Context, _ quarantine.Actor, stream string, v json.RawMessage, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if revision != s.revision {
		return quarantine.ErrConflict
	}
	s.revision++
	s.accounts[stream] = v
	return nil
}

type fakeAudit struct {
	mu  sync.Mutex
	why []string
	by  []quarantine.Actor
}

func (a *fakeAudit) Refused(_ context.Context, by quarantine.Actor, _ quarantine.ID, why string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.why, a.by = append(a.why, why), append(a.by, by)
	return nil
}

func (a *fakeAudit) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.why)
}
