package quarantine

import "time"

// Verdict is what a source says of a device. The empty Verdict is "unknown", and
// unknown is not compliant.
type Verdict string

const (
	Compliant    Verdict = "compliant"
	NonCompliant Verdict = "noncompliant"
)

// Report is one source's word on one device. At and Sequence are the source's own:
// a report is newer than another of the same source when its (At, Sequence) is greater.
type Report struct {
	Device   ID                `json:"device"`
	Source   string            `json:"source"`
	Verdict  Verdict           `json:"verdict"`
	At       time.Time         `json:"at"`
	Sequence uint64            `json:"sequence,omitempty"`
	Validity time.Duration     `json:"validity"` // from At; capped by the source's MaxValidity
	Received time.Time         `json:"received"`
	Facts    map[string]string `json:"facts,omitempty"`
	Detail   string            `json:"detail,omitempty"`
}

// Source is who may send reports. The zero Source may not release anybody.
type Source struct {
	Name        string
	MayRelease  bool          // its "compliant" can move a device into routing
	MaxValidity time.Duration // zero: DefaultValidity

	Kind   SourceKind
	For    Selection     // devices it may speak for
	Facts  []string      // facts it may speak of, with "*" for any and "os.*" for those that begin so; empty: none
	Silent time.Duration // an alert tells when nothing was heard of it for so long; zero: never
}

// SourceKind is how a source's word comes in. The empty kind is SourceAPI.
type SourceKind string

const (
	SourceAPI     SourceKind = "api"     // with a token of its own
	SourceWebhook SourceKind = "webhook" // signed webhooks
	SourceSSF     SourceKind = "ssf"     // Shared Signals, push or poll
	SourceFleet   SourceKind = "fleet"   // asked every so often, as the following
	SourceIntune  SourceKind = "intune"
	SourceJamf    SourceKind = "jamf"
)

// AgentSource is the name under which a device's own agent reports; it never releases
// under the plain policy.
const AgentSource = "agent"
