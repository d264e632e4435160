package network

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"lazaret/appliance"
)

// Config is what a Manager needs.
type Config struct {
	Log      *slog.Logger              // required
	Resolv   string                    // where resolv.conf is written; empty: nowhere
	Hostname func() string             // told to DHCP servers; nil or "": none
	Load     func(module string) error // loads a kernel module (bonding, 8021q) before the first such link; nil: the kernel does
}

// Manager makes the kernel's network match an appliance.Network. Its methods may be called
// by several at once.
type Manager struct{ config Config }

// New returns a Manager that has touched nothing yet.
func New(c Config) (*Manager, error) {
	if c.Log == nil {
		return nil, errors.New("making the network manager: no log")
	}
	return &Manager{config: c}, nil
}

// Run follows the kernel, renews leases and ends tries, until ctx ends. Addresses stay then.
func (m *Manager) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Set makes n what holds from now on, and ends a try. Cards that are missing are no
// error: they are configured when they come. After an error the rest of n is in force.
func (m *Manager) Set(ctx context.Context, n appliance.Network) error { return errors.ErrUnsupported }

// Try is Set that takes itself back after d unless Confirm comes before. Run must be running.
func (m *Manager) Try(ctx context.Context, n appliance.Network, d time.Duration) error {
	return errors.ErrUnsupported
}

// Confirm keeps what is being tried and returns it, for whoever writes it down.
func (m *Manager) Confirm() (appliance.Network, error) {
	return appliance.Network{}, errors.ErrUnsupported
}

// Revert takes back what is being tried, at once.
func (m *Manager) Revert(ctx context.Context) error { return errors.ErrUnsupported }

// Trying tells until when a try lasts; ok is false where there is none.
func (m *Manager) Trying() (until time.Time, ok bool) { return time.Time{}, false }

// Network is what holds or is tried now.
func (m *Manager) Network() appliance.Network { return appliance.Network{} }

// Links are the machine's cards and what is built on them, by name.
func (m *Manager) Links() []appliance.LinkIs { return nil }

// Changed returns a channel that is closed at the next change of links, addresses, routes,
// name or time servers.
func (m *Manager) Changed() <-chan struct{} { return nil }

// TimeServers are those that DHCP named, without repetition.
func (m *Manager) TimeServers() []string { return nil }
