package console

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/enroll"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/agentapi"
	"lazaret/internal/audit"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// lab is a server over fakes that remember what they were asked.
type lab struct {
	*Server
	gate    *fakeGate
	admin   *x509.Certificate
	device  *x509.Certificate
	other   *x509.Certificate
	tokens  *fakeTable[Token]
	sources *fakeTable[quarantine.Source]
	log     *bytes.Buffer
}

type fakeGate struct {
	records []quarantine.Record
	changes []quarantine.Change
	err     error
	ready   chan struct{}
}

func (g *fakeGate) Change(_ context.Context, _ quarantine.Actor, c quarantine.Change) (quarantine.Placement, error) {
	g.changes = append(g.changes, c)
	return quarantine.Placement{Stage: quarantine.Quarantined, Pool: "quarantine"}, g.err
}

func (g *fakeGate) Reports(ctx context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	out := make([]quarantine.Result, len(all))
	for i := range all {
		out[i].Placement, out[i].Err = g.Change(ctx, by, quarantine.Change{Kind: quarantine.Reported, Device: all[i].Device, Report: &all[i]})
	}
	return out
}

func (g *fakeGate) Explain(ref string) (quarantine.Explanation, error) {
	for _, r := range g.records {
		if string(r.ID) == ref || r.Name == ref {
			return quarantine.Explanation{Record: r, Enforced: true}, nil
		}
	}
	return quarantine.Explanation{}, quarantine.ErrUnknownDevice
}
func (g *fakeGate) Devices() []quarantine.Record { return g.records }
func (g *fakeGate) BySerial(serial string) (out []quarantine.Record) {
	for _, r := range g.records {
		if serial != "" && r.Serial == serial {
			out = append(out, r)
		}
	}
	return out
}
func (g *fakeGate) HighestSeat() quarantine.Seat { return 3 }
func (g *fakeGate) Counts() map[quarantine.Stage]int {
	return map[quarantine.Stage]int{"quarantined": len(g.records)}
}
func (g *fakeGate) UsesProfile(name string) (quarantine.Record, bool) {
	return g.records[0], name == "default"
}
func (g *fakeGate) Ready() <-chan struct{} { return g.ready }
func (g *fakeGate) Wait(ctx context.Context, _ quarantine.ID, _ int64) (quarantine.Record, error) {
	<-ctx.Done()
	return quarantine.Record{}, ctx.Err()
}

type fakeDesk struct{}

func (fakeDesk) CreateOTP(_ context.Context, by quarantine.Actor, r enroll.Request) (code.Code, enroll.OTP, error) {
	if r.User == "" {
		return code.Code{}, enroll.OTP{}, &enroll.RequestError{Field: "user", Why: "is empty"}
	}
	c, err := code.Draw(rand.Reader)
	return c, enroll.OTP{Reference: c.Reference, User: r.User, Profile: r.Profile, State: enroll.Pending, By: by}, err
}
func (fakeDesk) CancelOTP(_ context.Context, _ quarantine.Actor, ref string) error {
	if ref != "2AJWTAEH" {
		return enroll.ErrNoOTP
	}
	return nil
}
func (fakeDesk) ListOTPs(context.Context) ([]enroll.OTP, error) {
	return []enroll.OTP{{Reference: "2AJWTAEH", Secret: []byte("sealed"), State: enroll.Pending}}, nil
}

type fakeTable[T any] struct{ items map[string]Item[T] }

func newTable[T any](named map[string]T) *fakeTable[T] {
	t := &fakeTable[T]{map[string]Item[T]{}}
	for n, v := range named {
		t.items[n] = Item[T]{Name: n, Value: v, Revision: 1}
	}
	return t
}
func (t *fakeTable[T]) List(context.Context) ([]Item[T], error) {
	return slices.SortedFunc(maps.Values(t.items), func(a, b Item[T]) int { return strings.Compare(a.Name, b.Name) }), nil
}
func (t *fakeTable[T]) Put(_ context.Context, _ quarantine.Actor, it Item[T]) (Item[T], error) {
	if t.items[it.Name].Revision != it.Revision {
		return it, quarantine.ErrConflict
	}
	it.Revision++
	t.items[it.Name] = it
	return it, nil
}
func (t *fakeTable[T]) Delete(_ context.Context, _ quarantine.Actor, name string, _ int64) error {
	if _, ok := t.items[name]; !ok {
		return ErrNotFound
	}
	delete(t.items, name)
	return nil
}

