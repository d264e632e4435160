package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Ending is how a machine ends.
type Ending string

// The endings of a machine.
const (
	Restart  Ending = "restart"
	PowerOff Ending = "power off"
)

// End ends the machine: everything that lies on disks is unmounted, or made read-only
// where it is still in use, written out, and the kernel told. The processes must have been
// ended before (package supervise). It returns only with an error.
func (c Config) End(how Ending) error {
	command, ok := map[Ending]int{Restart: unix.LINUX_REBOOT_CMD_RESTART, PowerOff: unix.LINUX_REBOOT_CMD_POWER_OFF}[how]
	if !ok {
		return fmt.Errorf("ending the machine: there is no way %q", how)
	}
	c.os().Sync()
	if err := c.unmount(); err != nil {
		c.Log.Error("a file system could not be put away", "error", err) // the machine ends all the same
	}
	c.os().Sync()
	if err := c.os().Reboot(command); err != nil {
		return fmt.Errorf("ending the machine: %w", err)
	}
	return nil
}

// unmount puts away what lies on disks, the last mounted first.
func (c Config) unmount() error {
	text, err := os.ReadFile(c.at("/proc/self/mountinfo"))
	if err != nil {
		return fmt.Errorf("reading what is mounted: %w", err)
	}
	points := onDisks(string(text))
	var faults []error
	for _, point := range slices.Backward(points) {
		err := c.os().Unmount(point, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if ro := c.os().Mount("", point, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); ro != nil {
			faults = append(faults, fmt.Errorf("putting %s away: %w", point, errors.Join(err, ro)))
		}
	}
	return errors.Join(faults...)
}

// onDisks returns the mount points in the text of mountinfo (proc_pid_mountinfo(5)) whose
// source is a device, in the order in which they were mounted.
func onDisks(text string) (points []string) {
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 5 && len(source) >= 2 && strings.HasPrefix(source[1], "/dev/") {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points
}

// unescape undoes what the kernel does to spaces and the like.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
