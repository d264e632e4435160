package api

import "time"

// AttestationTrust is which TPMs the gateway believes. Without both, attestation is off.
type AttestationTrust struct {
	FirstUse bool     `json:"first_use"` // believe whatever TPM a device shows first
	Makers   []string `json:"makers"`    // certificates of makers' CAs, PEM; first_use then does not count
}

// Attestation is what the gateway knows of a device's TPM.
type Attestation struct {
	Since    time.Time         `json:"since"`            // when the TPM was bound to the device
	EK       string            `json:"endorsement_key"`  // SHA-256 of its public area, hexadecimal
	AK       string            `json:"attestation_key"`  // likewise
	Maker    string            `json:"maker,omitempty"`  // who issued its certificate, where one was needed
	Baseline map[string]string `json:"baseline"`         // the right PCRs, hexadecimal by number
	Seen     map[string]string `json:"seen,omitempty"`   // PCRs last seen that differ from it
	SeenAt   time.Time         `json:"seen_at,omitzero"` // when they were first seen
	Resets   uint32            `json:"resets"`           // that the TPM counted
}
