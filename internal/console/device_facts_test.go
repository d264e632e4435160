package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/audit"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// What people tell of a device reaches the gate as they said it.
func TestFactsAboutADevice(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		method, path, body string
		kind               quarantine.Kind
		right              func(quarantine.Change) bool
	}{
		{"POST", "waivers", `{"rule":"baseline/disk","for":"24h","why":"new disk"}`, quarantine.Clear, func(c quarantine.Change) bool {
			return c.Rule == "baseline/disk" && c.Until.Sub(c.At) == 24*time.Hour && c.Why == "new disk"
		}},
		{"PUT", "groups", `{"groups":["a","b"]}`, quarantine.Regroup, func(c quarantine.Change) bool { return fmt.Sprint(c.Groups) == "[a b]" }},
		{"POST", "session", `{"user":"ann","life":"30m","how":"card"}`, quarantine.SignIn, func(c quarantine.Change) bool {
			return c.Session.User == "ann" && c.Session.How == "card" && c.Session.Until.Sub(c.At) == 30*time.Minute
		}},
		{"POST", "session", `{"user":"ann","at":"2026-01-02T03:04:05Z","life":"30m"}`, quarantine.SignIn, func(c quarantine.Change) bool {
			return c.Session.Until.Equal(time.Date(2026, 1, 2, 3, 34, 5, 0, time.UTC))
		}},
		{"DELETE", "session", "", quarantine.SignOut, func(quarantine.Change) bool { return true }},
		{"POST", "wipe", `{"why":"stolen"}`, quarantine.Wipe, func(c quarantine.Change) bool { return c.Why == "stolen" }},
		{"POST", "unwipe", "", quarantine.Unwipe, func(quarantine.Change) bool { return true }},
	} {
		l.gate.changes = nil
		got := l.ask(l.API(), who{cert: l.admin}, c.method, "/api/v1/devices/alice-laptop/"+c.path, c.body)
		if got.Code != http.StatusOK || len(l.gate.changes) != 1 || l.gate.changes[0].Kind != c.kind || l.gate.changes[0].Device != "dev1" || !c.right(l.gate.changes[0]) {
			t.Errorf("%s %s %s: %d %s, changes %+v", c.method, c.path, c.body, got.Code, got.Body, l.gate.changes)
		}
	}
	l.gate.changes = nil
	for path, body := range map[string]string{"waivers": `{"rule":"a/b","for":"soon"}`, "session": `{"user":"ann","life":"-1h"}`, "groups": `{"group":"a"}`} {
		method := map[string]string{"groups": "PUT"}[path]
		if method == "" {
			method = "POST"
		}
		if got := l.ask(l.API(), who{cert: l.admin}, method, "/api/v1/devices/dev1/"+path, body); got.Code != http.StatusBadRequest || len(l.gate.changes) > 0 {
			t.Errorf("%s %s: %d %s", path, body, got.Code, got.Body)
		}
	}
}

// A device that has not been seen for long is noted as seen, and no other.
func TestContactIsNoted(t *testing.T) {
	l := newLab(t)
	call := func() int {
		l.gate.changes = nil
		r := httptest.NewRequest("GET", agentapi.StatusPath, nil)
		r.RemoteAddr, r.TLS = "10.66.0.2:4000", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.device}}
		l.Agent().ServeHTTP(httptest.NewRecorder(), r)
		return len(l.gate.changes)
	}
	if n := call(); n != 0 {
		t.Errorf("just seen: %d changes", n)
	}
	l.gate.records[0].Seen = time.Now().Add(-7 * time.Hour)
	if n := call(); n != 1 || l.gate.changes[0].Kind != quarantine.Contact {
		t.Errorf("seen 7 hours ago: %+v", l.gate.changes)
	}
}

// moves is an audit log of one device.
type moves struct {
	fakeAudit
	entries []audit.Entry
	device  string
}

func (m *moves) List(_ context.Context, device string, _ time.Time, _ int) ([]audit.Entry, error) {
	m.device = device
	return m.entries, nil
}

