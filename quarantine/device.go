// Package quarantine decides who may pass, since when, and why: Device, Stage, Pool,
// Report, Place and Gate. It asks a Store to record and an Enforcer to apply, and
// runs no packet itself.
package quarantine

import (
	"time"

	"lazaret/quarantine/tunnel"
)

// ID names a device for ever. It is random, and never a credential.
type ID string

// Seat is a device's number for life; its address in any pool is the pool's prefix
// plus Seat+1. Seats start at 1; zero is no seat.
type Seat uint32

// Stage is how far a device has come. The empty Stage lets nothing pass.
//
//	              OTP + CSR                      compliant              report bad, lease or certificate over
//	(nothing) ----------------> pending|quarantined --------> routed ----------------------------> quarantined
//	                                   |                        |
//	                                   +--- block (undone by a person) / revoke (final) ---+
type Stage string

const (
	Pending     Stage = "pending"     // enrolled, waits for approval; has no peer
	Quarantined Stage = "quarantined" // reaches the management servers and nothing else
	Routed      Stage = "routed"      // reaches what its pool reaches, until its lease ends
	Blocked     Stage = "blocked"     // has no peer, until a person unblocks it
	Revoked     Stage = "revoked"     // has no peer and no certificate, for ever
)

// freedom orders stages by how much they let pass; an unknown stage lets nothing pass.
func (s Stage) freedom() int {
	switch s {
	case Routed:
		return 2
	case Quarantined:
		return 1
	default:
		return 0
	}
}

// Device is a device and where it stands. Only its methods change Stage, Pool, Since and Reason.
type Device struct {
	ID     ID
	Name   string     // unique, chosen at enrollment
	Owner  string     // the user the OTP was made for
	Key    tunnel.Key // current WireGuard key
	Next   tunnel.Key // key it is moving to, zero for none
	Seat   Seat
	Serial string // hardware serial number, an identifier and never a credential
	Pool   string // pool it stands in; the quarantine pool unless Routed
	Stage  Stage
	Since  time.Time // when Stage and Pool last changed
	Reason string    // first reason of the placement, one sentence
}