type fakeAudit struct{}

func (fakeAudit) List(context.Context, string, time.Time, int) ([]audit.Entry, error) {
	return []audit.Entry{}, nil
}
func (fakeAudit) Head(context.Context) (audit.Head, error) { return audit.Head{Sequence: 7}, nil }
func (fakeAudit) Export(_ context.Context, w io.Writer) error {
	_, err := w.Write([]byte("tar"))
	return err
}

// certificate makes a self-signed certificate with a key of its own; who issued it is
// said by the verifying functions of newLab.
func certificate(t *testing.T, cn string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// secrets are the texts of the lab's tokens, by name.
var secrets = map[string]string{"root": "lzt_root", "eyes": "lzt_eyes", "mdm": "lzt_mdm", "odd": "lzt_odd"}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{admin: certificate(t, "ada"), device: certificate(t, "dev1"), other: certificate(t, "dev1"), log: &bytes.Buffer{}}
	l.gate = &fakeGate{ready: make(chan struct{}), records: []quarantine.Record{
		record("dev1", "alice-laptop", 1, l.device), record("dev2", "bob-laptop", 2, certificate(t, "dev2")), record("dev3", "carol-laptop", 3, certificate(t, "dev3")),
	}}
	l.gate.records[1].Serial, l.gate.records[2].Serial, l.gate.records[0].Serial = "TWIN", "TWIN", "ONE"
	l.sources = newTable(map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true}, "scanner": {Name: "scanner"}})
	l.tokens = newTable(map[string]Token{
		"root": {Name: "root", Scope: "admin"}, "eyes": {Name: "eyes", Scope: "read"},
		"mdm": {Name: "mdm", Scope: "report", Source: "mdm"}, "odd": {Name: "odd", Scope: "sudo"},
	})
	only := func(want ...*x509.Certificate) func(*x509.Certificate, time.Time) error {
		return func(leaf *x509.Certificate, _ time.Time) error {
			for _, w := range want {
				if leaf.Equal(w) {
					return nil
				}
			}
			return errors.New("issued by another authority")
		}
	}
	pools := newTable(map[string]quarantine.Pool{
		"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.66.0.0/16"), IPv6: netip.MustParsePrefix("fd66::/64")},
		"full":       {Name: "full", IPv4: netip.MustParsePrefix("10.67.0.0/16"), Mark: 1},
	})
	s, err := New(Config{
		Gateway: "gw", EnrollURL: "https://gw.example.com", Gate: l.gate, Desk: fakeDesk{}, Audit: fakeAudit{}, Root: certificate(t, "root"),
		Organization: Organization{
			Pools: pools, Profiles: newTable(map[string]quarantine.Profile{"default": {Name: "default", Pool: "full"}}),
			Sources: l.sources, Tokens: l.tokens,
			TokenBySum: func(_ context.Context, sum [32]byte) (Token, error) {
				for name, it := range l.tokens.items {
					if text, fixed := secrets[name]; it.Value.Sum == sum || fixed && sha256.Sum256([]byte(text)) == sum {
						it.Value.Sum = sum
						return it.Value, nil
					}
				}
				return Token{}, ErrNotFound
			},
		},
		Administrator: only(l.admin), Device: only(l.device, l.other),
		Settings:     func(context.Context, quarantine.Record) (cmp.Settings, error) { return cmp.Settings{Version: 1}, nil },
		ListenerKeys: func() [][]byte { return [][]byte{{1}} },
		Log:          slog.New(slog.NewTextHandler(l.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Server = s
	return l
}

func record(id, name string, seat quarantine.Seat, cert *x509.Certificate) quarantine.Record {
	r := quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(id), Name: name, Seat: seat, Key: tunnel.Key{byte(seat)}, Stage: quarantine.Quarantined, Pool: "quarantine"}}
	r.Certificate.SPKI = sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	r.Profile, r.Proven, r.Confirmed, r.Seen = "default", true, true, time.Now()
	return r
}

// who are the identities every route is tried with.
type who struct {
	name  string
	cert  *x509.Certificate
	token string
}

func (l *lab) everyone() []who {
	return []who{
		{name: "nobody"}, {name: "administrator", cert: l.admin}, {name: "device", cert: l.device},
		{name: "stranger", cert: certificateLike(l.admin)}, {name: "root", token: "lzt_root"}, {name: "eyes", token: "lzt_eyes"},
		{name: "mdm", token: "lzt_mdm"}, {name: "odd", token: "lzt_odd"}, {name: "guess", token: "lzt_guess"},
	}
}

// certificateLike is another certificate with the administrator's name.
func certificateLike(c *x509.Certificate) *x509.Certificate {
	twin := *c
	twin.Raw = append(slices.Clone(c.Raw), 0)
	return &twin
}

func (l *lab) ask(h http.Handler, w who, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if w.cert != nil {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{w.cert}}
	}
	if w.token != "" {
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	out := httptest.NewRecorder()
	h.ServeHTTP(out, r)
	return out
}

// TestEveryRouteAgainstEveryRole states by hand who may do what; a route that is not in
// this table fails.
func TestEveryRouteAgainstEveryRole(t *testing.T) {
	reading := []string{"administrator", "root", "eyes"}
	writing := []string{"administrator", "root"}
	table := map[string][]string{
		"GET /api/v1/openapi.json": {"nobody", "administrator", "device", "stranger", "root", "eyes", "mdm", "odd", "guess"},
		"GET /api/v1/roles":        {"nobody", "administrator", "device", "stranger", "root", "eyes", "mdm", "odd", "guess"},
		"GET /api/v1/root":         {"nobody", "administrator", "device", "stranger", "root", "eyes", "mdm", "odd", "guess"},
		"GET /api/v1/status":       reading, "GET /api/v1/otps": reading, "POST /api/v1/otps": writing,
		"DELETE /api/v1/otps/{reference}": writing, "GET /api/v1/devices": reading, "GET /api/v1/devices/{device}": reading,
		"GET /api/v1/devices/{device}/explain": reading, "GET /api/v1/devices/{device}/tunnel": reading, "POST /api/v1/devices/{device}/{action}": writing,
		"GET /api/v1/devices/{device}/history": reading, "POST /api/v1/devices/{device}/waivers": writing, "PUT /api/v1/devices/{device}/groups": writing,
		"POST /api/v1/devices/{device}/session": writing, "DELETE /api/v1/devices/{device}/session": writing,
		"GET /api/v1/devices/{device}/commands": reading, "GET /api/v1/devices/{device}/commands/{command}": reading,
		"POST /api/v1/devices/{device}/commands": writing, "DELETE /api/v1/devices/{device}/commands/{command}": writing,
		"POST /api/v1/reports": {"administrator", "root", "mdm"}, "POST /api/v1/reports/batch": {"administrator", "root", "mdm"},
		"GET /api/v1/pools": reading, "GET /api/v1/pools/{name}/names": reading, "PUT /api/v1/pools/{name}": writing, "DELETE /api/v1/pools/{name}": writing,
		"GET /api/v1/profiles": reading, "PUT /api/v1/profiles/{name}": writing, "DELETE /api/v1/profiles/{name}": writing,
		"GET /api/v1/sources": reading, "PUT /api/v1/sources/{name}": writing, "DELETE /api/v1/sources/{name}": writing,
		"GET /api/v1/sources/{name}": reading, "GET /api/v1/sources/health": reading, "GET /api/v1/sources/{name}/health": reading,
		"GET /api/v1/sources/{name}/settings": reading, "PUT /api/v1/sources/{name}/settings": writing,
		"GET /api/v1/policies": reading, "GET /api/v1/policies/{name}": reading, "PUT /api/v1/policies/{name}": writing, "DELETE /api/v1/policies/{name}": writing,
		"POST /api/v1/policies/check": reading, "POST /api/v1/policies/try": reading, "GET /api/v1/facts": reading,
		"GET /api/v1/conduct": reading, "PUT /api/v1/conduct": writing,
		"GET /api/v1/hooks": writing, "GET /api/v1/hooks/{source}": writing, "PUT /api/v1/hooks/{source}": writing,
		"POST /api/v1/hooks/{source}/keys": writing, "DELETE /api/v1/hooks/{source}/keys/{key}": writing,
		"GET /api/v1/sources/{name}/ssf": reading, "PUT /api/v1/sources/{name}/ssf": writing, "POST /api/v1/sources/{name}/ssf/verify": writing,
		"PUT /api/v1/sources/{name}/ssf/status": writing, "DELETE /api/v1/sources/{name}/ssf/accounts/{account}": writing,
		"GET /api/v1/streams": reading, "POST /api/v1/streams": writing, "GET /api/v1/streams/{name}": reading, "PATCH /api/v1/streams/{name}": writing,
		"DELETE /api/v1/streams/{name}": writing, "POST /api/v1/streams/{name}/test": writing, "POST /api/v1/streams/{name}/resume": writing,
		"POST /api/v1/streams/{name}/keys": writing, "DELETE /api/v1/streams/{name}/keys/{key}": writing, "POST /api/v1/streams/{name}/token": writing,
		"POST /api/v1/stream-signer": writing, "GET /api/v1/tokens": writing, "POST /api/v1/tokens": writing, "DELETE /api/v1/tokens/{name}": writing,
		"GET /api/v1/tokens/{name}": writing, "POST /api/v1/devices/{device}/wipe": writing, "POST /api/v1/devices/{device}/unwipe": writing,
		"GET /api/v1/attestation": reading, "PUT /api/v1/attestation": writing, "GET /api/v1/devices/{device}/attestation": reading,
		"POST /api/v1/devices/{device}/attestation/accept": writing, "DELETE /api/v1/devices/{device}/attestation": writing,
		"GET /api/v1/alerts": reading, "POST /api/v1/alerts": writing, "GET /api/v1/outlets": reading, "PUT /api/v1/outlets/{name}": writing,
		"POST /api/v1/outlets/{name}/test": writing, "DELETE /api/v1/outlets/{name}": writing,
		"GET /api/v1/machine": reading, "GET /api/v1/machine/log": reading, "GET /api/v1/machine/network": reading,
		"GET /api/v1/machine/updates": reading, "PUT /api/v1/machine/network": writing, "POST /api/v1/machine/network/confirm": writing,
		"POST /api/v1/machine/update": writing, "PUT /api/v1/machine/updates": writing, "POST /api/v1/machine/updates/check": writing,
		"GET /api/v1/machine/check": reading, "GET /api/v1/machine/inventory": reading, "POST /api/v1/machine/clock/accept": writing,
		"POST /api/v1/machine/passphrase": writing, "POST /api/v1/machine/seal": writing, "POST /api/v1/machine/recovery": writing,
		"POST /api/v1/machine/rollback": writing, "POST /api/v1/machine/reboot": writing, "POST /api/v1/machine/poweroff": writing,
		"POST /api/v1/machine/reset": writing,
		"GET /api/v1/certificate":    reading, "PUT /api/v1/certificate": writing, "DELETE /api/v1/certificate": writing,
		"POST /api/v1/certificate/request": writing, "PUT /api/v1/certificate/acme": writing, "DELETE /api/v1/certificate/acme": writing,
		"POST /api/v1/certificate/renew": writing,
		"GET /api/v1/audit":              reading, "GET /api/v1/audit/head": reading, "GET /api/v1/audit/export": reading,
	}
	for _, rt := range newLab(t).routes() {
		allowed, known := table[rt.pattern]
		if !known {
			t.Errorf("%s is not in this table: decide who may use it", rt.pattern)
			continue
		}
		method, path, _ := strings.Cut(rt.pattern, " ")
		path = strings.NewReplacer("{reference}", "2AJWTAEH", "{device}", "dev1", "{action}", "block", "{name}", "nothing").Replace(path)
		l := newLab(t)
		for _, w := range l.everyone() {
			before := len(l.gate.changes)
			got := l.ask(l.API(), w, method, path, "{}").Code
			refused := got == http.StatusUnauthorized || got == http.StatusForbidden
			if may := slices.Contains(allowed, w.name); may == refused {
				t.Errorf("%s as %s: status %d, may use it: %v", rt.pattern, w.name, got, may)
			}
			if refused && len(l.gate.changes) != before {
				t.Errorf("%s as %s: refused, yet something changed", rt.pattern, w.name)
			}
		}
	}
	l := newLab(t)
	for _, path := range []string{"/", "/api/v1/", "/api/v2/status", "/api/v1/devices/dev1/block/x"} {
		if got := l.ask(l.API(), who{cert: l.admin}, "GET", path, "").Code; got != http.StatusNotFound && got != http.StatusMethodNotAllowed {
			t.Errorf("%s answers %d", path, got)
		}
	}
}

// TestReportingTokenSpeaksForItsSourceAlone (D4).
func TestReportingTokenSpeaksForItsSourceAlone(t *testing.T) {
	l := newLab(t)
	mdm := who{token: "lzt_mdm"}
	body := func(source string) string {
		return fmt.Sprintf(`{"device":"dev1","verdict":"compliant","source":%q,"validity":"30m"}`, source)
	}
	for _, source := range []string{"scanner", "agent", "MDM"} {
		if got := l.ask(l.API(), mdm, "POST", "/api/v1/reports", body(source)); got.Code != http.StatusForbidden {
			t.Errorf("as %s: %d %s", source, got.Code, got.Body)
		}
	}
	for _, source := range []string{"", "mdm"} {
		if got := l.ask(l.API(), mdm, "POST", "/api/v1/reports", body(source)); got.Code != http.StatusOK {
			t.Errorf("as %q: %d %s", source, got.Code, got.Body)
		}
	}
	if len(l.gate.changes) != 2 || l.gate.changes[0].Report.Source != "mdm" || l.gate.changes[0].Report.Validity != 30*time.Minute {
		t.Errorf("the gate was told %+v", l.gate.changes)
	}
	if got := l.ask(l.API(), who{cert: l.admin}, "POST", "/api/v1/reports", body("agent")); got.Code != http.StatusForbidden {
		t.Errorf("an administrator reported as the device's own agent: %d", got.Code)
	}
}

func TestTokensAreShownOnceAndKeptAsHash(t *testing.T) {
	l := newLab(t)
	got := l.ask(l.API(), who{cert: l.admin}, "POST", "/api/v1/tokens", `{"name":"new","scope":"report","source":"mdm"}`)
	var made api.Token
	if err := json.Unmarshal(got.Body.Bytes(), &made); err != nil || got.Code != http.StatusCreated || len(made.Secret) < 30 {
		t.Fatalf("%d %s %v", got.Code, got.Body, err)
	}
	if kept := l.tokens.items["new"].Value; kept.Sum != sha256.Sum256([]byte(made.Secret)) || strings.Contains(fmt.Sprintf("%+v", kept), made.Secret) {
		t.Errorf("kept as %+v", kept)
	}
	if list := l.ask(l.API(), who{cert: l.admin}, "GET", "/api/v1/tokens", "").Body.String(); strings.Contains(list, made.Secret) || strings.Contains(list, `"secret"`) {
		t.Errorf("the list shows secrets: %s", list)
	}
	for body, want := range map[string]int{
		`{"name":"x","scope":"sudo"}`: http.StatusBadRequest, `{"name":"x","scope":"report"}`: http.StatusBadRequest,
		`{"name":"x","scope":"report","source":"nobody"}`: http.StatusBadRequest, `{"name":"x","scope":"read","source":"mdm"}`: http.StatusBadRequest,
		`{"name":"../x","scope":"read"}`: http.StatusBadRequest, `{"name":"x","scope":"read","admin":true}`: http.StatusBadRequest,
	} {
		if got := l.ask(l.API(), who{cert: l.admin}, "POST", "/api/v1/tokens", body); got.Code != want {
			t.Errorf("%s: %d %s", body, got.Code, got.Body)
		}
	}
}

func TestErrorsSayWhatToDoAndHideTheRest(t *testing.T) {
	for err, want := range map[error]int{
		quarantine.ErrStale: 409, quarantine.ErrFuture: 422, quarantine.ErrFinal: 409, quarantine.ErrForbidden: 403,
		quarantine.ErrUnknownDevice: 404, errors.New("disk sector 7 is on fire"): 500,
	} {
		l := newLab(t)
		l.gate.err = fmt.Errorf("taking report: %w", err)
		got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant"}`)
		if got.Code != want {
			t.Errorf("%v: %d %s", err, got.Code, got.Body)
		}
		if want == 500 && (strings.Contains(got.Body.String(), "fire") || !strings.Contains(l.log.String(), "fire")) {
			t.Errorf("the cause belongs in the log alone: %s", got.Body)
		}
		if p := (api.Problem{}); want != 500 && (json.Unmarshal(got.Body.Bytes(), &p) != nil || p.Remedy == "") {
			t.Errorf("%v: no remedy in %s", err, got.Body)
		}
	}
	l := newLab(t)
	l.gate.err = fmt.Errorf("applying: %w", quarantine.ErrNotEnforced)
	got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant"}`)
	if got.Code != http.StatusAccepted || !strings.Contains(got.Body.String(), `"enforced":false`) {
		t.Errorf("recorded but not enforced: %d %s", got.Code, got.Body)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/api/v1/reports", ``}, {"POST", "/api/v1/reports", `{`}, {"POST", "/api/v1/reports", `[]`},
		{"POST", "/api/v1/reports", `{"device":"dev1","verdict":"maybe","source":"mdm"}`},
		{"POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant","source":"mdm","validity":"-1h"}`},
		{"POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant","source":"mdm"} {}`},
		{"POST", "/api/v1/reports", `{"device":"TWIN","verdict":"compliant","source":"mdm"}`},
		{"POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant","source":"mdm","detail":"` + strings.Repeat("x", 2000) + `"}`},
		{"PUT", "/api/v1/pools/full", `{"ipv4":"10.66.0.0/24"}`}, {"PUT", "/api/v1/pools/full", `{"ipv4":"10.70.0.0/16","reach":["192.0.2.10 sctp/1"]}`},
		{"PUT", "/api/v1/pools/x", `{"name":"y","ipv4":"10.70.0.0/16"}`}, {"PUT", "/api/v1/profiles/p", `{"pool":"quarantine"}`},
		{"PUT", "/api/v1/sources/agent", `{"may_release":true}`}, {"GET", "/api/v1/audit?limit=0", ``}, {"GET", "/api/v1/audit?since=yesterday", ``},
	} {
		got := l.ask(l.API(), who{cert: l.admin}, c.method, c.path, c.body)
		if got.Code != http.StatusBadRequest {
			t.Errorf("%s %s %.60s: %d %s", c.method, c.path, c.body, got.Code, got.Body)
		}
	}
	if got := l.ask(l.API(), who{cert: l.admin}, "POST", "/api/v1/otps", `{"user":"`+strings.Repeat("x", maxBody)+`"}`); got.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("an oversized body: %d", got.Code)
	}
	if len(l.gate.changes) > 0 {
		t.Errorf("something reached the gate: %+v", l.gate.changes)
	}
	// A serial number that only one device has names it; it is no credential, the token is.
	if got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"ONE","verdict":"compliant"}`); got.Code != http.StatusOK || l.gate.changes[0].Device != "dev1" {
		t.Errorf("by serial number: %d %s", got.Code, got.Body)
	}
}