// A device's history is those of its audit entries in which it moved.
func TestHistoryTellsMoves(t *testing.T) {
	l := newLab(t)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	log := &moves{entries: []audit.Entry{
		{Time: at.Add(4 * time.Minute), Actor: audit.Actor{Kind: "policy", Name: "baseline v2/jail"}, Action: "device.block", Detail: map[string]string{"from": "quarantined", "to": "blocked", "rule": "block", "reason": "jailbroken"}},
		{Time: at.Add(3 * time.Minute), Actor: audit.Actor{Kind: "token", Name: "mdm"}, Action: "device.report", Detail: map[string]string{"from": "quarantined", "to": "quarantined"}},
		{Time: at.Add(2 * time.Minute), Actor: audit.Actor{Kind: "administrator", Name: "ada"}, Action: "device.review", Detail: map[string]string{"from": "routed", "to": "routed", "from pool": "full", "pool": "other"}},
		{Time: at.Add(time.Minute), Actor: audit.Actor{Kind: "administrator", Name: "ada"}, Action: "certificate.revoke"},
		{Time: at, Actor: audit.Actor{Kind: "otp", Name: "REF"}, Action: "device.enroll", Detail: map[string]string{"to": "quarantined", "pool": "quarantine"}},
	}}
	l.cfg.Audit = log
	got := l.ask(l.API(), who{token: "lzt_eyes"}, "GET", "/api/v1/devices/alice-laptop/history", "")
	var told []api.Move
	if err := json.Unmarshal(got.Body.Bytes(), &told); err != nil || got.Code != http.StatusOK || log.device != "dev1" {
		t.Fatalf("%d %s, %v, of %q", got.Code, got.Body, err, log.device)
	}
	if len(told) != 3 || told[0].To != "blocked" || told[0].By != "policy baseline v2/jail" || told[0].Reason != "jailbroken" || told[1].FromPool != "full" || told[2].Action != "device.enroll" {
		t.Errorf("told %+v", told)
	}
	for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "since=yesterday"} {
		if got := l.ask(l.API(), who{token: "lzt_eyes"}, "GET", "/api/v1/devices/dev1/history?"+bad, ""); got.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, got.Code)
		}
	}
}

// An explanation names set, version, rule, fact and report, whose fault it is, and what would
// change it.
func TestExplanationSaysWhatWouldChangeIt(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	against := []quarantine.Reason{
		{Rule: "disk", Text: "the disk is not encrypted", Set: "baseline", Version: 3, Fact: "disk.encrypted", Source: "mdm", At: at, Remedy: "encrypt it"},
		{Rule: "os", Text: "cannot be evaluated", Set: "baseline", Version: 3, Fault: true, Remedy: "mend the policy"},
		{Rule: "approval", Holds: true, Remedy: "never told"},
		{Rule: "again", Remedy: "encrypt it"},
	}
	r := record("dev1", "alice-laptop", 1, certificate(t, "dev1"))
	r.Failing = map[string]time.Time{"baseline/disk": at}
	r.Waivers = map[string]quarantine.Waiver{"baseline/screen": {Decision: quarantine.Decision{By: quarantine.Actor{Kind: "administrator", Name: "ada"}, At: at, Why: "a kiosk"}, Until: at.Add(time.Hour)}}
	r.Session = quarantine.UserSession{User: "ann", At: at, Until: at.Add(time.Hour)}
	x := showExplanation(quarantine.Explanation{Record: r, InForce: quarantine.Placement{Stage: quarantine.Quarantined, Reasons: against},
		Decided: quarantine.Placement{Failing: []string{"baseline/disk", "baseline/new"}}}, nil, nil)
	if fmt.Sprint(x.Remedies) != "[encrypt it mend the policy]" {
		t.Errorf("to change it: %q", x.Remedies)
	}
	first := x.Decided.Reasons[0]
	if first.Set != "baseline" || first.Version != 3 || first.Fact != "disk.encrypted" || first.Source != "mdm" || !first.At.Equal(at) || !x.Decided.Reasons[1].Fault {
		t.Errorf("reasons %+v", x.Decided.Reasons)
	}
	if len(x.Failing) != 2 || !x.Failing[0].Since.Equal(at) || !x.Failing[1].Since.IsZero() || len(x.Waivers) != 1 || x.Waivers[0].Why != "a kiosk" || x.Session.User != "ann" {
		t.Errorf("explained as %+v", x)
	}
}

// refusals remembers what was refused.
type refusals struct{ told []string }

func (r *refusals) Refused(_ context.Context, by quarantine.Actor, device quarantine.ID, why string) error {
	r.told = append(r.told, fmt.Sprintf("%s %s: %s", by.Name, device, why))
	return nil
}

// Reports that a source may not make are in the audit log, those of one request in bounds.
func TestRefusedReportsAreAudited(t *testing.T) {
	l := newLab(t)
	log := &refusals{}
	l.cfg.Refused = log
	l.gate.err = fmt.Errorf("taking it: %w", quarantine.ErrForbidden)
	one := `{"device":"alice-laptop","verdict":"compliant"}`
	if got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", one); got.Code != http.StatusForbidden || len(log.told) != 1 || !strings.HasPrefix(log.told[0], "mdm dev1: ") {
		t.Errorf("%d, told %q", got.Code, log.told)
	}
	if got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"dev2","verdict":"compliant","source":"scanner"}`); got.Code != http.StatusForbidden || len(log.told) != 2 {
		t.Errorf("another's name: %d, told %q", got.Code, log.told)
	}
	log.told = nil
	l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports/batch", "["+strings.TrimSuffix(strings.Repeat(one+",", 100), ",")+"]")
	if len(log.told) != maxRefusals+1 || !strings.Contains(log.told[maxRefusals], "80 more") {
		t.Errorf("100 refused in one request: %d entries, the last %q", len(log.told), log.told[len(log.told)-1])
	}
	log.told, l.gate.err = nil, errors.New("broken")
	if l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", one); len(log.told) != 0 {
		t.Errorf("another failure is told as a refusal: %q", log.told)
	}
}
