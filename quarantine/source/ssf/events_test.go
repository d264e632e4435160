package ssf

import (
	"errors"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// TestEvents says of every event what the gate is asked, and of whom.
func TestEvents(t *testing.T) {
	issSub := func(iss, sub string) set.Subject {
		return set.Subject{Format: set.FormatIssSub, Fields: map[string]string{"iss": iss, "sub": sub}}
	}
	both := func(d, u set.Subject) *set.Subject {
		return on(set.Complex(map[string]set.Subject{"device": d, "user": u}))
	}
	status := func(s string) map[string]any {
		return map[string]any{"current_status": s, "previous_status": "compliant"}
	}
	credential := func(kind, change string, more ...string) map[string]any {
		m := map[string]any{"credential_type": kind, "change_type": change}
		if len(more) > 0 {
			m["x509_serial"] = more[0]
		}
		return m
	}
	for name, c := range map[string]struct {
		event   string
		subject *set.Subject
		claims  map[string]any
		want    string
	}{
		"compliant, by id":                     {set.DeviceComplianceChange, device("d1"), status("compliant"), "d1 compliant"},
		"compliant, by serial":                 {set.DeviceComplianceChange, device("C1"), status("compliant"), "d1 compliant"},
		"compliant, simple subject":            {set.DeviceComplianceChange, on(set.Opaque("d2")), status("compliant"), "d2 compliant"},
		"compliant, iss_sub":                   {set.DeviceComplianceChange, both(issSub(issuer, "d1"), set.Email("x@example.com")), status("compliant"), "d1 compliant"},
		"compliant, by name, which is no id":   {set.DeviceComplianceChange, device("laptop"), status("compliant"), ""},
		"compliant, two devices":               {set.DeviceComplianceChange, device("SAME"), status("compliant"), ""},
		"compliant, aliases of two devices":    {set.DeviceComplianceChange, on(set.Subject{Format: set.FormatAliases, Identifiers: []set.Subject{set.Opaque("d1"), set.Opaque("d2")}}), status("compliant"), ""},
		"compliant, aliases of one device":     {set.DeviceComplianceChange, on(set.Subject{Format: set.FormatAliases, Identifiers: []set.Subject{set.Opaque("d1"), set.Opaque("C1")}}), status("compliant"), "d1 compliant"},
		"compliant, user alone":                {set.DeviceComplianceChange, user("ann@example.com"), status("compliant"), ""},
		"compliant, user with one device":      {set.DeviceComplianceChange, on(set.Opaque("ben")), status("compliant"), ""},
		"compliant, revoked device":            {set.DeviceComplianceChange, device("d4"), status("compliant"), ""},
		"compliant, other case":                {set.DeviceComplianceChange, device("D1"), status("compliant"), ""},
		"not compliant, two devices":           {set.DeviceComplianceChange, device("SAME"), status("not-compliant"), "d2 noncompliant, d3 noncompliant"},
		"not compliant, user alone":            {set.DeviceComplianceChange, user("ANN@example.com"), status("not-compliant"), "d1 noncompliant, d3 noncompliant"},
		"not compliant, device of others":      {set.DeviceComplianceChange, both(set.Opaque("x"), set.Email("ann@example.com")), status("not-compliant"), ""},
		"not compliant, nobody":                {set.DeviceComplianceChange, device("x"), status("not-compliant"), ""},
		"session of a device":                  {set.SessionRevoked, both(set.Opaque("d1"), set.Email("ann@example.com")), nil, "d1 sign-out"},
		"sessions of a user":                   {set.SessionRevoked, user("ann@example.com"), nil, "d1 sign-out, d3 sign-out"},
		"session that is not known here":       {set.SessionRevoked, on(set.Opaque("dMTlD|1600802906337.16|16008.16")), nil, ""},
		"session of a user's unknown device":   {set.SessionRevoked, both(set.Opaque("x"), issSub(issuer, "ben")), nil, "d2 sign-out, d5 sign-out"},
		"user of another issuer":               {set.SessionRevoked, on(issSub("https://elsewhere.example.org", "ben")), nil, ""},
		"user by account":                      {set.SessionRevoked, on(set.Subject{Format: set.FormatAccount, Fields: map[string]string{"uri": "acct:ann@example.com"}}), nil, "d1 sign-out, d3 sign-out"},
		"user in other case":                   {set.SessionRevoked, on(issSub(issuer, "Ben")), nil, ""},
		"phone number":                         {set.SessionRevoked, on(set.Subject{Format: set.FormatPhone, Fields: map[string]string{"phone_number": "+1 206 555 0123"}}), nil, ""},
		"token claims":                         {set.TokenClaimsChange, user("ann@example.com"), map[string]any{"claims": map[string]any{"role": "x"}}, "d1 sign-out, d3 sign-out"},
		"assurance decreases":                  {set.AssuranceLevelChange, user("ann@example.com"), map[string]any{"change_direction": "decrease"}, "d1 sign-out, d3 sign-out"},
		"assurance changes":                    {set.AssuranceLevelChange, user("ann@example.com"), nil, "d1 sign-out, d3 sign-out"},
		"assurance increases":                  {set.AssuranceLevelChange, user("ann@example.com"), map[string]any{"change_direction": "increase"}, ""},
		"certificate of a device revoked":      {set.CredentialChange, device("d1"), credential("x509", "revoke"), "d1 noncompliant"},
		"certificate of a device deleted":      {set.CredentialChange, device("d1"), credential("x509", "delete", "77"), "d1 noncompliant"},
		"certificate of ours, by user":         {set.CredentialChange, user("ann@example.com"), credential("x509", "revoke", "0A:1B:2C:3"), "d3 noncompliant"},
		"the same in decimal":                  {set.CredentialChange, user("ann@example.com"), credential("x509", "revoke", "10597059"), "d3 noncompliant"},
		"some other certificate of a user":     {set.CredentialChange, user("ann@example.com"), credential("x509", "revoke", "77"), ""},
		"some certificate of a user":           {set.CredentialChange, user("ann@example.com"), credential("x509", "revoke"), "d1 noncompliant, d3 noncompliant"},
		"certificate issued":                   {set.CredentialChange, device("d1"), credential("x509", "create"), ""},
		"password changed":                     {set.CredentialChange, user("ann@example.com"), credential("password", "update"), ""},
		"password revoked":                     {set.CredentialChange, user("ann@example.com"), credential("password", "revoke"), ""},
		"account disabled":                     {set.AccountDisabled, user("ann@example.com"), map[string]any{"reason": "hijacking"}, "d1 noncompliant, d3 noncompliant"},
		"account purged":                       {set.AccountPurged, on(issSub(issuer, "ben")), nil, "d2 noncompliant, d5 noncompliant"},
		"account must change a credential":     {set.AccountCredentialChangeRequired, user("ann@example.com"), nil, "d1 noncompliant, d3 noncompliant"},
		"credential compromised":               {set.CredentialCompromise, user("ann@example.com"), map[string]any{"credential_type": "password"}, "d1 noncompliant, d3 noncompliant"},
		"account enabled, that never was else": {set.AccountEnabled, user("ann@example.com"), nil, ""},
		"unknown event":                        {"https://example.com/event", device("d1"), nil, ""},
		"unknown event that ends alike":        {"https://example.com/device-compliance-change", device("d1"), status("not-compliant"), ""},
		"verification":                         {set.Verification, on(set.Opaque("stream")), map[string]any{"state": "x"}, ""},
	} {
		l := newLab(t, nil)
		l.event(c.event, c.subject, c.claims)
		if got := l.gate.told(); got != c.want {
			t.Errorf("%s: the gate was asked %q, want %q", name, got, c.want)
		}
		// Drafts before SSF 1.0 have the subject within the event.
		tok := l.token(c.event, nil, c.claims)
		tok.Events[0].Subject = c.subject
		l = newLab(t, nil)
		if err := l.take(t.Context(), l.idp(), l.sign(tok), ""); err != nil {
			t.Errorf("%s, subject within the event: %v", name, err)
		}
		if got := l.gate.told(); got != c.want {
			t.Errorf("%s, subject within the event: the gate was asked %q, want %q", name, got, c.want)
		}
	}
}

// TestEventsOutOfForm are refused whole: what stands beside them in the token is not done.
func TestEventsOutOfForm(t *testing.T) {
	for name, e := range map[string]set.Event{
		"no status":            {Type: set.DeviceComplianceChange},
		"unknown status":       {Type: set.DeviceComplianceChange, Claims: set.Claims(map[string]any{"current_status": "Compliant"})},
		"status is true":       {Type: set.DeviceComplianceChange, Claims: set.Claims(map[string]any{"current_status": true})},
		"no credential type":   {Type: set.CredentialChange, Claims: set.Claims(map[string]any{"change_type": "revoke"})},
		"time is text":         {Type: set.SessionRevoked, Claims: set.Claims(map[string]any{"event_timestamp": "now"})},
		"dated ahead":          {Type: set.SessionRevoked, Claims: set.Claims(map[string]any{"event_timestamp": then.Add(set.MaxAhead + time.Second).Unix()})},
		"dated ahead, in ms":   {Type: set.SessionRevoked, Claims: set.Claims(map[string]any{"event_timestamp": then.Add(set.MaxAhead + time.Second).UnixMilli()})},
		"unknown, dated ahead": {Type: "https://example.com/e", Claims: set.Claims(map[string]any{"event_timestamp": then.Add(time.Hour).Unix()})},
	} {
		l := newLab(t, nil)
		tok := l.token("https://a.example.com/first", device("d1"), nil)
		tok.Events = append(tok.Events, set.Event{Type: set.AccountDisabled}, e)
		tok.Subject = user("ann@example.com")
		err := l.send(tok)
		if refusal, ok := errors.AsType[*set.Error](err); !ok || refusal.Code != set.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
		if got := l.gate.told(); got != "" {
			t.Errorf("%s: the gate was asked %q", name, got)
		}
	}
	l := newLab(t, nil)
	if err := l.send(l.token(set.SessionRevoked, nil, nil)); err == nil {
		t.Error("an event without a subject is taken")
	}
}

// TestReportSays: time and sequence are the transmitter's, the validity the source's, the
// detail the transmitter's reason on one line.
func TestReportSays(t *testing.T) {
	l := newLab(t, nil)
	at := then.Add(-5 * time.Minute)
	l.event(set.DeviceComplianceChange, device("d1"), map[string]any{"current_status": "not-compliant", "event_timestamp": at.Unix(),
		"reason_admin": map[string]any{"de": "Regel", "en": "disk\nnot encrypted"}})
	r := l.gate.last(t)
	if r.Source != "idp" || !r.At.Equal(at) || r.Sequence != uint64(then.UnixMicro()) || r.Validity < 365*24*time.Hour || r.Detail != "device not compliant: disk not encrypted" || len(r.Facts) > 0 {
		t.Errorf("reported %+v", r)
	}
	tok := l.token(set.DeviceComplianceChange, device("d1"), map[string]any{"current_status": "compliant"})
	tok.Occurred = then.Add(-time.Minute)
	if err := l.send(tok); err != nil {
		t.Fatal(err)
	}
	if r := l.gate.last(t); !r.At.Equal(tok.Occurred) || r.Verdict != quarantine.Compliant {
		t.Errorf("with toe: reported %+v", r)
	}
	l.event(set.DeviceComplianceChange, device("d2"), map[string]any{"current_status": "compliant"})
	if r := l.gate.last(t); !r.At.Equal(then) {
		t.Errorf("with iat alone: reported %+v", r)
	}
}

// TestOutOfOrder: events count by the time at which they happened. Two of one second are
// told apart by when they were issued.
func TestOutOfOrder(t *testing.T) {
	l := newLab(t, nil)
	say := func(status string, at, issued time.Time) {
		tok := l.token(set.DeviceComplianceChange, device("d1"), map[string]any{"current_status": status, "event_timestamp": at.Unix()})
		tok.IssuedAt = issued
		if err := l.send(tok); err != nil {
			t.Fatal(err)
		}
	}
	verdict := func() quarantine.Verdict { r, _ := l.gate.Device("d1"); return r.Reports["idp"].Verdict }
	say("not-compliant", then.Add(-time.Minute), then)
	say("compliant", then.Add(-2*time.Minute), then.Add(time.Second)) // happened before
	if got := verdict(); got != quarantine.NonCompliant {
		t.Errorf("a late event made it %s", got)
	}
	say("compliant", then.Add(-time.Minute), then.Add(time.Second)) // in the same second, issued later
	if got := verdict(); got != quarantine.Compliant {
		t.Errorf("the later one of one second did not count: %s", got)
	}
	if st, err := l.Status(t.Context(), "idp"); err != nil || st.Late != 1 || st.Moved != 2 {
		t.Errorf("status is %+v, %v", st, err)
	}
}

// TestDeviceByName needs the administrator's word: whoever enrolls chooses the name.
func TestDeviceByName(t *testing.T) {
	l := newLab(t, func(s *Settings) { s.DeviceBy = []string{ByName} })
	l.event(set.DeviceComplianceChange, device("laptop"), map[string]any{"current_status": "compliant"})
	l.event(set.DeviceComplianceChange, device("d1"), map[string]any{"current_status": "compliant"})
	if got := l.gate.told(); got != "d1 compliant" {
		t.Errorf("asked %q", got)
	}
	l = newLab(t, func(s *Settings) { s.DeviceBy = []string{ByID, BySerial, ByName} })
	l.event(set.DeviceComplianceChange, device("C1"), map[string]any{"current_status": "compliant"}) // serial of one, name of another
	if got := l.gate.told(); got != "" {
		t.Errorf("a name that is another's serial number released %q", got)
	}
	l = newLab(t, func(s *Settings) { s.DeviceField = "serial_number" })
	own := set.Subject{Format: "example_device", Fields: map[string]string{"serial_number": "C1", "id": "d2"}}
	l.event(set.DeviceComplianceChange, on(set.Complex(map[string]set.Subject{"device": own})), map[string]any{"current_status": "compliant"})
	if got := l.gate.told(); got != "d1 compliant" {
		t.Errorf("by a field of its own: asked %q", got)
	}
}

// TestSessionsAfterTheEventGoOn: a token that is delivered late, or twice, ends no session
// that began since.
func TestSessionsAfterTheEventGoOn(t *testing.T) {
	l := newLab(t, nil)
	l.gate.records[0].Session.At = then.Add(-time.Minute)
	l.event(set.SessionRevoked, user("ann@example.com"), map[string]any{"event_timestamp": then.Add(-2 * time.Minute).Unix()})
	if got := l.gate.told(); got != "d3 sign-out" {
		t.Errorf("asked %q", got)
	}
}

// TestWhatTheGateSays is sorted into: done, refused for good, and to be sent again.
func TestWhatTheGateSays(t *testing.T) {
	for _, c := range []struct {
		err  error
		code set.Code
		ok   bool
	}{
		{quarantine.ErrNotEnforced, "", true}, {quarantine.ErrStale, "", true}, {quarantine.ErrFinal, "", true}, {quarantine.ErrUnknownDevice, "", true},
		{quarantine.ErrForbidden, set.AccessDenied, false}, {quarantine.ErrFuture, set.InvalidRequest, false},
		{quarantine.ErrNotReady, "", false}, {errors.New("store down"), "", false},
	} {
		l := newLab(t, nil)
		l.gate.fail = map[quarantine.ID]error{"d1": c.err}
		tok := l.token(set.DeviceComplianceChange, device("d1"), map[string]any{"current_status": "compliant"})
		err := l.send(tok)
		refusal, refused := errors.AsType[*set.Error](err)
		if (err == nil) != c.ok || refused != (c.code != "") || refused && refusal.Code != c.code {
			t.Errorf("%v became %v", c.err, err)
		}
		if c.ok || refused {
			continue
		}
		if h := l.ledger.List(); len(h) != 1 || h[0].Failures != 1 || !strings.Contains(h[0].Problem, c.err.Error()) {
			t.Errorf("%v: health is %+v", c.err, h)
		}
		l.gate.fail = nil
		l.gate.told()
		if err := l.take(t.Context(), l.idp(), l.sign(tok), ""); err != nil || l.gate.told() != "d1 compliant" {
			t.Errorf("%v: sent again: %v", c.err, err)
		}
	}
}

// TestForbiddenForOne: a source that may speak for some of a user's devices does, and the
// others are told in the audit log.
func TestForbiddenForOne(t *testing.T) {
	l := newLab(t, nil)
	l.gate.fail = map[quarantine.ID]error{"d1": quarantine.ErrForbidden}
	l.event(set.AccountDisabled, user("ann@example.com"), nil)
	if got := l.gate.told(); got != "d1 noncompliant, d3 noncompliant" || l.audit.count() != 1 {
		t.Errorf("asked %q, audited %q", got, l.audit.why)
	}
}
