package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// file system to mount.
type mount struct {
	at, kind string
	flags    uintptr
	data     string
	optional bool // the kernel may lack it
}

// plain is what no file system but the root needs to offer.
const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts are in the order in which they are mounted. Of /proc each user sees its own
// processes alone: the data plane and the control plane know nothing of each other's.
var mounts = []mount{
	{at: "/proc", kind: "proc", flags: plain, data: "hidepid=invisible"},
	{at: "/sys", kind: "sysfs", flags: plain},
	{at: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0755"},
	{at: "/run", kind: "tmpfs", flags: plain, data: "mode=0755,size=32m,nr_inodes=8k"},
	{at: appliance.RunDir, kind: "tmpfs", flags: plain, data: planeRun},
	{at: "/tmp", kind: "tmpfs", flags: plain, data: "mode=1777,size=64m,nr_inodes=8k"},
	{at: "/sys/fs/cgroup", kind: "cgroup2", flags: plain, optional: true},
	{at: "/sys/kernel/security", kind: "securityfs", flags: plain, optional: true},
	{at: "/sys/fs/pstore", kind: "pstore", flags: plain, optional: true},
}

// planeRun has the data plane, which owns appliance.RunDir, fill that and nothing else: the
// sockets by which everybody tells readiness are in /run, too.
var planeRun = fmt.Sprintf("mode=0755,uid=%d,gid=%[1]d,size=1m,nr_inodes=64", appliance.PlaneUser)

// Mount mounts what every part of the machine expects (proc, sysfs, devices, /run, /tmp,
// cgroups, and what is of use where the kernel has it), and makes the directories below
// /run. What is mounted already is left alone. It is called before anything else; an error
// means that the machine cannot go on.
func (c Config) Mount() error {
	for _, m := range mounts {
		if err := c.mount(m); err != nil {
			return err
		}
	}
	for _, dir := range []string{appliance.DataDir, appliance.ESPDir, appliance.MachineRun} {
		if err := os.MkdirAll(c.at(dir), 0o755); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
	}
	return nil
}

func (c Config) mount(m mount) error {
	if err := os.MkdirAll(c.at(m.at), 0o755); err != nil && !m.optional {
		return fmt.Errorf("making the mount point %s: %w", m.at, err)
	}
	err := c.os().Mount(m.kind, c.at(m.at), m.kind, m.flags, m.data)
	switch {
	case err == nil, errors.Is(err, unix.EBUSY): // it is there already
		return nil
	case m.optional:
		c.Log.Info("the kernel has no such file system", "kind", m.kind, "error", err)
		return nil
	}
	return fmt.Errorf("mounting %s: %w", m.at, err)
}

// SealRoot makes the root file system read-only, without devices and set-user-ID programs,
// and tries that it is: a file that can still be made there is an error. Mount points must
// be there before.
func (c Config) SealRoot() error {
	const flags = unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	err := c.os().Mount("", c.at("/"), "", flags, "")               // the file system, however it is reached
	bind := c.os().Mount("", c.at("/"), "", flags|unix.MS_BIND, "") // and the way that everybody has to it
	if err != nil && bind != nil {
		return fmt.Errorf("making the root read-only: %w", errors.Join(err, bind))
	}
	path := c.at("/.sealed")
	f, err := os.Create(path)
	if err == nil {
		return fmt.Errorf("making the root read-only: %s could still be made", path+errText(errors.Join(f.Close(), os.Remove(path))))
	}
	if !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("trying whether the root is read-only: %w", err)
	}
	return nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}

// efiVariables is where the firmware's variables are.
const efiVariables = "/sys/firmware/efi/efivars"

// ErrNoEFI says that the machine was not started by EFI firmware, or that the kernel lacks
// the file system for its variables (module efivarfs).
var ErrNoEFI = errors.New("there are no variables of EFI firmware")

// EFIVariables mounts the firmware's variables read-only and returns where. The module
// efivarfs must have been loaded.
func (c Config) EFIVariables() (dir string, err error) {
	dir = c.at(efiVariables)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", ErrNoEFI
	}
	if err := c.os().Mount("efivarfs", dir, "efivarfs", plain|unix.MS_RDONLY, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return "", fmt.Errorf("%w: %w", ErrNoEFI, err)
	}
	return dir, nil
}

// WithEFIVariables has the firmware's variables writable while do runs, which gets their
// directory. They are read-only again afterwards, whatever do returned.
func (c Config) WithEFIVariables(do func(dir string) error) (err error) {
	dir, err := c.EFIVariables()
	if err != nil {
		return err
	}
	if err := c.os().Mount("", dir, "", plain|unix.MS_REMOUNT, ""); err != nil {
		return fmt.Errorf("opening the firmware's variables for writing: %w", err)
	}
	defer func() {
		if again := c.os().Mount("", dir, "", plain|unix.MS_REMOUNT|unix.MS_RDONLY, ""); again != nil {
			err = errors.Join(err, fmt.Errorf("closing the firmware's variables: %w", again))
		}
	}()
	return do(filepath.Clean(dir))
}
