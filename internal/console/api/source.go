package api

import "time"

// Source is who may send reports.
type Source struct {
	Name        string    `json:"name"`
	Kind        string    `json:"kind,omitempty"` // "api", "webhook", "ssf", "fleet", "intune" or "jamf"; empty: "api"
	MayRelease  bool      `json:"may_release"`
	MaxValidity string    `json:"max_validity"`
	For         Selection `json:"for,omitzero"`     // devices it may speak for
	Facts       []string  `json:"facts"`            // facts it may speak of: names, "*", or like "os.*"
	Silent      string    `json:"silent,omitempty"` // an alert tells when nothing was heard of it for so long, like "24h"
	Revision    int64     `json:"revision,omitempty"`
}

// SourceHealth is how a source does.
type SourceHealth struct {
	Source   string    `json:"source"`
	Kind     string    `json:"kind"`
	Heard    time.Time `json:"heard,omitzero"`    // when something of it was last accepted
	Tried    time.Time `json:"tried,omitzero"`    // last attempt to ask it, or call of it
	Next     time.Time `json:"next,omitzero"`     // when it is asked again, where it is asked
	Problem  string    `json:"problem,omitempty"` // of the last attempt
	Failures int       `json:"failures"`          // attempts that failed in a row
	Accepted uint64    `json:"accepted"`          // reports, since the gateway started
	Refused  uint64    `json:"refused"`
}

// Connection is how a source is asked: its settings, and the names of its secrets.
type Connection struct {
	Source   string         `json:"source"`
	Kind     string         `json:"kind"`
	Settings map[string]any `json:"settings"`
	Secrets  []string       `json:"secrets"`
	Webhook  string         `json:"webhook,omitempty"` // where the product may send its own webhooks
	Revision int64          `json:"revision"`
}

// ConnectionRequest changes how a source is asked. Settings replace what there is. A secret
// that is not named stays as it is, one that is null or empty is forgotten; after a change of
// server all must be given.
type ConnectionRequest struct {
	Settings map[string]any     `json:"settings"`
	Secrets  map[string]*string `json:"secrets,omitempty"`
	Revision int64              `json:"revision"`
}
