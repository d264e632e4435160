package main

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"lazaret/internal/testneed"
)

// linkLocal gives the test a network of its own and is true there, where at is the one
// address; outside it runs the test in that network.
func linkLocal(t *testing.T, at netip.Prefix) bool {
	t.Helper()
	if os.Getenv("LAZARET_TEST_INSIDE") == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: at.Addr().AsSlice(), Mask: net.CIDRMask(at.Bits(), 128)}})
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	testneed.Namespaces(t)
	c := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	c.Env = append(os.Environ(), "LAZARET_TEST_INSIDE="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a network of its own: %v\n%s", err, out)
	}
	return false
}

// TestClaimLinkLocal: by the one address that a machine without DHCP and routers has.
func TestClaimLinkLocal(t *testing.T) {
	if !linkLocal(t, netip.MustParsePrefix("fe80::1/64")) {
		return
	}
	const at = "fe80::1%lo"
	address, code, kept := unclaimed(t, t.TempDir())
	l, err := net.Listen("tcp", "["+at+"]:0")
	if err != nil {
		t.Fatal(err)
	}
	relay(t, l, address)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "credential")
	_, said, err := ctl(t, dir, code.String(), "claim", "["+at+"]:"+port, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if n := kept(); n != 1 {
		t.Errorf("kept %d times", n)
	}
}
