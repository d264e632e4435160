// Package dataplane is the protocol between the control plane and the data plane of
// one gateway, and both its ends. Plane is the data plane: it owns the firewall table
// and the tunnel, takes whole plans and single moves, and outlives the control plane.
// Client is the control plane's end, a quarantine.Enforcer. The package knows
// addresses, peers and deadlines, and nothing of certificates, users or policy.
package dataplane

import (
	"net/netip"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// Table is the firewall as the data plane uses it; *firewall.Table is one.
type Table interface {
	// Adopt makes the table with empty sets and drop policies, or takes an orphan over
	// and empties it.
	Adopt(firewall.Ruleset) error
	// Fill makes the table hold this and nothing else, in one transaction.
	Fill(firewall.Ruleset, firewall.Elements) error
	// Apply makes one step, in one transaction. After firewall.ErrDoubt the table may
	// hold anything between, and must be filled.
	Apply(firewall.Change) error
	// Refresh sets the two freshness deadlines.
	Refresh(fresh, alive firewall.Deadline) error
	// Verify asks the kernel whether the table is there, this process's own, and drops.
	Verify() error
}

// Link is the tunnel as the data plane uses it; *tunnel.Link is one.
type Link interface {
	Apply([]tunnel.PeerChange) error
	Peers() ([]tunnel.PeerStatus, error)
	Handshakes([]tunnel.Key) (map[tunnel.Key]time.Time, error)
	SetAddresses([]netip.Prefix) error
	Close() error
}

// EventKind says what an Event tells.
type EventKind string

const (
	// Connected: a data plane answers, and needs a plan of this control plane.
	Connected EventKind = "connected"
	// Disconnected: until the next Connected, orders fail with quarantine.ErrNotEnforced.
	Disconnected EventKind = "disconnected"
	// NeedPlan: the data plane lost track and enforces the strictest it can until the next plan.
	NeedPlan EventKind = "plan"
	// Rotated: Device shook hands with its next key, Key, and its addresses moved there.
	Rotated EventKind = "rotated"
	// NoPeer: a plan was applied, but the tunnel does not take Device's peer.
	NoPeer EventKind = "no_peer"
	// Kept: a plan was applied, but what it says of Device is outdated and would loosen
	// it; it is held as before, with the counters Revision and Tighten.
	Kept EventKind = "kept"
	// ClockJump: the clocks jumped; the data plane refilled its table with what was left.
	ClockJump EventKind = "clock"
)

// Event is what the data plane tells the control plane by itself. A reader must take
// an unknown kind as none.
type Event struct {
	Kind   EventKind     `json:"kind"`
	Device quarantine.ID `json:"device,omitempty"` // Rotated, NoPeer, Kept
	Key    tunnel.Key    `json:"key,omitzero"`     // Rotated
	Detail string        `json:"detail,omitempty"` // one sentence for the log

	Revision int64  `json:"revision,omitempty"` // Kept
	Tighten  uint64 `json:"tighten,omitempty"`  // Kept
}
