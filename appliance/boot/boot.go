// Package boot makes a kernel that has just started into a machine that is fit to run
// something: file systems where they belong, a root that nobody can write to, settings of
// the kernel that give little away; and it ends the machine in order. It is for process
// number 1 alone.
package boot

import "log/slog"

// Config says where things are. The zero Config is the running machine.
type Config struct {
	Log  *slog.Logger // required
	Root string       // optional: directory that stands for /, for tests
}

// Ending is how a machine ends.
type Ending string

// The endings of a machine.
const (
	Restart  Ending = "restart"
	PowerOff Ending = "power off"
)
