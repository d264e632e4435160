package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// tracked lists the entries of one family that name the address, as conntrack(8) shows them.
func tracked(t *testing.T, n *namespace, family, address string) []string {
	t.Helper()
	path := testneed.Program(t, "conntrack")
	var out []byte
	n.do(func() (err error) {
		out, err = exec.Command(path, "-L", "-f", family).Output()
		return err
	})
	var lines []string
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if word == "src="+address || word == "dst="+address {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines
}

// load adds n UDP flows of others.
func load(t *testing.T, g *namespace, n int) {
	loadFrom(t, g, n, addr("10.97.0.0"), addr("192.0.2.10"))
}

// loadFrom makes n entries of UDP to server, from as many addresses, the first one next to base.
func loadFrom(t *testing.T, g *namespace, n int, base, server netip.Addr) {
	t.Helper()
	family := uint8(unix.AF_INET6)
	if base.Is4() {
		family = unix.AF_INET
	}
	g.do(func() error {
		src := base
		for i := range n {
			src = src.Next()
			x := &netlink.ConntrackFlow{FamilyType: family, TimeOut: 600}
			x.Forward = tuple(src, server, 17, uint16(1024+i%50000), 53)
			x.Reverse = tuple(server, src, 17, 53, uint16(1024+i%50000))
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(family), x); err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
		}
		return nil
	})
}

func tuple(src, dst netip.Addr, protocol uint8, sport, dport uint16) netlink.IPTuple {
	return netlink.IPTuple{SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice()), Protocol: protocol, SrcPort: sport, DstPort: dport}
}

// from opens a connection of the device from one of its addresses to an echo of the
// server's; one exchange has gone through.
func (l *lab) from(t *testing.T, source, network, to string) net.Conn {
	t.Helper()
	l.server.do(func() error { return echo(t, network, to) })
	var c net.Conn
	l.device.do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(source)}
		}
		c, err = d.Dial(network, to)
		return err
	})
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 5)); err != nil {
		t.Fatalf("%s %s from %s does not get through while it may: %v", network, to, source, err)
	}
	return c
}

// echo answers one connection, or every datagram, with what it was sent.
func echo(t *testing.T, network, at string) error {
	if network == "udp" {
		p, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(b[:n], from) // a lost answer shows at the other end
			}
		}()
		return nil
	}
	n, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	t.Cleanup(func() { n.Close() })
	go func() {
		if c, err := n.Accept(); err == nil {
			defer c.Close()
			_, _ = io.Copy(c, c) // ends when the other end does
		}
	}()
	return nil
}

