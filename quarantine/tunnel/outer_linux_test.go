package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The interface has the MTU of the configuration, a packet of just that size goes through
// whole, and a later change of it is followed by every device.
func TestMTU(t *testing.T) {
	if !inside(t) {
		return
	}
	for _, mtu := range []int{1280, 1420, 9000} {
		l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 1, MTU: mtu, Addresses: prefixes("10.66.0.1/16")})
		link, err := netlink.LinkByName("lz0")
		if err != nil || link.Attrs().MTU != mtu {
			t.Fatalf("MTU %d became %+v, %v", mtu, link, err)
		}
		server := fmt.Sprintf("127.0.0.1:%d", port)
		a := newClientOver(t, server, mtu, l.Public(), "10.66.0.2")
		b := newClientOver(t, server, mtu, l.Public(), "10.66.0.3")
		set(t, l, a.key.Public(), "10.66.0.2/32")
		set(t, l, b.key.Public(), "10.66.0.3/32")
		at := listenWhole(t, "10.66.0.1:0")
		for i, c := range []client{a, b} {
			from := fmt.Sprintf("10.66.0.%d", i+2)
			if !c.reaches(t, from, at, soon) {
				t.Fatal("the peer does not get through")
			}
			if n := c.echo(t, from, at, mtu-28); n != mtu-28 {
				t.Errorf("MTU %d, peer %d: %d of %d bytes came back", mtu, i, n, mtu-28)
			}
		}
		if err := netlink.LinkSetMTU(link, 1300); err != nil {
			t.Fatal(err)
		}
		for n, s := range l.back.(*inProcess).shards {
			seen := inner[atomic.Int32](t, s, "tun", "mtu")
			waitFor(t, fmt.Sprintf("device %d to see the MTU", n), func() bool { return seen.Load() == 1300 })
		}
		if err := l.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	for _, mtu := range []int{-1, 1279, 9001} {
		if _, err := Open(t.Context(), Config{Name: "lz0", PrivateKey: key(t), MTU: mtu}); err == nil {
			t.Errorf("an MTU of %d was taken", mtu)
		}
	}
}

// listenWhole answers datagrams that came in one piece, and answers in one piece.
func listenWhole(t testing.TB, address string) string {
	t.Helper()
	l, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err2 := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			l.WriteTo(b[:n], from)
		}
	}()
	return l.LocalAddr().String()
}

// echo returns how many of n bytes come back.
func (c client) echo(t testing.TB, source, to string, n int) int {
	t.Helper()
	conn, err := c.net.DialUDPAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0), netip.MustParseAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	got, err := conn.Read(make([]byte, n+1))
	if err != nil {
		t.Error(err)
	}
	return got
}

// The network outside may have one address family alone: no IPv6 at all, not even
// sockets of it, IPv6 switched off, or no IPv4 address.
func TestOneOuterFamily(t *testing.T) {
	for name, outer := range map[string]struct {
		prepare  func(*testing.T)
		endpoint string
	}{
		"no IPv6 in the kernel": {refuseIPv6, fmt.Sprintf("127.0.0.1:%d", port)},
		"IPv6 switched off":     {switchOffIPv6, fmt.Sprintf("127.0.0.1:%d", port)},
		"IPv6 only":             {removeIPv4, fmt.Sprintf("[::1]:%d", port)},
	} {
		t.Run(name, func(t *testing.T) {
			if !inside(t) {
				return
			}
			outer.prepare(t)
			for _, grow := range []bool{false, true} {
				l := openLink(t, Config{ForceUserspace: true, Grow: grow, shardSize: 1, Addresses: prefixes("10.66.0.1/16")})
				at := listen(t, "10.66.0.1:0")
				if grow {
					set(t, l, key(t).Public()) // so that the client is of the second device
				}
				c := newClientOver(t, outer.endpoint, DefaultMTU, l.Public(), "10.66.0.2")
				set(t, l, c.key.Public(), "10.66.0.2/32")
				if !c.reaches(t, "10.66.0.2", at, soon) {
					t.Errorf("growing %v: the peer does not get through", grow)
				}
				if err := l.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// refuseIPv6 has every socket of IPv6 fail as in a kernel without it (seccomp(2)).
func refuseIPv6(t *testing.T) {
	t.Helper()
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	equal := func(k uint32, otherwise uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: otherwise}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{
		load(0), equal(unix.SYS_SOCKET, 3), // seccomp_data.nr
		load(16), equal(unix.AF_INET6, 1), // seccomp_data.args[0]
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)),
		answer(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		t.Fatal(errno)
	}
	if l, err := net.ListenPacket("udp6", "[::1]:0"); err == nil {
		l.Close()
		t.Fatal("IPv6 is still there")
	}
}

func switchOffIPv6(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

func removeIPv4(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	have, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range have {
		if err := netlink.AddrDel(lo, &a); err != nil {
			t.Fatal(err)
		}
	}
}

// waitFor asks until it is so.
func waitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(soon); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
