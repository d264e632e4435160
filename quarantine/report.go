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
}

// AgentSource is the name under which a device's own agent reports; it never releases
// under the plain policy.
const AgentSource = "agent"