// TestForget: after Forget no entry names the address in any position, those of others
// stay, and so does the device's own session over its other address. conntrack(8) is the
// witness; 20,000 entries of each family are others'.
func TestForget(t *testing.T) {
	testneed.Program(t, "conntrack")
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.device.up("wg0", 1420, []string{"10.98.0.9/20", "fd98::9/64"}, nil)
	l.device.settled()
	l.neighbour(l.gateway, "lz0", l.device, "wg0", "10.98.0.9", "fd98::9")
	r := leakRuleset()
	r.Gateway = addrs("10.99.0.1", "10.98.0.1", "fd99::1", "fd98::1")
	r.Pools[1].Masquerade = true
	hour := After(time.Hour)
	must(t, l.table.Fill(r, Elements{
		Quarantined: addrs("10.99.0.9", "fd99::9"),
		Routed:      []Routed{{addr("10.98.0.9"), 1, hour}, {addr("fd98::9"), 1, hour}},
		Fresh:       hour, Alive: hour,
	}))
	session := l.from(t, "10.99.0.9", "tcp", "192.0.2.10:443")
	session6 := l.from(t, "fd99::9", "tcp", "[2001:db8::10]:443")
	l.from(t, "10.98.0.9", "tcp", "192.0.2.20:9001")
	l.from(t, "10.98.0.9", "udp", "192.0.2.20:9002")
	l.from(t, "fd98::9", "tcp", "[2001:db8::20]:9003")
	load(t, l.gateway, 20_000)
	loadFrom(t, l.gateway, 20_000, addr("fd97::"), addr("2001:db8::10"))
	l.gateway.do(func() error { // opened towards the device, and translated on the way to it
		x := &netlink.ConntrackFlow{FamilyType: unix.AF_INET, TimeOut: 600}
		x.Forward = tuple(addr("192.0.2.77"), addr("203.0.113.9"), 17, 40000, 5000)
		x.Reverse = tuple(addr("10.98.0.9"), addr("192.0.2.77"), 17, 5000, 40000)
		six := &netlink.ConntrackFlow{FamilyType: unix.AF_INET6, TimeOut: 600}
		six.Forward = tuple(addr("2001:db8::77"), addr("2001:db8::9"), 17, 40000, 5000)
		six.Reverse = tuple(addr("fd98::9"), addr("2001:db8::77"), 17, 5000, 40000)
		return errors.Join(netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, x), netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET6, six))
	})
	if n := len(tracked(t, l.gateway, "ipv4", "10.98.0.9")); n != 3 {
		t.Fatalf("%d entries name the address before, want 3", n)
	}
	if n := len(tracked(t, l.gateway, "ipv6", "fd98::9")); n != 2 {
		t.Fatalf("%d entries name the IPv6 address before, want 2", n)
	}

	f, err := OpenFlows(l.gateway.fd)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, f.Forget(t.Context(), addr("10.98.0.9")))
	if left := tracked(t, l.gateway, "ipv4", "10.98.0.9"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	if n := len(tracked(t, l.gateway, "ipv6", "fd98::9")); n != 2 {
		t.Errorf("forgetting the IPv4 address left %d entries of the IPv6 one, want 2", n)
	}
	must(t, f.Forget(t.Context(), addr("fd98::9"), addr("10.98.0.9")))
	if left := tracked(t, l.gateway, "ipv6", "fd98::9"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	if n := len(tracked(t, l.gateway, "ipv6", "fd99::9")); n != 1 {
		t.Errorf("forgetting an IPv6 address left %d entries of another one, want 1", n)
	}
	if n := len(tracked(t, l.gateway, "ipv6", "2001:db8::10")); n != 20_001 {
		t.Errorf("%d IPv6 entries of others and of the session, want 20001", n)
	}
	if n := len(tracked(t, l.gateway, "ipv4", "192.0.2.10")); n != 20_001 {
		t.Errorf("%d entries of others and of the session, want 20001", n)
	}
	for name, s := range map[string]net.Conn{"IPv4": session, "IPv6": session6} {
		if _, err := s.Write([]byte("still")); err != nil {
			t.Errorf("%s session: %v", name, err)
		}
		if _, err := s.Read(make([]byte, 5)); err != nil {
			t.Errorf("%s session over the quarantine address was cut: %v", name, err)
		}
	}
}

// TestForgetRefuses: what is no plain address is refused, and an
// ended context ends it.
func TestForgetRefuses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNamespace(t)
	load(t, n, 3)
	f, err := OpenFlows(n.fd)
	must(t, err)
	for _, a := range []netip.Addr{{}, addr("0.0.0.0"), addr("::"), addr("::ffff:10.97.0.1"), addr("fe80::1%lz0")} {
		if f.Forget(t.Context(), a) == nil {
			t.Errorf("%s was taken", a)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Forget(over, addr("10.97.0.1")); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	must(t, f.Forget(t.Context(), addr("10.97.0.1")))
	must(t, f.Close())
	if f.Forget(t.Context(), addr("10.97.0.2")) == nil {
		t.Error("a closed socket deletes")
	}
}

// TestForgetMessage pins the bytes: the family, the version that makes it count, one
// source and the flag that asks for it. A message without its filter would empty the table.
func TestForgetMessage(t *testing.T) {
	m, err := forgetMessage(ctaTupleReply, addr("192.0.2.7"))
	must(t, err)
	attribute := func(kind uint16, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(body)))
		return append(binary.NativeEndian.AppendUint16(b, kind), body...)
	}
	nested := func(kind uint16, body []byte) []byte { return attribute(kind|1<<15, body...) }
	want := append([]byte{2, 1, 0, 0}, nested(2, nested(1, attribute(1, 192, 0, 2, 7)))...)
	want = append(want, nested(25, attribute(2, binary.NativeEndian.AppendUint32(nil, 1)...))...)
	if string(m.Data) != string(want) || m.Header.Type != 0x102 {
		t.Errorf("type %#x\n%x, want\n%x", uint16(m.Header.Type), m.Data, want)
	}
}
