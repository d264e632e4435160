package agent

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"lazaret/internal/testneed"
)

// inside runs the calling test once more, in a process with user, mount and network
// namespaces of its own, and returns true there: rules and mounts of this machine are
// never touched.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv("LAZARET_INSIDE") == t.Name() {
		return true
	}
	testneed.Namespaces(t)
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	c.Env = append(os.Environ(), "LAZARET_INSIDE="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("inside the namespaces: %v\n%s", err, out)
	}
	return false
}
