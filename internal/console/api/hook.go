package api

import "time"

// Hook is how a source sends signed webhooks.
type Hook struct {
	Source string    `json:"source"`
	URL    string    `json:"url"`    // to post to
	Window string    `json:"window"` // how far a message's time stamp may be from now
	Keys   []HookKey `json:"keys"`   // oldest first
}

// HookRequest changes how a source sends.
type HookRequest struct {
	Window string `json:"window"` // like "1m": 10s to 5m
}

// HookKey is a key of a source without its secret; Secret is set in the answer to its creation only.
type HookKey struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	By      string    `json:"by"`
	Secret  string    `json:"secret,omitempty"` // whsec_ and the key in base64
}
