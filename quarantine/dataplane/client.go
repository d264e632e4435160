package dataplane

import (
	"context"
	"errors"
	"net"

	"lazaret/quarantine"
)

// Client is the control plane's end: a quarantine.Enforcer that keeps itself
// connected. An order while there is no data plane fails with
// quarantine.ErrNotEnforced. It is safe for concurrent use; orders go one at a time.
type Client struct{}

var _ quarantine.Enforcer = (*Client)(nil)

// Dial connects to the socket at path, waiting for it until ctx ends, and connects
// again whenever the connection breaks, until Close.
func Dial(ctx context.Context, path string) (*Client, error) {
	return nil, errors.New("not built yet")
}

// NewClient speaks over one connection, such as an inherited one, and does not reconnect.
func NewClient(conn net.Conn) *Client { return &Client{} }

// Events returns what the data plane tells. On Connected and NeedPlan the receiver
// sends a plan. The channel is closed by Close.
func (c *Client) Events() <-chan Event { return nil }

// Apply implements quarantine.Enforcer.
func (c *Client) Apply(ctx context.Context, e quarantine.Entry) error {
	return quarantine.ErrNotEnforced
}

// Replace implements quarantine.Enforcer.
func (c *Client) Replace(ctx context.Context, p quarantine.Plan) error {
	return quarantine.ErrNotEnforced
}

// Refresh implements quarantine.Enforcer.
func (c *Client) Refresh(ctx context.Context, f quarantine.Freshness) error {
	return quarantine.ErrNotEnforced
}

// Close ends the client. What the data plane enforces stays.
func (c *Client) Close() error { return nil }
