package firewall

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"lazaret/internal/testneed"
)

const childVariable = "LAZARET_FIREWALL_CHILD"

// inNamespace runs the calling test or benchmark again, in user, network and mount
// namespaces of its own, and reports whether this process is that one. The caller
// returns at once when it is not.
func inNamespace(t testing.TB) bool {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return true
	}
	testneed.Namespaces(t)
	args := []string{"-test.v", "-test.count=1", "-test.run=^" + t.Name() + "$"}
	if _, bench := t.(*testing.B); bench {
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$"}
	}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	out, err := child(args...).CombinedOutput()
	if _, bench := t.(*testing.B); bench || err != nil || testing.Verbose() {
		t.Logf("in namespaces:\n%s", out)
	}
	if err != nil {
		t.Fatalf("failed in namespaces: %v", err)
	}
	if bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
		testneed.Skip(t, "skipped in namespaces")
	}
	return false
}

// child is this test binary in new namespaces, where it is root.
func child(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), childVariable+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return c
}

// nft runs the witness and returns what it prints.
func nft(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(testneed.Program(t, "nft"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
