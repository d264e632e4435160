// Package modules loads kernel modules for the devices that there are, and by name, and
// tells when devices come and go. It trusts the index that was made with the image.
package modules

import (
	"context"
	"log/slog"
)

// Index tells which modules there are; *appliance.ModuleIndex is one.
type Index interface {
	// Find returns the names of the modules for a device's modalias.
	Find(modalias string) []string
	// Needs returns the files of a module and of all it needs, below the modules'
	// directory, in the order to load them; none when there is no such module.
	Needs(name string) []string
}

// Config is what a Loader needs.
type Config struct {
	Index Index        // required
	Log   *slog.Logger // required
	Dir   string       // required: directory of the modules, like /lib/modules/6.12.1
	Sys   string       // optional: default /sys
}

// Loader loads modules, each once. Its methods may be called at the same time.
type Loader struct{ c Config }

// New returns a Loader that has loaded nothing.
func New(c Config) *Loader { return &Loader{c: c} }

// Load loads modules by name, with all that they need. One that the kernel has already, or
// that finds no device, is no error; one that the image lacks is.
func (l *Loader) Load(names ...string) error { return nil }

// Devices loads the modules for all devices that there are now, until loading brings up no
// further ones. What fails is logged and returned; the rest is loaded all the same.
func (l *Loader) Devices() error { return nil }

// Run loads modules for devices as they appear, until ctx ends.
func (l *Loader) Run(ctx context.Context) error { return nil }

// Changed returns a channel that gets a value after block devices or network cards came or
// went since it was last read. Every caller has a channel of its own.
func (l *Loader) Changed() <-chan struct{} { return nil }

// Loaded returns the names of the modules loaded by now, sorted.
func (l *Loader) Loaded() []string { return nil }
