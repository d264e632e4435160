package testnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// limits are the settings that can forbid what a lab needs, with the values that
// do, and what to set.
var limits = []struct {
	path, bad, remedy string
	rootless          bool // concerns user namespaces
}{
	{"proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000", true},
	{"proc/sys/user/max_net_namespaces", "0", "sysctl -w user.max_net_namespaces=15000", false},
	{"proc/sys/user/max_mnt_namespaces", "0", "sysctl -w user.max_mnt_namespaces=15000", false},
	{"proc/sys/user/max_pid_namespaces", "0", "sysctl -w user.max_pid_namespaces=15000", false},
	{"proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1", true},
	{"proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", true},
}

// refusal explains err if it is one. An error that came from another process is
// known by its text.
func refusal(err error) error {
	for _, no := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EUSERS} {
		if errors.Is(err, no) || strings.HasSuffix(err.Error(), no.Error()) {
			return explainRefusal(os.DirFS("/"), os.Geteuid(), err)
		}
	}
	return err
}

// explainRefusal adds to err which setting of the machine refuses namespaces, as
// far as it can be read, and how to run as root instead.
func explainRefusal(root fs.FS, uid int, err error) error {
	var found []string
	for _, l := range limits {
		if uid == 0 && l.rootless && l.bad == "1" {
			continue // restricts only users without privileges
		}
		b, readErr := fs.ReadFile(root, l.path)
		if readErr != nil || strings.TrimSpace(string(b)) != l.bad {
			continue
		}
		name := strings.ReplaceAll(strings.TrimPrefix(l.path, "proc/sys/"), "/", ".")
		found = append(found, fmt.Sprintf("%s is %s (to allow: %s)", name, l.bad, l.remedy))
	}
	setting := len(found) > 0
	if !setting && filtered(root) {
		found = append(found, "a system call filter is active, as in a container: start the container with --privileged, or with --security-opt seccomp=unconfined and --device /dev/net/tun")
	}
	why := "no setting that is known to refuse them was found"
	if len(found) > 0 {
		why = strings.Join(found, "; ")
	}
	how := "or run it as root, for example: go build -o /tmp/lab ./cmd/demo && sudo /tmp/lab"
	switch {
	case uid == 0 && setting:
		how = "then run it again"
	case uid == 0:
		how = "it runs as root already, which then lacks CAP_SYS_ADMIN or CAP_NET_ADMIN"
	}
	return fmt.Errorf("%w: namespaces are refused: %s; %s", err, why, how)
}

// filtered reports whether a seccomp filter is in force on this process.
func filtered(root fs.FS) bool {
	b, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Seccomp:"); ok {
			return strings.TrimSpace(rest) == "2"
		}
	}
	return false
}
