package api

import "time"

// Failing is a rule of a policy set that fails.
type Failing struct {
	Rule  string    `json:"rule"`           // SET/RULE
	Since time.Time `json:"since,omitzero"` // none: it is not recorded yet
}

// Waiver is a person's word that a rule does not count for a while.
type Waiver struct {
	Rule  string    `json:"rule"` // SET/RULE
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Why   string    `json:"why"`
	Until time.Time `json:"until"`
}

// WaiverRequest waives a rule.
type WaiverRequest struct {
	Rule string `json:"rule"` // SET/RULE
	For  string `json:"for"`  // like "24h"; 30 days at most
	Why  string `json:"why"`
}

// GroupsRequest replaces a device's own groups.
type GroupsRequest struct {
	Groups []string `json:"groups"`
}

// Session is a user's sign-in that a pool may ask for (G3).
type Session struct {
	User  string    `json:"user"`
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
	How   string    `json:"how,omitempty"`
	By    string    `json:"by"` // who vouches
}

// SessionRequest says that a device's user has authenticated.
type SessionRequest struct {
	User string    `json:"user"`
	At   time.Time `json:"at,omitzero"`    // of the authentication; default: now
	Life string    `json:"life,omitempty"` // like "30m"; default and ceiling: the organization's
	How  string    `json:"how,omitempty"`  // as "smart card"
}

// Move is one line of a device's history: where it came to stand, when, by whom, and why.
type Move struct {
	At       time.Time `json:"at"`
	By       string    `json:"by"`
	Action   string    `json:"action"`
	From     string    `json:"from,omitempty"` // stage
	FromPool string    `json:"from_pool,omitempty"`
	To       string    `json:"to"`
	Pool     string    `json:"pool,omitempty"`
	Until    string    `json:"until,omitempty"`
	Rule     string    `json:"rule,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Why      string    `json:"why,omitempty"` // what the person said
	Source   string    `json:"source,omitempty"`
}
