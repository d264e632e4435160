package tunnel

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// inside runs the calling test once more, in a process that lives wholly in user,
// mount and network namespaces of its own, as wireguard-go wants it. It returns true
// in that process, with lo up and an own /run.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv("LAZARET_INSIDE") == t.Name() {
		prepare(t)
		return true
	}
	testneed.Namespaces(t)
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=150s")
	c.Env = append(os.Environ(), "LAZARET_INSIDE="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		testneed.Skip(t, string(out))
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("inside the namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

func prepare(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("/run/wireguard", 0o700); err != nil {
		t.Fatal(err)
	}
}
