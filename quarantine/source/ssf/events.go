package ssf

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// kind is what follows from an event.
type kind int

const (
	ignored    kind = iota // of a type that is not known here
	noted                  // known, and moves nobody
	compliance             // a verdict on a device
	credential             // a certificate of a device or user was revoked
	signOut                // sessions end
	word                   // on a user's account; it stands until it is taken back
	verified               // a verification event
	updated                // the stream's status
)

// act is one event, read.
type act struct {
	kind     kind
	event    set.Event
	subject  *set.Subject
	verdict  quarantine.Verdict
	at       time.Time // when it happened, as the transmitter says
	sequence uint64    // of two that happened at once the later issued one is newer
	why      string
	serial   string // of the certificate
}

// words are what RISC says of accounts, by event type.
var words = map[string]string{
	set.AccountDisabled:                 "disabled",
	set.AccountPurged:                   "purged",
	set.AccountEnabled:                  "enabled",
	set.AccountCredentialChangeRequired: "must change a credential",
	set.CredentialCompromise:            "has a compromised credential",
}

// read understands a token's events, all of them before any takes effect.
func read(t set.Token, now time.Time) ([]act, error) {
	var out []act
	for _, e := range t.Events {
		a, err := readEvent(t, e, now)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func readEvent(t set.Token, e set.Event, now time.Time) (act, error) {
	a := act{event: e, subject: t.Subject, at: t.IssuedAt, sequence: uint64(t.IssuedAt.UnixMicro()), why: reason(e)}
	if a.subject == nil {
		a.subject = e.Subject
	}
	at, err := e.Timestamp()
	if err != nil {
		return a, err
	}
	if !at.IsZero() {
		a.at = at
	} else if !t.Occurred.IsZero() {
		a.at = t.Occurred
	}
	if a.at.Sub(now) > set.MaxAhead {
		return a, set.Refuse(set.InvalidRequest, "the event is dated more than %s ahead of now", set.MaxAhead)
	}
	if err := a.read(); err != nil {
		return a, err
	}
	switch a.kind {
	case compliance, credential, signOut, word:
		if a.subject == nil {
			return a, set.Refuse(set.InvalidRequest, "event %.80q has no subject", e.Type)
		}
	}
	return a, nil
}

// read says what follows from the event.
func (a *act) read() error {
	e := a.event
	switch e.Type {
	case set.DeviceComplianceChange:
		a.kind = compliance
		switch status, _ := e.Text("current_status"); status {
		case "compliant":
			a.verdict = quarantine.Compliant
		case "not-compliant":
			a.verdict = quarantine.NonCompliant
		default:
			return set.Refuse(set.InvalidRequest, "current_status is neither compliant nor not-compliant")
		}
	case set.SessionRevoked, set.TokenClaimsChange:
		a.kind = signOut
	case set.AssuranceLevelChange:
		a.kind = signOut // also where the direction is not said
		if direction, _ := e.Text("change_direction"); direction == "increase" {
			a.kind = noted
		}
	case set.CredentialChange:
		return a.readCredential()
	case set.AccountDisabled, set.AccountPurged, set.AccountEnabled, set.AccountCredentialChangeRequired, set.CredentialCompromise:
		a.kind = word
	default:
		switch e.Type[strings.LastIndex(e.Type, "/secevent/")+1:] {
		case "secevent/ssf/event-type/verification", "secevent/sse/event-type/verification", "secevent/risc/event-type/verification":
			a.kind = verified
		case "secevent/ssf/event-type/stream-updated", "secevent/sse/event-type/stream-updated":
			a.kind = updated
		}
	}
	return nil
}

// readCredential reads CAEP's credential-change (CAEP 1.0 section 3.3).
func (a *act) readCredential() error {
	sort, ok1 := a.event.Text("credential_type")
	change, ok2 := a.event.Text("change_type")
	if !ok1 || !ok2 {
		return set.Refuse(set.InvalidRequest, "credential_type and change_type are needed")
	}
	a.kind = noted
	switch {
	case sort == "x509" && (change == "revoke" || change == "delete"):
		a.kind, a.verdict = credential, quarantine.NonCompliant
		a.serial, _ = a.event.Text("x509_serial")
	case change == "update":
		a.kind = word // takes back that a credential must change
	}
	return nil
}

// reason is what a transmitter tells administrators: reason_admin, in English if there is
// English, as an object by language or, in drafts, a string.
func reason(e set.Event) string {
	if text, ok := e.Text("reason_admin"); ok {
		return printable(text)
	}
	var byLanguage map[string]string
	if json.Unmarshal(e.Claims["reason_admin"], &byLanguage) == nil {
		if text, ok := byLanguage["en"]; ok {
			return printable(text)
		}
		for _, language := range slices.Sorted(maps.Keys(byLanguage)) {
			return printable(byLanguage[language])
		}
	}
	if text, ok := e.Text("reason"); ok { // RISC's account-disabled
		return printable(text)
	}
	return ""
}

// printable is at most 200 bytes of text on one line.
func printable(text string) string {
	text = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "")
	}
	return text
}
