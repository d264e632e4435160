// Package process runs the gateway's long-lived processes for the programs that have them as
// commands: lazaretd, and the appliance's small program, in which there is no store. So there
// is none here.
package process

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"lazaret/internal/config"
	"lazaret/internal/confine"
	"lazaret/internal/notify"
	"lazaret/internal/plane"
)

// Part is one of the two processes of a gateway.
type Part struct {
	Name    string                                                             // in its log; required
	Confine func(c config.Config, path string, log *slog.Logger) error         // gives up what it does not need; required
	Live    func(ctx context.Context, c config.Config, log *slog.Logger) error // until ctx ends; required
}

// Run loads the configuration at path and runs the part until ctx ends. Confined, it gives up
// first what it does not need.
func (p Part) Run(ctx context.Context, path string, confined bool) error {
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	log := c.Logger(os.Stderr).With("process", p.Name)
	for _, d := range c.Doubts {
		log.Warn("the configuration should be corrected", "line", d.Line, "key", d.Key, "what", d.What, "remedy", d.Remedy)
	}
	if confined {
		if err := p.Confine(c, path, log); err != nil {
			return err
		}
	}
	return p.Live(ctx, c, log)
}

// Plane is the data plane. It needs CAP_NET_ADMIN, and is left its own directory and that of
// its sockets.
var Plane = Part{
	Name: "dataplane",
	Confine: func(c config.Config, path string, log *slog.Logger) error {
		if err := plane.MakeSocketDir(c.Dataplane.Socket); err != nil {
			return err
		}
		sockets := filepath.Dir(c.Dataplane.Socket)
		return Enter(confine.Plane, confine.Paths{ReadOnly: []string{path}, ReadWrite: []string{sockets}}, c.Dataplane.State, log)
	},
	Live: func(ctx context.Context, c config.Config, log *slog.Logger) error {
		return plane.Run(ctx, c, log, notify.Ready)
	},
}

// Enter confines the process to a profile and paths, and to its own directory, which is made
// where there is none. What the kernel cannot take from it is logged.
func Enter(p confine.Profile, paths confine.Paths, own string, log *slog.Logger) error {
	if err := os.MkdirAll(own, 0o700); err != nil {
		return fmt.Errorf("making the process's directory: %w", err)
	}
	paths.ReadWrite = append(paths.ReadWrite, own)
	for _, lack := range confine.Lacks() {
		log.Warn("the process is confined less than it could be", "why", lack)
	}
	return confine.Enter(p, paths)
}
