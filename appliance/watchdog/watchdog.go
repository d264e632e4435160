// Package watchdog keeps a watchdog quiet for as long as the machine's own process is
// well. When it is not, or the kernel is not, the watchdog restarts the machine, and the
// boot loader counts the attempt.
package watchdog

import (
	"context"
	"log/slog"
	"time"
)

// Config is what Open needs.
type Config struct {
	Log     *slog.Logger            // required
	Load    func(name string) error // required: loads a kernel module by name
	Timeout time.Duration           // optional: without a sign of life for so long, the machine restarts; default 30s
	Dev     string                  // optional: default /dev
	Sys     string                  // optional: default /sys
}

// Dog is an armed watchdog.
type Dog struct{}

// Open arms a watchdog: hardware where there is one (its module must be loaded, or be one
// of those that Open tries), the kernel's own where there is none.
func Open(c Config) (*Dog, error) { return nil, nil }

// Name says which watchdog it is, and whether the hardware does it, like "iTCO_wdt, 30s".
func (d *Dog) Name() string { return "" }

// Run feeds the dog a few times in each timeout, each time only after alive has returned
// nil, until ctx ends. alive asks the main loop for an answer, and gives up with its context.
func (d *Dog) Run(ctx context.Context, alive func(context.Context) error) error { return nil }

// Last sets a final timeout for an orderly shutdown, feeds once and lets go: a shutdown
// that hangs is cut short by it.
func (d *Dog) Last(timeout time.Duration) error { return nil }

// Close disarms the watchdog, where it can be.
func (d *Dog) Close() error { return nil }
