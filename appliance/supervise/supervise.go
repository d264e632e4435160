// Package supervise runs the machine's processes, each this same program with another
// command, user and few rights: it starts them, waits until they are ready, starts them
// again when they end, ends them in order, and takes in what they leave behind.
package supervise

import (
	"context"
	"io"
	"log/slog"
	"time"

	"lazaret/appliance"
)

// Part is one process to run.
type Part struct {
	Name        string        // required: lower-case letters, digits and hyphens
	Args        []string      // after the program's name
	User, Group int           // as which it runs
	AmbientCaps []uintptr     // capabilities it has, like unix.CAP_NET_ADMIN
	Env         []string      // all of its environment, but for NOTIFY_SOCKET
	Notify      bool          // it tells readiness by NOTIFY_SOCKET; false: it is ready once started
	ReadyWithin time.Duration // optional: default 2 minutes; then it is started again
	StopWithin  time.Duration // optional: default 10 seconds from SIGTERM to SIGKILL
	Files       uint64        // optional: most open files (RLIMIT_NOFILE); 0: as this process
	Memory      int64         // optional: most memory in bytes, where there are cgroups
	Tasks       int           // optional: most threads and processes, where there are cgroups
	OOMScore    int           // -1000 to 1000 (oom_score_adj)
}

// Config is what New needs.
type Config struct {
	Log     *slog.Logger                      // required
	Output  func(part string, from io.Reader) // required: reads what a part writes to its outputs, to the end
	Dir     string                            // required: directory for sockets, made with mode 0755
	Program string                            // optional: default /proc/self/exe
	Cgroups string                            // optional: where cgroup v2 is mounted; empty: none
	Orphans bool                              // process number 1: take in processes whose parents are gone
	Now     func() time.Time                  // optional
}

// Supervisor runs parts.
type Supervisor struct{}

// New returns a Supervisor that runs nothing yet.
func New(c Config) (*Supervisor, error) { return &Supervisor{}, nil }

// Start has a part run from now on, until Stop or Close. It does not wait for it.
func (s *Supervisor) Start(p Part) error { return nil }

// Ready waits until the part is ready, for as long as ctx lets it.
func (s *Supervisor) Ready(ctx context.Context, name string) error { return nil }

// Stop ends a part, with SIGTERM first, and forgets it. It returns when its process is gone.
func (s *Supervisor) Stop(name string) error { return nil }

// Restart ends a part's process and starts it at once.
func (s *Supervisor) Restart(name string) error { return nil }

// Once runs p a single time to its end, with in as its input and its standard output
// written to out. It ends by SIGKILL when ctx does. An error says how it ended.
func (s *Supervisor) Once(ctx context.Context, p Part, in io.Reader, out io.Writer) error { return nil }

// Parts tells how all parts do, sorted by name.
func (s *Supervisor) Parts() []appliance.Part { return nil }

// Problems are sentences on parts that are not as they should be.
func (s *Supervisor) Problems() []string { return nil }

// Changed gets a value after a part became ready or ended.
func (s *Supervisor) Changed() <-chan struct{} { return nil }

// Close ends all parts, the last one started first, and everything of the Supervisor's.
func (s *Supervisor) Close() error { return nil }
