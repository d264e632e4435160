package quarantine

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"lazaret/quarantine/tunnel"
)

// Actor is who asked for a change, for the audit log.
type Actor struct {
	Kind    string `json:"kind"` // "administrator", "token", "device", "otp", "gateway", "source", "policy"
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
}

// Record is everything known of one device: Device, and the facts behind its placement.
// It is what the store keeps under the device's ID.
//
// It goes through encoding/json without loss, Revision apart.
type Record struct {
	Device      `json:"device"`
	Profile     string            `json:"profile"`
	Platform    string            `json:"platform,omitempty"`
	Ownership   string            `json:"ownership,omitempty"`
	Certificate Certificate       `json:"certificate"`
	Reports     map[string]Report `json:"reports"`             // latest of each source
	Approval    Decision          `json:"approval,omitzero"`   // admitted by a person (X10)
	Hold        Decision          `json:"hold,omitzero"`       // kept in quarantine by a person
	Block       Decision          `json:"block,omitzero"`      // without a peer, by a person
	Unblocking  Decision          `json:"unblocking,omitzero"` // of the last block that was lifted
	Revocation  Decision          `json:"revocation,omitzero"`
	Proven      bool              `json:"proven"`    // holds the WireGuard private key, as it showed
	Confirmed   bool              `json:"confirmed"` // certConf arrived or the device was seen
	Tighten     uint64            `json:"tighten"`   // highest counter of a tightening taken in
	Reasons     []Reason          `json:"reasons"`
	Until       time.Time         `json:"until,omitzero"` // end of the present placement; zero: none

	Groups   []string             `json:"groups,omitempty"`  // the device's own, besides its profile's
	Seen     time.Time            `json:"seen,omitzero"`     // last contact of the device itself, to within some hours
	Session  UserSession          `json:"session,omitzero"`  // without a user, the time since when nobody is signed in
	Waivers  map[string]Waiver    `json:"waivers,omitempty"` // by SET/RULE
	Failing  map[string]time.Time `json:"failing,omitempty"` // by SET/RULE: since when, for grace
	Marks    map[string]Mark      `json:"marks,omitempty"`   // by SET/RULE
	Wipe     Decision             `json:"wipe,omitzero"`     // the device is to wipe what enrollment gave, and is not routed meanwhile
	Unwiping Decision             `json:"unwiping,omitzero"` // of the last order to wipe that was taken back

	Revision int64 `json:"-"` // of the store; not part of the stored value
}

// Decision is a decision of a person, or none when At is zero.
type Decision struct {
	By  Actor     `json:"by"`
	At  time.Time `json:"at"`
	Why string    `json:"why,omitempty"`
}

// Set reports whether the decision was taken.
func (d Decision) Set() bool { return !d.At.IsZero() }

// Certificate is what the gate must know of a device's certificate.
type Certificate struct {
	Serial    string    // hexadecimal
	NotBefore time.Time // UTC
	NotAfter  time.Time
	SPKI      [32]byte // SHA-256 of SubjectPublicKeyInfo
	Sum       [32]byte // SHA-256 of the certificate
}

// Kind names a Change.
type Kind string

const (
	Reported Kind = "report"
	Approve  Kind = "approve" // admits a pending device; lifts a hold
	Hold     Kind = "quarantine"
	Block    Kind = "block"
	Unblock  Kind = "unblock"
	Revoke   Kind = "revoke"
	Lapse    Kind = "lapse"    // a lease or certificate ran out; changes no fact, only time does
	Prove    Kind = "prove"    // the device showed that it holds its WireGuard key, Change.Key
	Confirm  Kind = "confirm"  // certConf
	Renew    Kind = "renew"    // new certificate, perhaps a next key
	Rotate   Kind = "rotate"   // first handshake with the next key, Change.Key
	Review   Kind = "review"   // settings or time changed the answer; changes no fact
	Clear    Kind = "clear"    // waives Change.Rule until Change.Until
	Regroup  Kind = "regroup"  // the device's own groups are Change.Groups
	SignIn   Kind = "sign-in"  // Change.Session
	SignOut  Kind = "sign-out" // ends the user's session
	Contact  Kind = "contact"  // the device itself was heard of
	Wipe     Kind = "wipe"     // orders a selective wipe
	Unwipe   Kind = "unwipe"   // takes an order to wipe back
)

