package plane

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// minKernel has what enforcement rests on: the table flag persist, timeouts refreshed in
// place, and deletion of elements that may be gone.
var minKernel = [2]int{6, 12}

// preflight names everything the data plane would miss on this machine, at once.
func preflight() error {
	var faults []error
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		faults = append(faults, fmt.Errorf("asking for the kernel's version: %w", err))
	} else if err := checkKernel(unix.ByteSliceToString(uts.Release[:])); err != nil {
		faults = append(faults, err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		faults = append(faults, fmt.Errorf("reading capabilities: %w", err))
	} else if err := checkCapability(string(status)); err != nil {
		faults = append(faults, err)
	}
	if _, err := os.Stat("/proc/sys/net/netfilter"); err != nil {
		faults = append(faults, errors.New("the kernel tracks no connections: load the module nf_conntrack"))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("this machine cannot enforce:\n%w", err)
	}
	return nil
}

func checkKernel(release string) error {
	var have [2]int
	parts := strings.SplitN(release, ".", 3)
	for i := range have {
		if i < len(parts) {
			digits := parts[i][:len(parts[i])-len(strings.TrimLeft(parts[i], "0123456789"))]
			have[i], _ = strconv.Atoi(digits) // unreadable is 0: too old
		}
	}
	if have[0] < minKernel[0] || (have[0] == minKernel[0] && have[1] < minKernel[1]) {
		return fmt.Errorf("kernel %s is too old: Linux %d.%d or newer is needed", release, minKernel[0], minKernel[1])
	}
	return nil
}

// checkCapability looks for CAP_NET_ADMIN in the text of /proc/self/status.
func checkCapability(status string) error {
	for line := range strings.Lines(status) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err == nil && set&(1<<unix.CAP_NET_ADMIN) != 0 {
			return nil
		}
	}
	return errors.New("the capability CAP_NET_ADMIN is missing: run the data plane as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN")
}
