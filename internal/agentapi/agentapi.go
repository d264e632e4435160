// Package agentapi is what a device's agent and the gateway say to each other inside
// the tunnel: JSON over mutually authenticated TLS 1.3, at the gateway's tunnel address.
// It holds shapes only, so that neither side pulls in the other.
package agentapi

import (
	"encoding/json"
	"time"

	"lazaret/enroll/cmp"
)

// Paths of the agent API. Status is long-polled: ?after=REVISION&wait=SECONDS answers
// when the device's record is newer than REVISION, or when the wait is over.
const (
	StatusPath  = "/agent/v1/status"
	ReportPath  = "/agent/v1/report"
	SessionPath = "/agent/v1/session"
	AttestPath  = "/agent/v1/attest" // a TPM's hello, answered with a challenge
)

// MaxWait bounds a long poll.
const MaxWait = 30 * time.Second

// Status is where the device stands and why (X7), and the network that goes with it.
type Status struct {
	Device   string       `json:"device"`
	Name     string       `json:"name"`
	Stage    string       `json:"stage"`
	Pool     string       `json:"pool"`
	Since    time.Time    `json:"since"`
	Until    time.Time    `json:"until,omitzero"` // end of the present placement
	Reasons  []Reason     `json:"reasons"`
	Settings cmp.Settings `json:"settings"`
	Revision int64        `json:"revision"`
	// Key is the public WireGuard key that the gateway holds for the device; Next is the one
	// that the device's addresses move to at its first handshake, empty for none.
	Key  string `json:"wireguard_key"`
	Next string `json:"next_wireguard_key,omitempty"`
	// Listeners are the SHA-256 of the public keys that the gateways' public listeners may
	// show, current and next, so that a device that is online always knows them.
	Listeners [][]byte `json:"listener_keys"`
	// Wake is a wake-up, where something waits for a management session; Signer is the chain
	// of the management signer, DER, where ?signer= did not name it (SignerID, hexadecimal).
	Wake   string   `json:"wake,omitempty"`
	Signer [][]byte `json:"management_signer,omitempty"`
}

// Reason is one rule of the decision.
type Reason struct {
	Rule  string `json:"rule"`
	Holds bool   `json:"holds"`
	Text  string `json:"text"`
}

// Report is a posture report, and the body of a management session (M8). Sequence grows
// with every report of this device.
type Report struct {
	Verdict  string            `json:"verdict"` // "compliant", "noncompliant" or empty
	At       time.Time         `json:"at"`
	Sequence uint64            `json:"sequence"`
	Facts    map[string]string `json:"facts,omitempty"`
	// Attestation is what the device's TPM says of these facts (internal/attest); none: nothing.
	Attestation json.RawMessage `json:"attestation,omitempty"`
}

// Session answers a management session. It succeeded when Released.
type Session struct {
	Released bool   `json:"released"`
	Status   Status `json:"status"`
}

// Problem is the body of every answer that is no success.
type Problem struct {
	Error string `json:"error"`
}