func TestClosedNetworks(t *testing.T) {
	l := newLab(t)
	l.cfg.From = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if got := l.ask(l.API(), who{cert: l.admin}, "GET", "/api/v1/status", ""); got.Code != http.StatusForbidden { // httptest asks from 192.0.2.1
		t.Errorf("from outside: %d", got.Code)
	}
	l.cfg.From = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	if got := l.ask(l.API(), who{cert: l.admin}, "GET", "/api/v1/status", ""); got.Code != http.StatusOK {
		t.Errorf("from inside: %d", got.Code)
	}
}

// TestAgentIsBoundToCertificateAndAddress: certificate, key, seat and tunnel address must
// belong together (Headscale 0.26.1: node key not bound to machine key).
func TestAgentIsBoundToCertificateAndAddress(t *testing.T) {
	for name, c := range map[string]struct {
		cert func(*lab) *x509.Certificate
		from string
		with func(*quarantine.Record)
		want int
	}{
		"its own":                   {func(l *lab) *x509.Certificate { return l.device }, "10.66.0.2:4000", nil, 200},
		"its own, IPv6":             {func(l *lab) *x509.Certificate { return l.device }, "[fd66::2]:4000", nil, 200},
		"no certificate":            {func(*lab) *x509.Certificate { return nil }, "10.66.0.2:4000", nil, 403},
		"an administrator's":        {func(l *lab) *x509.Certificate { return l.admin }, "10.66.0.2:4000", nil, 403},
		"an older certificate":      {func(l *lab) *x509.Certificate { return l.other }, "10.66.0.2:4000", nil, 403},
		"another device's address":  {func(l *lab) *x509.Certificate { return l.device }, "10.66.0.3:4000", nil, 403},
		"from outside":              {func(l *lab) *x509.Certificate { return l.device }, "198.51.100.9:4000", nil, 403},
		"pool address, not routed":  {func(l *lab) *x509.Certificate { return l.device }, "10.67.0.2:4000", nil, 403},
		"pool address while routed": {func(l *lab) *x509.Certificate { return l.device }, "10.67.0.2:4000", func(r *quarantine.Record) { r.Stage, r.Pool = quarantine.Routed, "full" }, 200},
		"blocked":                   {func(l *lab) *x509.Certificate { return l.device }, "10.66.0.2:4000", func(r *quarantine.Record) { r.Stage = quarantine.Blocked }, 403},
		"no stage":                  {func(l *lab) *x509.Certificate { return l.device }, "10.66.0.2:4000", func(r *quarantine.Record) { r.Stage = "" }, 403},
	} {
		l := newLab(t)
		if c.with != nil {
			c.with(&l.gate.records[0])
		}
		r := httptest.NewRequest("GET", agentapi.StatusPath, nil)
		r.RemoteAddr = c.from
		if cert := c.cert(l); cert != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		}
		w := httptest.NewRecorder()
		l.Agent().ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// TestUnprovenDeviceProvesItselfByComing: a stock client's first call from its own seat
// is the proof that it holds the WireGuard key.
func TestUnprovenDeviceProvesItselfByComing(t *testing.T) {
	l := newLab(t)
	l.gate.records[0].Proven, l.gate.records[0].Confirmed = false, true
	r := httptest.NewRequest("POST", agentapi.ReportPath, strings.NewReader(`{"verdict":"compliant","sequence":4,"at":"2026-01-31T08:00:00Z"}`))
	r.RemoteAddr, r.TLS = "10.66.0.2:4000", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.device}}
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	l.Agent().ServeHTTP(w, r)
	if w.Code != 200 || len(l.gate.changes) != 2 || l.gate.changes[0].Kind != quarantine.Prove || l.gate.changes[0].Key != l.gate.records[0].Key {
		t.Fatalf("%d %s, changes %+v", w.Code, w.Body, l.gate.changes)
	}
	if rep := l.gate.changes[1].Report; rep.Source != quarantine.AgentSource || rep.Device != "dev1" || rep.Sequence != 4 {
		t.Errorf("reported %+v", rep)
	}
}

