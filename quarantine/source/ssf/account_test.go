package ssf

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

func (l *lab) verdicts(t *testing.T) string {
	t.Helper()
	out := ""
	for _, id := range []string{"d1", "d3"} {
		r, err := l.gate.Device(id)
		if err != nil {
			t.Fatal(err)
		}
		switch v := r.Reports["idp"].Verdict; v {
		case "":
			out += "-"
		default:
			out += string(v[:1])
		}
	}
	return out
}

// TestAccountComesBeforeItsDevices: what stands against an account is not undone by a sound
// device of it, and the account being enabled again releases nobody.
func TestAccountComesBeforeItsDevices(t *testing.T) {
	ann := user("Ann@example.com")
	comply := func(l *lab, id, status string) {
		l.event(set.DeviceComplianceChange, device(id), map[string]any{"current_status": status})
	}
	steps := []struct {
		do   func(l *lab)
		want string // of d1 and d3: compliant, noncompliant or unknown
	}{
		{func(l *lab) { comply(l, "d1", "compliant") }, "c-"},
		{func(l *lab) { l.event(set.AccountDisabled, ann, nil) }, "nn"},
		{func(l *lab) { comply(l, "d1", "compliant") }, "nn"},
		{func(l *lab) { comply(l, "d3", "not-compliant") }, "nn"},
		{func(l *lab) { l.event(set.AccountEnabled, ann, nil) }, "-n"}, // d3 is not compliant by itself
		{func(l *lab) { comply(l, "d1", "compliant") }, "cn"},
		{func(l *lab) { comply(l, "d3", "compliant") }, "cc"},
		{func(l *lab) { l.event(set.CredentialCompromise, ann, map[string]any{"credential_type": "password"}) }, "nn"},
		{func(l *lab) { l.event(set.AccountEnabled, ann, nil) }, "nn"},
		{func(l *lab) {
			l.event(set.CredentialChange, ann, map[string]any{"credential_type": "phone-sms", "change_type": "update"})
		}, "nn"},
		{func(l *lab) {
			l.event(set.CredentialChange, ann, map[string]any{"credential_type": "password", "change_type": "update"})
		}, "--"},
		{func(l *lab) { comply(l, "d1", "compliant") }, "c-"},
		{func(l *lab) { l.event(set.AccountPurged, ann, nil) }, "nn"},
		{func(l *lab) { l.event(set.AccountEnabled, ann, nil) }, "nn"}, // another account of that name
		{func(l *lab) {
			if err := l.Lift(t.Context(), quarantine.Actor{Kind: "administrator", Name: "root"}, "idp", "ann@EXAMPLE.com"); err != nil {
				t.Error(err)
			}
		}, "--"},
		{func(l *lab) { comply(l, "d1", "compliant") }, "c-"},
	}
	l := newLab(t, nil)
	for i, step := range steps {
		l.pass(time.Minute)
		step.do(l)
		if got := l.verdicts(t); got != step.want {
			t.Fatalf("step %d: d1 and d3 are %q, want %q; asked %s", i+1, got, step.want, l.gate.told())
		}
	}
	if all, err := l.Standing(t.Context(), "idp"); err != nil || len(all) != 0 {
		t.Errorf("still standing: %+v, %v", all, err)
	}
	if err := l.Lift(t.Context(), quarantine.Actor{}, "idp", "ann@example.com"); !errors.Is(err, ErrNothingStands) {
		t.Errorf("lifting nothing: %v", err)
	}
}

// TestAccountWordsOutOfOrder: the newer word stands, in whichever order they come.
func TestAccountWordsOutOfOrder(t *testing.T) {
	ann := user("ann@example.com")
	at := func(d time.Duration) map[string]any { return map[string]any{"event_timestamp": then.Add(d).Unix()} }
	l := newLab(t, nil)
	l.event(set.AccountEnabled, ann, at(-time.Minute))
	l.event(set.AccountDisabled, ann, at(-time.Hour))
	if got := l.gate.told(); got != "" {
		t.Errorf("disabled before it was enabled: the gate was asked %q", got)
	}
	// The device's own word is dated between the two, and comes first.
	l = newLab(t, nil)
	l.event(set.AccountDisabled, ann, at(-time.Hour))
	l.event(set.DeviceComplianceChange, device("d1"), map[string]any{"current_status": "compliant", "event_timestamp": then.Unix()})
	l.event(set.AccountEnabled, ann, at(-time.Minute))
	if got := l.verdicts(t); got != "--" {
		t.Errorf("enabled after all: %q", got)
	}
}

// TestTighteningDoesNotWaitForTheStore: the gate hears of a disabled account though the store
// does not answer, and the transmitter sends it again until it is kept.
func TestTighteningDoesNotWaitForTheStore(t *testing.T) {
	l := newLab(t, nil)
	l.store.err = errors.New("no quorum")
	tok := l.token(set.AccountDisabled, user("ann@example.com"), nil)
	err := l.send(tok)
	if _, refused := errors.AsType[*set.Error](err); err == nil || refused {
		t.Errorf("answered %v", err)
	}
	if got := l.gate.told(); got != "d1 noncompliant, d3 noncompliant" {
		t.Errorf("the gate was asked %q", got)
	}
	if err := l.send(l.token(set.DeviceComplianceChange, device("d2"), map[string]any{"current_status": "compliant"})); err == nil || l.gate.told() != "" {
		t.Errorf("a release was taken while the accounts could not be read: %v", err)
	}
	l.store.err = nil
	if err := l.send(tok); err != nil {
		t.Fatal(err)
	}
	if all, err := l.Standing(t.Context(), "idp"); err != nil || len(all) != 1 || all[0].Account != "ann@example.com" {
		t.Errorf("standing: %+v, %v", all, err)
	}
}

// TestAccountsAreBounded: what no device here needs makes no room for itself.
func TestAccountsAreBounded(t *testing.T) {
	all := accounts{}
	bad, good := accountWord{Event: disabled, At: then}, accountWord{Event: enabled, At: then.Add(-time.Hour)}
	for i := range maxAccounts {
		w := bad
		if i == 7 {
			w = good
		}
		if !all.put(strconv.Itoa(i), account{Existence: w}, then) {
			t.Fatalf("no room for %d", i)
		}
	}
	if !all.put("one more", account{Existence: bad}, then) || len(all) != maxAccounts {
		t.Errorf("an old word that says nothing bad keeps its place: %d", len(all))
	}
	if all.put("another", account{Existence: bad}, then) || len(all) != maxAccounts {
		t.Errorf("more than %d are kept: %d", maxAccounts, len(all))
	}
	if !all.put("one more", account{Existence: good}, then) {
		t.Error("a known account cannot be changed")
	}
}
