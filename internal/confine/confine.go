// Package confine has a process give up, for good and for all its threads, what it does not
// need: new privileges, capabilities, most of the file system (Landlock) and most of the
// kernel's calls (seccomp). It needs a program built without cgo, so that every thread is
// the Go runtime's.
package confine

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Profile is what kind of process confines itself. The zero Profile is refused.
type Profile string

// The profiles that there are.
const (
	Control Profile = "control" // lazaretd serve: network and its files
	Plane   Profile = "plane"   // lazaretd dataplane: netlink, /dev/net/tun, CAP_NET_ADMIN
	Claim   Profile = "claim"   // lazaretd claim: network, nearly no files
	Make    Profile = "make"    // lazaretd make: its files, and no network at all
)

// Paths are files and directories, with all below them, that the process keeps. One that
// does not exist is passed over: it cannot be opened later either.
type Paths struct {
	ReadOnly  []string
	ReadWrite []string
}

// limits is what a profile keeps.
type limits struct {
	capabilities []int
	paths        Paths
	calls        calls
	tcp          bool // may listen and connect over TCP
}

func (p Profile) limits() (limits, error) {
	switch p {
	case Control, Claim:
		return limits{
			capabilities: []int{unix.CAP_NET_BIND_SERVICE},
			paths: Paths{ReadOnly: []string{
				"/proc/self", "/proc/sys/net/core/somaxconn",
				"/etc/resolv.conf", "/run/machine", "/run/systemd/resolve", // a file that is replaced is another file: the directory
				"/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/localtime", "/etc/mime.types",
				"/etc/ssl", "/etc/pki/tls", "/usr/share/zoneinfo", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
			}},
			calls: controlCalls(), tcp: true,
		}, nil
	case Plane:
		return limits{
			capabilities: []int{unix.CAP_NET_ADMIN},
			paths: Paths{
				ReadOnly:  []string{"/proc/self", "/proc/net", "/proc/sys"},
				ReadWrite: []string{"/proc/sys/net", "/dev/net/tun"},
			},
			calls: planeCalls(),
		}, nil
	case Make:
		return limits{paths: Paths{ReadOnly: []string{"/proc/self", "/proc/sys/net/core/somaxconn", "/etc/localtime", "/usr/share/zoneinfo"}}, calls: base()}, nil
	}
	return limits{}, fmt.Errorf("there is no profile %q", p)
}

// Enter confines the process. An error means that it must not go on: it may be confined
// in part.
func Enter(p Profile, paths Paths) error {
	l, err := p.limits()
	if err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	l.paths.ReadOnly = append(l.paths.ReadOnly, paths.ReadOnly...)
	l.paths.ReadWrite = append(l.paths.ReadWrite, paths.ReadWrite...)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"giving up new privileges", noNewPrivileges},
		{"giving up capabilities", func() error { return keepCapabilities(l.capabilities) }},
		{"giving up files", func() error { return restrictFiles(l.paths, l.tcp) }},
		{"giving up calls", func() error { return l.calls.install() }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("confining the process as %s: %s: %w", p, step.what, err)
		}
	}
	return nil
}

// everywhere makes one call on all threads. The process ends if they do not all fare alike.
//
//go:uintptrescapes
func everywhere(trap, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(trap, a, b, c); errno != 0 {
		if errors.Is(errno, syscall.ENOTSUP) {
			return fmt.Errorf("%w: the program must be built with CGO_ENABLED=0", errno)
		}
		return errno
	}
	return nil
}

func noNewPrivileges() error {
	return everywhere(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
}
