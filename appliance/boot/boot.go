// Package boot makes a kernel that has just started into a machine that is fit to run
// something: file systems where they belong, a root that nobody can write to, settings of
// the kernel that give little away; and it ends the machine in order. It is for process
// number 1 alone.
package boot

import (
	"fmt"
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
	Loopback() error
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
func (running) Loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
func (running) Sync()                    { unix.Sync() }
func (running) Reboot(command int) error { return unix.Reboot(command) }

func (c Config) os() kernel {
	if c.kernel != nil {
		return c.kernel
	}
	return running{}
}

// Loopback brings up the machine's link to itself; the kernel gives it its addresses.
func (c Config) Loopback() error {
	if err := c.os().Loopback(); err != nil {
		return fmt.Errorf("bringing up the loopback link: %w", err)
	}
	return nil
}

// at is where a path of the machine is.
func (c Config) at(path string) string { return filepath.Join("/", c.Root, path) }
