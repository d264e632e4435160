package api

import "time"

// TokenRequest asks for an API token. Nobody makes one that may do what they may not (D4).
type TokenRequest struct {
	Name        string    `json:"name"`
	Scope       string    `json:"scope"`                 // a role: see /api/v1/roles
	Permissions []string  `json:"permissions,omitempty"` // of the role's; none: all of them
	For         Selection `json:"for,omitzero"`          // devices that exist for it
	Source      string    `json:"source,omitempty"`      // the source it speaks for; scope "report" needs one
	Life        string    `json:"life,omitempty"`        // like "30d"; default a year, or for ever where it reports
}

// Token is a token without its secret; Secret is set in the answer to its creation only.
type Token struct {
	Name        string      `json:"name"`
	Scope       string      `json:"scope"`
	Permissions []string    `json:"permissions"`
	For         []Selection `json:"for,omitempty"` // each must select a device
	Source      string      `json:"source,omitempty"`
	Created     time.Time   `json:"created"`
	By          string      `json:"by"`
	Parent      string      `json:"parent,omitempty"` // the token that made it
	Expires     time.Time   `json:"expires,omitzero"`
	Used        time.Time   `json:"used,omitzero"` // last, to the hour
	State       string      `json:"state"`         // "live", "expired", or "orphaned": what it comes from is gone or over
	Descendants []string    `json:"descendants"`   // tokens that go with it
	Secret      string      `json:"secret,omitempty"`
}

// TokensDeleted names what was deleted: the token that was asked for, and what came of it.
type TokensDeleted struct {
	Deleted []string `json:"deleted"`
}

// Roles is what there is to give.
type Roles struct {
	Permissions []Permission `json:"permissions"`
	Roles       []Role       `json:"roles"`
}

// Permission is one thing that an identity may do.
type Permission struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Role is a named set of permissions.
type Role struct {
	Name        string   `json:"name"`
	Text        string   `json:"text"`
	Permissions []string `json:"permissions"`
}
