package clock

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"lazaret/appliance"
)

// Config is what a Keeper needs.
type Config struct {
	Log     *slog.Logger    // required
	Servers func() []string // names or addresses, asked anew in each round; none: DefaultServers
	Built   time.Time       // when the image was built: time is never before
	Mark    string          // a file on the data partition whose time of change is the last time known; empty: none
	Claimed func() bool     // the machine is somebody's: great steps wait for a person; nil: it is not
}

// Keeper keeps the clock.
type Keeper struct{ config Config }

// New returns a Keeper that has touched nothing yet.
func New(c Config) (*Keeper, error) {
	if c.Log == nil {
		return nil, errors.New("making the clock's keeper: no log")
	}
	return &Keeper{config: c}, nil
}

// Run keeps the clock until ctx ends.
func (k *Keeper) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Floor sets the clock to the last time known to have passed, if it is behind it, as after
// a dead battery. Call it again when the data partition is open, and before anything
// that looks at certificates.
func (k *Keeper) Floor() error { return errors.ErrUnsupported }

// Kick begins a round at once, as when the network has come up.
func (k *Keeper) Kick() {}

// Accept has a step that waits for a person taken, if it is still what servers say.
func (k *Keeper) Accept(ctx context.Context) error { return errors.ErrUnsupported }

// Status is what is known of the time.
func (k *Keeper) Status() appliance.Clock { return appliance.Clock{} }

// Synchronized returns a channel that is closed once the clock has been compared.
func (k *Keeper) Synchronized() <-chan struct{} { return nil }
