package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/internal/config"
	"lazaret/internal/testneed"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
)

const (
	innerVariable  = "LAZARET_PLANE_INSIDE"  // names the test that runs in its own namespace
	socketVariable = "LAZARET_PLANE_VISITOR" // makes TestVisitor a control plane
)

// again runs the calling test once more, in a network namespace of its own.
func again(t *testing.T, a *syscall.SysProcAttr) {
	t.Helper()
	c := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	c.Env, c.SysProcAttr = append(os.Environ(), innerVariable+"="+t.Name()), a
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	t.Logf("in its namespace:\n%s", out)
}

// planeConfig is that of a data plane whose files are in dir, open to user.
func planeConfig(t *testing.T, dir string, user uint32) config.Config {
	t.Helper()
	c, err := config.Parse("x.toml", fmt.Appendf(nil, `
[enroll]
names = ["gw.example.com"]
[tunnel]
userspace = true
[dataplane]
socket = %q
state = %q
control_uids = ["%d"]
`, filepath.Join(dir, "run", "dataplane.sock"), filepath.Join(dir, "plane"), user))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// startPlane runs Run until the test ends, and returns once it is ready.
func startPlane(t *testing.T, c config.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- Run(ctx, c, slog.New(slog.DiscardHandler), func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A second data plane, started by mistake, fails; the first keeps its socket, its
// connections and its public key's file.
func TestSecondDataplane(t *testing.T) {
	if os.Getenv(innerVariable) != t.Name() {
		testneed.Namespaces(t)
		again(t, &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		})
		return
	}
	dir := t.TempDir()
	c := planeConfig(t, dir, 0)
	startPlane(t, c)
	public := filepath.Join(dir, "run", publicKeyFile)
	before, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	second := c
	second.Dataplane.State = filepath.Join(dir, "other") // with another key
	second.Tunnel.Interface = "lz9"
	err = Run(t.Context(), second, slog.New(slog.DiscardHandler), func() { t.Error("the second one is ready") })
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("the second one ended with %v, want a table that is not its own", err)
	}
	after, err := os.ReadFile(public)
	if err != nil || string(after) != string(before) {
		t.Errorf("the public key's file says %q (%v), was %q", after, err, before)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := dataplane.Dial(ctx, c.Dataplane.Socket)
	if err != nil {
		t.Fatalf("the first one's socket is dead: %v", err)
	}
	defer client.Close()
	select {
	case e := <-client.Events():
		if e.Kind != dataplane.Connected {
			t.Errorf("event %+v", e)
		}
	case <-ctx.Done():
		t.Error("the first one's socket is open, and nobody greets there")
	}
}

// The control plane as a user of its own reaches the data plane by what it is
// configured with, whatever the umask; a user who is not listed does not.
func TestControlUserAsRoot(t *testing.T) {
	testneed.Root(t, "to connect as another user")
	if os.Getenv(innerVariable) != t.Name() {
		again(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
		return
	}
	dir, err := os.MkdirTemp("/tmp", "lazaret-user-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := planeConfig(t, dir, 65533)
	was := unix.Umask(0o077)
	t.Cleanup(func() { unix.Umask(was) })
	startPlane(t, c)
	for user, want := range map[uint32]string{65533: "no plan yet", 65532: "control_uids"} {
		if got := visit(t, user, c.Dataplane.Socket); !strings.Contains(got, want) {
			t.Errorf("user %d is told %q, want %q", user, got, want)
		}
	}
	if err := os.Chmod(c.Dataplane.Socket, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := visit(t, 65533, c.Dataplane.Socket); !strings.Contains(got, "permission denied") {
		t.Errorf("a closed socket is told as %q", got)
	}
}

// visit gives an order as a user, and returns what became of it.
func visit(t *testing.T, user uint32, socket string) string {
	t.Helper()
	c := exec.Command("/proc/self/exe", "-test.v", "-test.run=^TestVisitor$", "-test.timeout=30s")
	c.Env = []string{socketVariable + "=" + socket}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: 65534}}
	c.Dir = "/"
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("as user %d: %v\n%s", user, err, out)
	}
	return string(out)
}

// TestVisitor is the control plane of the tests above; by itself it does nothing.
func TestVisitor(t *testing.T) {
	socket := os.Getenv(socketVariable)
	if socket == "" {
		return
	}
	if key, err := os.ReadFile(filepath.Join(filepath.Dir(socket), publicKeyFile)); err != nil || len(key) != 45 {
		t.Errorf("the public key: %q, %v", key, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	conn, err := dataplane.Dial(ctx, socket)
	if err != nil {
		t.Log(err)
		return
	}
	defer conn.Close()
	<-conn.Events()
	t.Log(conn.Apply(ctx, quarantine.Entry{Device: "d1", Revision: 1}))
}
