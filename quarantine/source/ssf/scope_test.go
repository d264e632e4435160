package ssf

import (
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
