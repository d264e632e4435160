package appliance

import (
	"net/netip"
	"time"
)

// Stage is how far a machine has come. The zero Stage is starting.
type Stage string

// The stages of a machine.
const (
	Starting  Stage = "starting"
	Locked    Stage = "locked"    // the data partition waits for its passphrase
	Unclaimed Stage = "unclaimed" // nobody's yet
	Running   Stage = "running"   // a gateway
	Failed    Stage = "failed"    // it cannot go on; Problems say why
)

// Status is how the machine does: for its screen, and for administrators over the API.
type Status struct {
	Stage    Stage     `json:"stage"`
	Name     string    `json:"name,omitempty"`
	Version  string    `json:"version"`
	Slots    []Slot    `json:"slots"`
	Links    []LinkIs  `json:"links"`
	URLs     []string  `json:"urls,omitempty"`        // where people go: enrollment and API
	Print    string    `json:"fingerprint,omitempty"` // SHA-256 of the certificate shown there, hexadecimal in fours
	Code     string    `json:"-"`                     // the claim code; on the screen alone, never over a wire or into a log
	Parts    []Part    `json:"parts"`                 // processes, sorted by name
	Clock    Clock     `json:"clock"`
	Disk     Disk      `json:"disk"`
	Memory   Memory    `json:"memory"`
	Update   UpdateIs  `json:"update"`
	Booted   time.Time `json:"booted"`
	Problems []string  `json:"problems,omitempty"` // sentences, the gravest first
}

// Slot is one system on the EFI partition.
type Slot struct {
	Version string `json:"version"`
	File    string `json:"file"`             // below SlotDir
	Booted  bool   `json:"booted,omitempty"` // this one runs
	Blessed bool   `json:"blessed"`          // it has passed its health check once
	Left    int    `json:"left,omitempty"`   // attempts left, where it is not blessed
	Tried   int    `json:"tried,omitempty"`
}

// LinkIs is one network link as it is.
type LinkIs struct {
	Name      string         `json:"name"`
	MAC       string         `json:"mac,omitempty"`
	Up        bool           `json:"up"` // carrier
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"` // of its default routes
	Problem   string         `json:"problem,omitempty"`  // like "no answer from DHCP"
}

// Part is a process of the machine's.
type Part struct {
	Name     string    `json:"name"`
	Ready    bool      `json:"ready"`
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts,omitempty"`
	Last     string    `json:"last,omitempty"` // how it ended last
}

// Clock is what is known of the time.
type Clock struct {
	Synchronized bool      `json:"synchronized"`
	Server       string    `json:"server,omitempty"`
	At           time.Time `json:"at,omitzero"` // when it was last compared
	Offset       float64   `json:"offset"`      // seconds, as found then
	Problem      string    `json:"problem,omitempty"`
}

// Protection is what keeps the data partition's key.
type Protection string

// What may keep the key, from the best on.
const (
	ByTPM        Protection = "tpm"
	ByPassphrase Protection = "passphrase"
	ByFile       Protection = "file" // beside the data: protects nothing from whoever has the disk
)

// Disk is the data partition.
type Disk struct {
	Size       int64      `json:"size"` // bytes
	Free       int64      `json:"free"`
	Encrypted  bool       `json:"encrypted"`
	Protection Protection `json:"protection,omitempty"`
}

// Memory is the machine's, in bytes.
type Memory struct {
	Size      int64 `json:"size"`
	Available int64 `json:"available"`
}

// UpdateIs is where updating stands.
type UpdateIs struct {
	Channel   string    `json:"channel,omitempty"`
	Checked   time.Time `json:"checked,omitzero"`    // when the channel answered last
	Available string    `json:"available,omitempty"` // a newer version there
	Since     time.Time `json:"since,omitzero"`      // when that was first seen
	Staged    string    `json:"staged,omitempty"`    // written, and booted at the next restart
	Last      string    `json:"last,omitempty"`      // how the last update went, a sentence
	LastAt    time.Time `json:"last_at,omitzero"`
	Problem   string    `json:"problem,omitempty"`
}
