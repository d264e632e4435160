package api

import "time"

// Alert is something that a person should know of and do something about.
type Alert struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Subject  string    `json:"subject,omitempty"`
	Severity string    `json:"severity"` // "info", "warning", "critical"
	Text     string    `json:"text"`
	Remedy   string    `json:"remedy,omitempty"`
	State    string    `json:"state"` // "raised", "acknowledged", "resolved"
	First    time.Time `json:"first"` // raised for the first time
	Since    time.Time `json:"since"` // raised for the last time
	Count    int       `json:"count"` // how often it was raised
	By       string    `json:"by,omitempty"`
	At       time.Time `json:"at,omitzero"` // acknowledged or resolved
	Why      string    `json:"why,omitempty"`
}

// AlertAction acknowledges or resolves an alert.
type AlertAction struct {
	ID     string `json:"id"`
	Action string `json:"action"` // "acknowledge" or "resolve"
	Why    string `json:"why,omitempty"`
}

// Outlet is where alerts are told.
type Outlet struct {
	Name     string   `json:"name"`
	URL      string   `json:"url"` // smtps://HOST, smtp://HOST (always with STARTTLS), syslog+tls://HOST
	From     string   `json:"from,omitempty"`
	To       []string `json:"to"`
	User     string   `json:"user,omitempty"`
	Least    string   `json:"least"`           // severity from which on it is told
	Roots    string   `json:"roots,omitempty"` // PEM; default: the system's
	Password bool     `json:"password"`        // one is kept
	Revision int64    `json:"revision,omitempty"`
}

// OutletRequest creates an outlet (revision 0) or changes it.
type OutletRequest struct {
	URL      string   `json:"url"`
	From     string   `json:"from,omitempty"`
	To       []string `json:"to,omitempty"`
	User     string   `json:"user,omitempty"`
	Least    string   `json:"least,omitempty"`
	Roots    string   `json:"roots,omitempty"`
	Password *string  `json:"password,omitempty"` // absent: as it was; never shown again
	Revision int64    `json:"revision,omitempty"`
}