// Change is one fact arriving. All ways to move a device are Changes.
type Change struct {
	Kind        Kind         `json:"kind"`
	Device      ID           `json:"device"`
	By          Actor        `json:"by"`
	At          time.Time    `json:"at"`
	Why         string       `json:"why,omitempty"`
	Report      *Report      `json:"report,omitempty"`      // Reported
	Certificate *Certificate `json:"certificate,omitempty"` // Renew
	Next        string       `json:"next,omitempty"`        // Renew: base64 key
	Key         tunnel.Key   `json:"key,omitzero"`          // Prove, Rotate: the key that was used; a journalled report: the key that the device had
	Tighten     uint64       `json:"tighten,omitempty"`     // counter of a tightening, else zero
	Rule        string       `json:"rule,omitempty"`        // Clear: SET/RULE
	Until       time.Time    `json:"until,omitzero"`        // Clear
	Digest      string       `json:"digest,omitempty"`      // Clear, Unblock, Unwipe: PolicyRule.Digest of the rule that is waived; the gate's to say
	Groups      []string     `json:"groups,omitempty"`      // Regroup
	Session     *UserSession `json:"session,omitempty"`     // SignIn
}

// Reason is one rule of a decision and what it found.
type Reason struct {
	Rule   string    `json:"rule"`             // e.g. "release.report", "certificate", "hold"
	Holds  bool      `json:"holds"`            // true: the rule speaks for routing
	Text   string    `json:"text"`             // one sentence for a person
	Source string    `json:"source,omitempty"` // report it rests on
	At     time.Time `json:"at,omitzero"`      // of that report

	Set     string `json:"set,omitempty"` // policy set, its version, and the fact that decided
	Version int64  `json:"version,omitempty"`
	Fact    string `json:"fact,omitempty"`
	Remedy  string `json:"remedy,omitempty"` // what would change it
	Fault   bool   `json:"fault,omitempty"`  // the policy's, not the device's: it could not be evaluated
}

// Facts are everything known when a placement is decided.
type Facts struct {
	Now     time.Time
	Record  Record // with journalled tightenings and the arriving change folded in
	Profile Profile
	Pools   map[string]Pool
	Sources map[string]Source
	Policy  Policy
	Sets    map[string]PolicySet
	Conduct Conduct
}

// Placement is where a device belongs. The zero Placement lets nothing pass.
type Placement struct {
	Stage   Stage
	Pool    string
	Until   time.Time // zero unless Routed
	Again   time.Time // time alone may change the answer at this instant; zero: never
	Reasons []Reason  // the first one decided

	Demand  FailureAction // FailBlock or FailWipe, else empty: what Settle takes into the record
	Order   *Decision     // the policy's, where there is a Demand and reasons are told; else nil
	Failing []string      // SET/RULE of rules that fail, sorted
	Marks   map[string]Mark
}

// Judgement is a Policy's answer. The zero Judgement does not release.
type Judgement struct {
	Release bool
	Until   time.Time // of the release
	Clear   bool      // nothing live speaks against the device; a profile that skips quarantine rests on it
	Again   time.Time // time alone may change the answer at this instant; zero: never
	Reasons []Reason
	// Demand is FailBlock or FailWipe, else empty. The first of Reasons that does not hold, is
	// no Fault, and names a rule of f.Sets with that OnFailure, is whose demand it is.
	Demand  FailureAction
	Failing []string // SET/RULE of rules that fail, sorted
	// Marks are by SET/RULE, and come back as Record.Marks. The map is not written to later.
	Marks map[string]Mark
}

// certificateForm is how a Certificate is stored: digests in hexadecimal.
type certificateForm struct {
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SPKI      string    `json:"spki"`
	Sum       string    `json:"sum"`
}

// MarshalJSON implements json.Marshaler.
func (c Certificate) MarshalJSON() ([]byte, error) {
	return json.Marshal(certificateForm{c.Serial, c.NotBefore, c.NotAfter,
		hex.EncodeToString(c.SPKI[:]), hex.EncodeToString(c.Sum[:])})
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Certificate) UnmarshalJSON(b []byte) error {
	var f certificateForm
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	n := Certificate{Serial: f.Serial, NotBefore: f.NotBefore, NotAfter: f.NotAfter}
	for _, d := range []struct {
		to   *[32]byte
		from string
	}{{&n.SPKI, f.SPKI}, {&n.Sum, f.Sum}} {
		raw, err := hex.DecodeString(d.from)
		if err != nil || len(raw) != len(d.to) {
			return fmt.Errorf("reading certificate %s: %q is no SHA-256", f.Serial, d.from)
		}
		copy(d.to[:], raw)
	}
	*c = n
	return nil
}
