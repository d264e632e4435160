// Package boot makes a kernel that has just started into a machine that is fit to run
// something: file systems where they belong, a root that nobody can write to, settings of
// the kernel that give little away; and it ends the machine in order. It is for process
// number 1 alone.
package boot

import (
	"log/slog"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Config says where things are. The zero Config is the running machine.
type Config struct {
	Log  *slog.Logger // required
	Root string       // optional: directory that stands for /, for tests

	kernel kernel // optional: the running one
}

// kernel is what this package asks of the kernel.
type kernel interface {
	Mount(source, target, kind string, flags uintptr, data string) error
	Unmount(target string, flags int) error
	Limit(resource int, to unix.Rlimit) error
	Sync()
	Reboot(command int) error
}

// running is the kernel that runs.
type running struct{}

func (running) Mount(source, target, kind string, flags uintptr, data string) error {
	return unix.Mount(source, target, kind, flags, data)
}
func (running) Unmount(target string, flags int) error   { return unix.Unmount(target, flags) }
func (running) Limit(resource int, to unix.Rlimit) error { return unix.Setrlimit(resource, &to) }
func (running) Sync()                                    { unix.Sync() }
func (running) Reboot(command int) error                 { return unix.Reboot(command) }

func (c Config) os() kernel {
	if c.kernel != nil {
		return c.kernel
	}
	return running{}
}

// at is where a path of the machine is.
func (c Config) at(path string) string { return filepath.Join("/", c.Root, path) }
