package network

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"lazaret/appliance"
	"lazaret/internal/testneed"
)

const insideVariable = "LAZARET_NETWORK_INSIDE"

// inside runs the calling test again, wholly in user and network namespaces of its own, and
// returns true there. A guest that runs this test alone is as good.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() || testneed.Guest() {
		return true
	}
	testneed.Namespaces(t)
	t.Parallel() // each waits most of the time
	c := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	c.Env = append(os.Environ(), insideVariable+"="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("in namespaces: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skip("in namespaces: " + string(out)) // testneed allowed it there, also in CI
	}
	t.Logf("in namespaces:\n%s", out)
	return false
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// other is a network namespace at the other end of cables.
type other struct{ at netns.NsHandle }

func newOther(t *testing.T) other {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	check(t, err)
	defer here.Close()
	at, err := netns.New()
	check(t, err)
	check(t, netns.Set(here))
	t.Cleanup(func() { at.Close() })
	return other{at}
}

// do calls f in the namespace.
func (o other) do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	check(t, err)
	defer here.Close()
	check(t, netns.Set(o.at))
	defer func() { check(t, netns.Set(here)) }()
	f()
}

// cable joins a new card here to one in the other namespace, which has the addresses.
func (o other) cable(t testing.TB, here, there string, addrs ...string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = here
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: there, PeerNamespace: netlink.NsFd(int(o.at))}))
	o.do(t, func() {
		// Addresses are there at once, instead of after looking for duplicates.
		_, err := write([]setting{{"net/ipv6/conf/" + there + "/accept_dad", "0"}, {"net/ipv6/conf/" + there + "/router_solicitations", "0"}})
		check(t, err)
		l, err := netlink.LinkByName(there)
		check(t, err)
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			check(t, err)
			check(t, netlink.AddrAdd(l, addr))
		}
		check(t, netlink.LinkSetUp(l))
	})
}

// manage starts a Manager in this namespace.
func manage(t *testing.T) (*Manager, string) {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	m, err := New(Config{Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)), Resolv: resolv, Hostname: func() string { return "gw1" }})
	check(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		check(t, <-done)
	})
	return m, resolv
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// await waits until ok says yes, looking at each change.
func await(t *testing.T, m *Manager, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		changed := m.Changed()
		if ok() {
			return
		}
		look := time.NewTimer(100 * time.Millisecond) // what the kernel does by itself is not always told
		select {
		case <-changed:
		case <-look.C:
		case <-limit.C:
			t.Fatalf("%s: not in time; links %+v", what, m.Links())
		}
		look.Stop()
	}
}

// link is one of the manager's, as it tells it.
func link(m *Manager, name string) appliance.LinkIs {
	for _, l := range m.Links() {
		if l.Name == name {
			return l
		}
	}
	return appliance.LinkIs{}
}

// has says whether a link has an address.
func has(l appliance.LinkIs, address string) bool {
	for _, a := range l.Addresses {
		if a.String() == address {
			return true
		}
	}
	return false
}

// witness is what ip says.
func witness(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(testneed.Program(t, "ip"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
