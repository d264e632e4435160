package api

import (
	"net/netip"
	"time"
)

// Signals is a source of kind ssf: a transmitter's stream, and how it does.
type Signals struct {
	Source   string           `json:"source"`
	Settings SignalsSettings  `json:"settings"`
	Secrets  []string         `json:"secrets"` // those that are set: authorization, bearer, client_secret
	Endpoint string           `json:"endpoint,omitempty"`
	Status   *SignalsStatus   `json:"status,omitempty"` // none right after it was made
	Accounts []SignalsAccount `json:"accounts"`         // what stands against users' accounts
	Revision int64            `json:"revision"`
}

// SignalsSettings say which transmitter a stream is of, and how it is reached.
type SignalsSettings struct {
	Issuer      string         `json:"issuer"`
	Audience    []string       `json:"audience"`
	JWKS        any            `json:"jwks,omitempty"`
	JWKSURI     string         `json:"jwks_uri,omitempty"`
	Delivery    string         `json:"delivery"` // push or poll
	MaxAge      string         `json:"max_age,omitempty"`
	PollURL     string         `json:"poll_url,omitempty"`
	PollEvery   string         `json:"poll_every,omitempty"`
	MaxEvents   int            `json:"max_events,omitempty"`
	StreamID    string         `json:"stream_id,omitempty"`
	Manage      bool           `json:"manage,omitempty"`
	TokenURL    string         `json:"token_url,omitempty"`
	ClientID    string         `json:"client_id,omitempty"`
	Scope       string         `json:"scope,omitempty"`
	Allow       []netip.Prefix `json:"allow,omitempty"`
	Roots       string         `json:"roots,omitempty"`
	DeviceBy    []string       `json:"device_by,omitempty"`
	DeviceField string         `json:"device_field,omitempty"`
	UserIssuer  string         `json:"user_issuer,omitempty"`
}

// SignalsRequest creates a stream (revision 0) or changes it. A secret that is left out stays
// as it is; an empty one is removed. None is ever shown.
type SignalsRequest struct {
	Settings      SignalsSettings `json:"settings"`
	Authorization *string         `json:"authorization,omitempty"`
	Bearer        *string         `json:"bearer,omitempty"`
	ClientSecret  *string         `json:"client_secret,omitempty"`
	Revision      int64           `json:"revision"`
}

// SignalsStatus is how a stream does; the counts are since the gateway's start.
type SignalsStatus struct {
	Stream     string            `json:"stream,omitempty"` // enabled, paused or disabled, as the transmitter said
	Reason     string            `json:"reason,omitempty"`
	StreamAt   time.Time         `json:"stream_at,omitzero"`
	StreamID   string            `json:"stream_id,omitempty"`
	AskedAt    time.Time         `json:"asked_at,omitzero"`    // last verification that was asked for
	VerifiedAt time.Time         `json:"verified_at,omitzero"` // last one that came back
	PolledAt   time.Time         `json:"polled_at,omitzero"`
	Problem    string            `json:"problem,omitempty"`
	Accepted   uint64            `json:"accepted"`  // tokens, repeated ones too
	Repeated   uint64            `json:"repeated"`  // tokens that were taken in before
	Postponed  uint64            `json:"postponed"` // tokens that the transmitter is to send again
	Refused    map[string]uint64 `json:"refused"`   // tokens, by error code of RFC 8935
	Moved      uint64            `json:"moved"`     // facts taken of devices
	Late       uint64            `json:"late"`      // events older than what was known
	Noted      uint64            `json:"noted"`     // events that move nobody
	Unknown    uint64            `json:"unknown"`   // events of unknown types
	Remembered int               `json:"remembered"`
	Floor      time.Time         `json:"remembers_from,omitzero"`
}

// SignalsAccount is what stands against a user's account.
type SignalsAccount struct {
	Account string    `json:"account"`
	Text    string    `json:"text"`
	At      time.Time `json:"at"`
}

// SignalsVerified is the answer to a verification.
type SignalsVerified struct {
	Back bool `json:"back"` // the event came back; else it is on its way
}

// SignalsStatusRequest asks the transmitter to change the stream's status.
type SignalsStatusRequest struct {
	Status string `json:"status"` // enabled, paused or disabled
	Reason string `json:"reason,omitempty"`
}
