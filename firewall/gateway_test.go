package firewall

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	vns "github.com/vishvananda/netns"
)

// namespace is a network namespace of its own, alive until the test ends.
type namespace struct {
	t  testing.TB
	fd int
	nl *netlink.Handle
}

// do runs f on a thread inside n.
func (n *namespace) do(f func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	n := &namespace{t: t}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	must(t, <-done)
	h, err := netlink.NewHandleAt(vns.NsHandle(n.fd))
	must(t, err)
	n.nl = h
	t.Cleanup(func() { h.Close(); unix.Close(n.fd) })
	n.do(func() error {
		for path, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
			"ipv6/conf/default/accept_dad": "0", "ipv6/conf/default/router_solicitations": "0",
			"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0", "ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	lo, err := h.LinkByName("lo")
	must(t, err)
	must(t, h.LinkSetUp(lo))
	return n
}

// up brings a link up with addresses and routes.
func (n *namespace) up(name string, mtu int, addresses []string, routes []string) {
	n.t.Helper()
	link, err := n.nl.LinkByName(name)
	must(n.t, err)
	must(n.t, n.nl.LinkSetMTU(link, mtu))
	must(n.t, n.nl.LinkSetUp(link))
	for _, a := range addresses {
		p, err := netlink.ParseAddr(a)
		must(n.t, err)
		p.Flags = unix.IFA_F_NODAD
		must(n.t, n.nl.AddrAdd(link, p))
	}
	for _, r := range routes {
		dst, err := netlink.ParseIPNet(r)
		must(n.t, err)
		must(n.t, n.nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}))
	}
}

// settled waits until the kernel takes packets to all its addresses for its own. For IPv6 it
// does so only once a worker of its own has come to that, after the link has a carrier.
func (n *namespace) settled() {
	n.t.Helper()
	list, err := n.nl.AddrList(nil, netlink.FAMILY_ALL)
	must(n.t, err)
	for _, a := range list {
		if !a.IP.IsGlobalUnicast() {
			continue
		}
		for end := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
			r, err := n.nl.RouteGet(a.IP)
			if err == nil && len(r) == 1 && r[0].Type == unix.RTN_LOCAL {
				break
			}
			if time.Now().After(end) {
				n.t.Fatalf("%s does not become the kernel's own: %v, %v", a.IP, r, err)
			}
		}
	}
}

// tun opens a network interface whose other end is this process: what is written goes
// into the kernel, which has forwarded it when write returns; what it sends is read.
func (n *namespace) tun(name string) int {
	n.t.Helper()
	var fd int
	n.do(func() (err error) {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening /dev/net/tun, which needs the tun module and leave to open it: %w", err)
		}
		var request struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(request.name[:], name)
		request.flags = unix.IFF_TUN | unix.IFF_NO_PI
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("making interface %s: %w", name, errno)
		}
		return nil
	})
	n.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// gateway is a router with the tunnel on one side and the world on the other.
type gateway struct {
	*namespace
	port  map[string]int // tunnel and out, by name
	table *Table         // nil: a control gateway, which lets everything pass
}

func newGateway(t testing.TB, filtered bool) *gateway {
	t.Helper()
	g := &gateway{namespace: newNamespace(t)}
	g.port = map[string]int{"lz0": g.tun("lz0"), "out0": g.tun("out0")}
	g.up("lz0", 1420, []string{"10.99.0.1/16", "10.98.0.1/20", "10.97.0.1/24", "fd99::1/64", "fd98::1/64", "fd97::1/64"}, nil)
	g.up("out0", 1500, []string{"203.0.113.1/24", "2001:db8:ff::1/64"}, []string{"0.0.0.0/0", "::/0"})
	g.settled()
	if filtered {
		g.table = openAt(t, g.fd)
	}
	return g
}

// send writes a packet into one port and returns every packet that came out of any.
func (g *gateway) send(in string, packet []byte) map[string][][]byte {
	g.t.Helper()
	g.drain()
	if _, err := unix.Write(g.port[in], packet); err != nil {
		g.t.Fatal(err)
	}
	return g.drain()
}

func (g *gateway) drain() map[string][][]byte {
	g.t.Helper()
	got := map[string][][]byte{}
	for name, fd := range g.port {
		for {
			b := make([]byte, 65536)
			n, err := unix.Read(fd, b)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				g.t.Fatal(err)
			}
			if !chatter(b[:n]) {
				got[name] = append(got[name], b[:n])
			}
		}
	}
	return got
}

// chatter is what the kernel says by itself at any time: multicast listener reports (RFC
// 3810, section 5.2) and router solicitations (RFC 4861, section 4.1).
func chatter(p []byte) bool {
	if len(p) < 48 || p[0]>>4 != 6 {
		return false
	}
	report := len(p) > 48 && p[6] == 0 && p[40] == 58 && p[48] == 143
	return report || p[6] == 58 && p[40] == 133
}

// passes says whether the packet, known by its marker or by its ports, comes out of the
// port, forwarded or answered.
func (g *gateway) passes(s step) bool {
	g.t.Helper()
	for _, p := range g.send(s.in, s.packet)[s.out] {
		if s.fits != nil && s.fits(p) {
			return true
		}
	}
	return false
}

// step is one packet and where it should come out.
type step struct {
	name   string
	in     string
	packet []byte
	out    string
	want   bool
	fits   func([]byte) bool // nil: nothing is expected of it alone
}

// marked fits what carries the marker: a forwarded probe, an echo, an error quoting it.
func marked(p []byte) bool { return bytes.Contains(p, []byte(marker)) }

// ofFlow fits TCP segments of a flow as they come out.
func ofFlow(f flow) func([]byte) bool {
	return func(p []byte) bool {
		src, dst, next, rest := parse(p)
		return src == f.src && dst == f.dst && next == unix.IPPROTO_TCP && len(rest) >= 20 &&
			uint16(rest[0])<<8|uint16(rest[1]) == f.sport && uint16(rest[2])<<8|uint16(rest[3]) == f.dport
	}
}

// parse takes a packet without options or extension headers apart.
func parse(p []byte) (src, dst netip.Addr, next byte, rest []byte) {
	if p[0]>>4 == 4 {
		src, _ = netip.AddrFromSlice(p[12:16])
		dst, _ = netip.AddrFromSlice(p[16:20])
		return src, dst, p[9], p[20:]
	}
	src, _ = netip.AddrFromSlice(p[8:24])
	dst, _ = netip.AddrFromSlice(p[24:40])
	return src, dst, p[6], p[40:]
}
