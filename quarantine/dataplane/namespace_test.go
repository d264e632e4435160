package dataplane

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"lazaret/internal/testneed"
	"lazaret/quarantine/tunnel"
)

// roles are what this test binary is when a test runs it again.
var roles = map[string]func() int{
	"outside":   outside,
	"dataplane": gateway,
	"visitor":   visitor,
}

const (
	insideVariable = "LAZARET_DATAPLANE_INSIDE"
	roleVariable   = "LAZARET_DATAPLANE_ROLE"
)

func TestMain(m *testing.M) {
	if play := roles[os.Getenv(roleVariable)]; play != nil {
		os.Exit(play())
	}
	os.Exit(m.Run())
}

// inside runs the calling test or benchmark again, wholly in user and network
// namespaces of its own, and returns true there, with lo up.
func inside(t testing.TB) bool {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		check(t, err)
		check(t, netlink.LinkSetUp(lo))
		return true
	}
	testneed.Namespaces(t)
	if whole, ok := t.(*testing.T); ok {
		whole.Parallel() // each waits most of the time
	}
	args := []string{"-test.v", "-test.run=^" + t.Name() + "$", "-test.timeout=120s"}
	_, bench := t.(*testing.B)
	if bench {
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$"}
	}
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), insideVariable+"="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("in namespaces: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		testneed.Skip(t, "in namespaces:\n"+string(out))
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

// play starts this binary in a role, and ends it with the test.
func play(t testing.TB, role string, attributes *syscall.SysProcAttr, env ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(append(os.Environ(), roleVariable+"="+role), env...)
	c.Stderr = os.Stderr
	if attributes == nil {
		attributes = &syscall.SysProcAttr{}
	}
	attributes.Pdeathsig = syscall.SIGKILL
	c.SysProcAttr = attributes
	check(t, c.Start())
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c
}

// Where things are: the management server and another one stand behind a veth pair.
const (
	management = "192.0.2.10:443"
	intranet   = "192.0.2.20:443"
	wgPort     = 51820
)

// addOutside makes the network behind the gateway: one namespace with both servers.
func addOutside(t testing.TB) {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "up0"
	c := play(t, "outside", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "out0", PeerNamespace: netlink.NsPid(c.Process.Pid)}))
	near, err := netlink.LinkByName("up0")
	check(t, err)
	a, err := netlink.ParseAddr("192.0.2.1/24")
	check(t, err)
	check(t, netlink.AddrAdd(near, a))
	check(t, netlink.LinkSetUp(near))
}

// outside answers every datagram at both addresses, once its interface is there.
func outside() int {
	events := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribeWithOptions(events, nil, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for e := range events {
		if e.Attrs().Name == "out0" {
			break
		}
	}
	if err := serveOutside(); err != nil {
		fmt.Fprintln(os.Stderr, "outside:", err)
	}
	return 1
}

func serveOutside() error {
	link, err := netlink.LinkByName("out0")
	if err != nil {
		return err
	}
	for _, text := range []string{"192.0.2.10/24", "192.0.2.20/24"} {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)}); err != nil {
		return err
	}
	ended := make(chan error)
	for _, address := range []string{management, intranet} {
		l, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		go func() { ended <- echo(l) }()
	}
	return <-ended
}

func echo(l net.PacketConn) error {
	b := make([]byte, 64)
	for {
		n, from, err := l.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := l.WriteTo(b[:n], from); err != nil {
			return err
		}
	}
}

// phone is a device with a TCP/IP stack of its own, in this process.
type phone struct {
	key  tunnel.PrivateKey
	net  *netstack.Net
	stop func()
}

func newKey(t testing.TB) tunnel.PrivateKey {
	t.Helper()
	k, err := tunnel.GeneratePrivateKey()
	check(t, err)
	return k
}

func newPhone(t testing.TB, k tunnel.PrivateKey, server tunnel.Key, own ...netip.Addr) phone {
	t.Helper()
	inner, stack, err := netstack.CreateNetTUN(own, nil, tunnel.DefaultMTU)
	check(t, err)
	d := device.NewDevice(inner, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	p := phone{k, stack, d.Close}
	t.Cleanup(d.Close)
	check(t, d.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\npersistent_keepalive_interval=1\n",
		hex.EncodeToString(p.key.Bytes()), hex.EncodeToString(server[:]), wgPort)))
	check(t, d.Up())
	return p
}

const soon, never = 10 * time.Second, 300 * time.Millisecond

// reaches reports whether a datagram from source is answered in time.
func (p phone) reaches(t testing.TB, source netip.Addr, to string, within time.Duration) bool {
	t.Helper()
	c, err := p.net.DialUDPAddrPort(netip.AddrPortFrom(source, 0), netip.MustParseAddrPort(to))
	check(t, err)
	defer c.Close()
	for end := time.Now().Add(within); time.Now().Before(end); {
		_, err := c.Write([]byte("hello"))
		check(t, err)
		check(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if n, err := c.Read(make([]byte, 64)); err == nil && n == 5 {
			return true
		}
	}
	return false
}
