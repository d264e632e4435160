// Package set is the codec of Security Event Tokens (RFC 8417) as the Shared Signals
// Framework 1.0 profiles them: Parse and Verify read one, Key.Sign writes one. It is pure:
// it fetches nothing, keeps nothing and knows no device. Everything that it refuses comes
// as an *Error with the code that RFC 8935 section 2.4 gives it.
//
// A transmitter makes a Key once, keeps Key.PKCS8 where nobody reads it, publishes
// JWKS(keys...) at its jwks_uri, and for every event calls
//
//	text, err := key.Sign(set.Token{ID: set.NewID(), Issuer: iss, Audience: []string{aud},
//		IssuedAt: now, Subject: &subject, Events: []set.Event{{Type: set.DeviceComplianceChange, Claims: claims}}})
package set

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"time"
)

const (
	// MaxBytes is the longest token that is read.
	MaxBytes = 64 << 10
	// MaxAhead is how far iat may be ahead of now.
	MaxAhead = 2 * time.Minute
	// ContentType is that of a token on its way (RFC 8935 section 2.1).
	ContentType = "application/secevent+jwt"

	typeHeader = "secevent+jwt" // RFC 8417 section 2.3
	maxDepth   = 16             // of nested JSON
	maxText    = 1024           // bytes of jti, iss, an audience, a field of a subject
)

// Event types that somebody here sends or acts on.
const (
	caep = "https://schemas.openid.net/secevent/caep/event-type/"
	risc = "https://schemas.openid.net/secevent/risc/event-type/"
	ssf  = "https://schemas.openid.net/secevent/ssf/event-type/"

	DeviceComplianceChange = caep + "device-compliance-change"
	SessionRevoked         = caep + "session-revoked"
	CredentialChange       = caep + "credential-change"
	TokenClaimsChange      = caep + "token-claims-change"
	AssuranceLevelChange   = caep + "assurance-level-change"

	AccountCredentialChangeRequired = risc + "account-credential-change-required"
	AccountPurged                   = risc + "account-purged"
	AccountDisabled                 = risc + "account-disabled"
	AccountEnabled                  = risc + "account-enabled"
	CredentialCompromise            = risc + "credential-compromise"

	Verification  = ssf + "verification"
	StreamUpdated = ssf + "stream-updated"
)

// Token is what a Security Event Token says.
type Token struct {
	ID          string   // jti
	Issuer      string   // iss
	Audience    []string // aud
	IssuedAt    time.Time
	Occurred    time.Time // toe; zero: not said
	Transaction string    // txn; empty: not said
	Subject     *Subject  // sub_id; nil: not said
	Events      []Event   // at least one; read ones are sorted by type

	// Sum is the SHA-256 of what was signed: two tokens with one jti are the same one if it is
	// the same. Set by Verify.
	Sum [32]byte
}

// Event is one statement of a token.
type Event struct {
	Type    string                     // URI
	Subject *Subject                   // "subject" inside the event, of drafts before SSF 1.0; nil: not there
	Claims  map[string]json.RawMessage // all else that the event holds
}

// Text is a claim that is a string; false where it is none.
func (e Event) Text(name string) (string, bool) {
	var text *string
	if json.Unmarshal(e.Claims[name], &text) != nil || text == nil {
		return "", false
	}
	return *text, true
}

// millisecondsFrom is where a number of seconds is taken for one of milliseconds: as
// seconds it would be in the year 5138. The examples of CAEP's drafts used milliseconds.
const millisecondsFrom = 100_000_000_000

// Timestamp is CAEP's event_timestamp (CAEP 1.0 section 2): seconds, or milliseconds as
// drafts had it. The zero time without an error: it is not there.
func (e Event) Timestamp() (time.Time, error) {
	raw, ok := e.Claims["event_timestamp"]
	if !ok {
		return time.Time{}, nil
	}
	at, err := numericDate(raw, true)
	if err != nil {
		return time.Time{}, Refuse(InvalidRequest, "event_timestamp: %v", err)
	}
	return at, nil
}

// NewID draws a jti.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