// TestSeenDeviceIsConfirmed: a device whose certConf was lost is not withdrawn once it
// comes with its certificate.
func TestSeenDeviceIsConfirmed(t *testing.T) {
	l := newLab(t)
	l.gate.records[0].Confirmed = false
	r := httptest.NewRequest("GET", agentapi.StatusPath, nil)
	r.RemoteAddr, r.TLS = "10.66.0.2:4000", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.device}}
	l.Agent().ServeHTTP(httptest.NewRecorder(), r)
	if len(l.gate.changes) != 1 || l.gate.changes[0].Kind != quarantine.Confirm {
		t.Errorf("the gate was told %+v", l.gate.changes)
	}
}

// TestOneDeviceCannotFloodTheGate: reports of one device are paced, others go on, and a
// paced device gets its turn again.
func TestOneDeviceCannotFloodTheGate(t *testing.T) {
	now := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	p := newPace(func() time.Time { return now }, reportBurst)
	taken := 0
	for range 1000 {
		if done, err := p.enter("d-1"); err == nil {
			taken++
			done()
		}
	}
	if taken != reportBurst {
		t.Errorf("%d reports at once, want %d", taken, reportBurst)
	}
	if done, err := p.enter("d-2"); err != nil {
		t.Errorf("another device waits for the first: %v", err)
	} else if _, err := p.enter("d-2"); err == nil {
		t.Error("two reports of one device were under way")
	} else {
		done()
	}
	now = now.Add(reportEvery)
	if _, err := p.enter("d-1"); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

// TestOtherSitesCannotUseABrowsersCertificate.
func TestOtherSitesCannotUseABrowsersCertificate(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct{ name, header, value, kind string }{
		{"a foreign origin", "Origin", "https://evil.example", "application/json"}, {"a cross-site form", "Sec-Fetch-Site", "cross-site", "application/json"},
		{"a plain form", "X-None", "", "text/plain"}, {"no type", "X-None", "", ""},
	} {
		r := httptest.NewRequest("POST", "/api/v1/devices/dev1/block", strings.NewReader("{}"))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.admin}}
		r.Header.Set(c.header, c.value)
		r.Header.Set("Content-Type", c.kind)
		w := httptest.NewRecorder()
		l.API().ServeHTTP(w, r)
		if w.Code != http.StatusForbidden && w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if len(l.gate.changes) > 0 {
		t.Errorf("something changed: %+v", l.gate.changes)
	}
}

