package api

import (
	"net/netip"
	"time"
)

// StreamRequest asks for a receiver of device events.
type StreamRequest struct {
	Name      string         `json:"name"`
	Kind      string         `json:"kind"`                // "webhook" or "ssf"
	URL       string         `json:"url,omitempty"`       // https; without one, an ssf receiver asks by itself
	Events    []string       `json:"events,omitempty"`    // like "device.moved" or "alert.*"; none: all
	Addresses bool           `json:"addresses,omitempty"` // also tell from which addresses people and devices asked
	Allow     []netip.Prefix `json:"allow,omitempty"`     // link-local and other special networks that the URL may lead to
	CA        string         `json:"ca,omitempty"`        // PEM of its server's authorities; empty: the system's
	Audience  string         `json:"audience,omitempty"`  // ssf: aud of its tokens
	Push      string         `json:"push_authorization,omitempty"`
}

// StreamChange alters a receiver: what is not there stays as it is.
type StreamChange struct {
	URL       *string         `json:"url,omitempty"`
	Events    *[]string       `json:"events,omitempty"`
	Addresses *bool           `json:"addresses,omitempty"`
	Allow     *[]netip.Prefix `json:"allow,omitempty"`
	CA        *string         `json:"ca,omitempty"`
	Audience  *string         `json:"audience,omitempty"`
}

// Stream is a receiver of device events and how it does.
type Stream struct {
	Name      string         `json:"name"`
	Kind      string         `json:"kind"`
	URL       string         `json:"url,omitempty"`
	Events    []string       `json:"events"`
	Addresses bool           `json:"addresses"`
	Allow     []netip.Prefix `json:"allow"`
	CA        string         `json:"ca,omitempty"`
	Audience  string         `json:"audience,omitempty"`
	StreamID  string         `json:"stream_id,omitempty"`
	Status    string         `json:"status,omitempty"` // ssf: what the receiver asked for
	Keys      []HookKey      `json:"keys"`
	Created   time.Time      `json:"created"`
	By        string         `json:"by"`
	Health    StreamHealth   `json:"health"`

	// Secret is set in the answer to its creation only: a webhook's key, or an ssf receiver's token.
	Secret string `json:"secret,omitempty"`
}

// StreamHealth is how a receiver does.
type StreamHealth struct {
	Cursor    uint64    `json:"cursor"`    // number of the audit entry that it has had
	Waiting   uint64    `json:"waiting"`   // entries behind it; not each is an event
	Delivered uint64    `json:"delivered"` // events, since the gateway began
	Last      time.Time `json:"last,omitzero"`
	Failures  int       `json:"failures"`       // attempts that failed in a row
	Since     time.Time `json:"since,omitzero"` // of the first of them
	Next      time.Time `json:"next,omitzero"`
	Problem   string    `json:"problem,omitempty"`
	Parked    bool      `json:"parked"` // nothing is sent until it is resumed
}

// StreamTest is how a test delivery went.
type StreamTest struct {
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
}

// StreamToken is the new token of an ssf receiver.
type StreamToken struct {
	Secret string `json:"secret"`
}
