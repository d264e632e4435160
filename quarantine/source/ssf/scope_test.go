package ssf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// forbid has the gate refuse devices as out of the source's scope.
func (l *lab) forbid(ids ...quarantine.ID) {
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	l.gate.fail = map[quarantine.ID]error{}
	for _, id := range ids {
		l.gate.fail[id] = fmt.Errorf("scope: %w", quarantine.ErrForbidden)
	}
}

// TestSignOutGoesOnBesideForbidden: a device out of scope does not keep the sessions of the
// user's others open. Only where all are out of scope is the token refused.
func TestSignOutGoesOnBesideForbidden(t *testing.T) {
	l := newLab(t, nil)
	l.forbid("d1")
	if err := l.send(l.token(set.SessionRevoked, user("ann@example.com"), nil)); err != nil {
		t.Errorf("one of two: %v", err)
	}
	if got := l.gate.told(); got != "d1 sign-out, d3 sign-out" {
		t.Errorf("the gate was asked %q", got)
	}
	if l.audit.count() != 1 {
		t.Errorf("%d entries in the audit log", l.audit.count())
	}
	l.forbid("d1", "d3")
	if err := l.send(l.token(set.SessionRevoked, user("ann@example.com"), nil)); !isCode(err, set.AccessDenied) {
		t.Errorf("all: %v", err)
	}
}

// TestStreamThatTheGateDoesNotKnowYet: what a stream says in the moment after it was made is
// neither taken nor refused for good.
func TestStreamThatTheGateDoesNotKnowYet(t *testing.T) {
	l := newLab(t, nil)
	l.gate.mu.Lock()
	l.gate.fail = map[quarantine.ID]error{"d1": quarantine.ErrUnknownSource, "d3": quarantine.ErrUnknownSource}
	l.gate.mu.Unlock()
	err := l.send(l.token(set.SessionRevoked, user("ann@example.com"), nil))
	if refusal, ok := errors.AsType[*set.Error](err); err == nil || ok {
		t.Errorf("got %v, %v; want it to be sent again", err, refusal)
	}
	if l.audit.count() != 0 {
		t.Errorf("%d entries in the audit log", l.audit.count())
	}
}

// TestAccountWordOutlivesForbiddenDevices: the word on an account stands, whatever devices
// the user has today that the source may not speak for.
func TestAccountWordOutlivesForbiddenDevices(t *testing.T) {
	l := newLab(t, nil)
	l.forbid("d1", "d3")
	if err := l.send(l.token(set.AccountDisabled, user("ann@example.com"), nil)); err != nil {
		t.Errorf("account-disabled: %v", err)
	}
	if standing, err := l.Standing(t.Context(), "idp"); err != nil || len(standing) != 1 {
		t.Errorf("there stand %v, %v", standing, err)
	}
	l.gate.mu.Lock()
	later := l.gate.records[0] // enrolled later, in scope
	later.ID, later.Serial, later.Name, later.Reports = "d9", "C9", "new", map[string]quarantine.Report{}
	l.gate.records = append(l.gate.records, later)
	l.gate.mu.Unlock()
	l.pass(time.Minute)
	l.gate.told()
	l.event(set.DeviceComplianceChange, device("C9"), map[string]any{"current_status": "compliant"})
	if got := l.gate.told(); got != "d9 noncompliant" {
		t.Errorf("a new device of the disabled account: %q", got)
	}
}

// TestAccountWordBesideForbidden: one device out of scope, and one that is bad for itself,
// which stays out when it is sound again.
func TestAccountWordBesideForbidden(t *testing.T) {
	l := newLab(t, nil)
	l.event(set.DeviceComplianceChange, device("d3"), bad())
	l.pass(time.Second)
	l.forbid("d1")
	if err := l.send(l.token(set.AccountDisabled, user("ann@example.com"), nil)); err != nil {
		t.Errorf("account-disabled: %v", err)
	}
	l.pass(time.Minute)
	l.gate.told()
	l.event(set.DeviceComplianceChange, device("d3"), map[string]any{"current_status": "compliant"})
	if got := l.gate.told(); got != "d3 noncompliant" {
		t.Errorf("a sound device of the disabled account: %q", got)
	}
}

// TestNotCompliantOfSimpleUser: a simple subject that is no device of ours is looked up as a
// user, to tighten; never to release, also where the user has one device alone.
func TestNotCompliantOfSimpleUser(t *testing.T) {
	for _, s := range []set.Subject{set.Opaque("ben"), {Format: set.FormatIssSub, Fields: map[string]string{"iss": issuer, "sub": "ben"}}, set.Email("ben")} {
		l := newLab(t, nil)
		l.event(set.DeviceComplianceChange, on(s), bad())
		if got := l.gate.told(); !strings.Contains(got, "d2 noncompliant") || !strings.Contains(got, "d5 noncompliant") {
			t.Errorf("%s: %q", s, got)
		}
	}
	l := newLab(t, nil)
	l.event(set.DeviceComplianceChange, device("ben"), bad())
	if got := l.gate.told(); got != "" {
		t.Errorf("a device that is called as a user: %q", got)
	}
	l.gate.mu.Lock()
	l.gate.records = l.gate.records[:1] // Ann has d1 alone
	l.gate.mu.Unlock()
	for _, s := range []*set.Subject{user("ann@example.com"), on(set.Opaque("ann@example.com"))} {
		l.event(set.DeviceComplianceChange, s, map[string]any{"current_status": "compliant"})
		if got := l.gate.told(); got != "" {
			t.Errorf("a user's name releases: %q", got)
		}
	}
}

// TestAccountsAreFull: a word that there is no room for, on a user without a device, is shown
// as the source's problem until there is room again.
func TestAccountsAreFull(t *testing.T) {
	l := newLab(t, nil)
	all := accounts{}
	for i := range maxAccounts {
		all[fmt.Sprint("u", i)] = account{Existence: accountWord{Event: disabled, At: then.Add(-time.Hour)}}
	}
	if err := l.writeAccounts(t.Context(), l.idp(), quarantine.Actor{}, all, 0); err != nil {
		t.Fatal(err)
	}
	problem := func() string {
		t.Helper()
		st, err := l.Status(t.Context(), "idp")
		if err != nil {
			t.Fatal(err)
		}
		h := l.ledger.List()
		if len(h) != 1 || h[0].Problem != st.Problem || h[0].Failures != 0 {
			t.Errorf("health is %+v, shown is %q", h, st.Problem)
		}
		return st.Problem
	}
	l.event(set.AccountDisabled, user("eve@example.com"), nil)
	if got := problem(); !strings.Contains(got, "4000 accounts") {
		t.Errorf("the problem is %q", got)
	}
	l.event(set.SessionRevoked, user("eve@example.com"), nil) // others that go well
	l.event(set.AccountEnabled, user("zoe@example.com"), nil)
	if problem() == "" {
		t.Error("the next token made the problem go")
	}
	if err := l.send(l.token(set.AccountDisabled, user("ann@example.com"), nil)); !errors.Is(err, errFull) || isRefusal(err) {
		t.Errorf("a user with devices: %v", err)
	}
	if err := l.Lift(t.Context(), quarantine.Actor{}, "idp", "u0"); err != nil {
		t.Fatal(err)
	}
	l.pass(time.Second)
	l.event(set.AccountDisabled, user("eve@example.com"), nil)
	l.event(set.SessionRevoked, user("eve@example.com"), nil)
	if got := problem(); got != "" {
		t.Errorf("with room again: %q", got)
	}
}