// TestReportTokenWithoutSourceIsNobody, and learns nothing but the stage.
func TestReportTokenWithoutSourceIsNobody(t *testing.T) {
	l := newLab(t)
	got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant"}`)
	if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), `"reasons":[]`) {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	it := l.tokens.items["mdm"]
	it.Value.Source = ""
	l.tokens.items["mdm"] = it
	if got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"dev1","verdict":"compliant","source":"scanner"}`); got.Code != http.StatusForbidden {
		t.Errorf("without a source: %d %s", got.Code, got.Body)
	}
}

// TestManyReports: a line for each, in order; what is wrong with one stops no other, and a
// token speaks for its source alone, in every one of them.
func TestManyReports(t *testing.T) {
	l := newLab(t)
	got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports/batch",
		`[{"device":"dev1","verdict":"compliant"},{"device":"none","verdict":"compliant"},{"device":"dev1","verdict":"maybe"},
		{"device":"dev1","verdict":"compliant","source":"scanner"},{"device":"dev1","verdict":"noncompliant","source":"mdm"}]`)
	var told []api.Reported
	if err := json.Unmarshal(got.Body.Bytes(), &told); err != nil || got.Code != http.StatusOK || len(told) != 5 {
		t.Fatalf("%d %s, %v", got.Code, got.Body, err)
	}
	for i, want := range []bool{true, false, false, false, true} {
		if r := told[i]; (r.Decision != nil) != want || (r.Problem == nil) != want || r.Enforced != want {
			t.Errorf("report %d: %+v", i, r)
		}
	}
	if len(l.gate.changes) != 2 || l.gate.changes[0].Report.Source != "mdm" || l.gate.changes[1].Report.Verdict != quarantine.NonCompliant {
		t.Errorf("taken: %+v", l.gate.changes)
	}
	l.gate.err = fmt.Errorf("taking it: %w", errors.New("disk sector 7 is on fire"))
	got = l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports/batch", `[{"device":"dev1","verdict":"compliant"}]`)
	if strings.Contains(got.Body.String(), "fire") || !strings.Contains(got.Body.String(), "internal error") || !strings.Contains(l.log.String(), "fire") {
		t.Errorf("the cause belongs in the log alone: %s", got.Body)
	}
	l.gate.err, l.gate.changes = nil, nil
	many := "[" + strings.TrimSuffix(strings.Repeat(`{"device":"dev1","verdict":"compliant"},`, maxReports+1), ",") + "]"
	for body, want := range map[string]int{many: 400, "[]": 200, "{}": 400, "": 400, "[" + strings.Repeat(" ", maxBatch) + "]": 413} {
		if got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports/batch", body); got.Code != want {
			t.Errorf("%.20q of %d bytes: %d, want %d", body, len(body), got.Code, want)
		}
	}
	if len(l.gate.changes) > 0 {
		t.Errorf("%d reports of refused requests were taken", len(l.gate.changes))
	}
}

func FuzzAddReach(f *testing.F) {
	for _, s := range []string{"192.0.2.10 tcp/443", "2001:db8::/64 udp/5000-5999", "10.0.0.0/8 icmp", "10.0.0.0/8", "x", "192.0.2.1/24 tcp/1", "MDM.example.com. tcp/443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var p quarantine.Pool
		if AddReach(&p, text) != nil {
			return
		}
		for _, written := range showPool(Item[quarantine.Pool]{Value: p}).Reach {
			var again quarantine.Pool
			if err := AddReach(&again, written); err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("%q reads as %+v, which is written %q and reads as %+v (%v)", text, p, written, again, err)
			}
		}
	})
}
