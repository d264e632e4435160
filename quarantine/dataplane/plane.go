package dataplane

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"lazaret/firewall"
)

// Config says what a Plane works with.
type Config struct {
	Table    Table                               // required: opened, not yet adopted
	OpenLink func(context.Context) (Link, error) // required: called once the table stands
	Host     firewall.Ruleset                    // required: the gateway's own rules, without pools
	Listener *net.UnixListener                   // where control planes connect; this or Conn is required
	Conn     net.Conn                            // an inherited connection to a control plane
	UIDs     []uint32                            // users that may connect to Listener; empty: the process's own
	Forward  func() error                        // switches forwarding on; nil: writes /proc/sys
	Clock    func() Times                        // nil: the system's clocks
	Log      *slog.Logger                        // optional
}

// Plane is the data plane. It starts with everything shut.
type Plane struct {
	config Config
}

// New checks c. Nothing happens before Run.
func New(c Config) (*Plane, error) {
	return nil, errors.New("not built yet")
}

// Run adopts the table, opens the link, takes orders until ctx ends, and lets go. The
// table stays, and a kernel link too. If the table cannot be set up there is no
// interface, and Run fails.
func (p *Plane) Run(ctx context.Context) error { return errors.New("not built yet") }

// Ready is closed once the table stands, the link is up and orders are taken.
func (p *Plane) Ready() <-chan struct{} { return nil }

// Listen makes the socket at path for Config.Listener, whole or not at all, with
// mode 0600, or 0660 when group is not negative.
func Listen(path string, group int) (*net.UnixListener, error) {
	return nil, errors.New("not built yet")
}
