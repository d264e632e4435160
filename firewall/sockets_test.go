package firewall

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lab is three hosts: device, gateway, server. The device's end of the link to the
// gateway stands for its tunnel. Neighbour entries are permanent: a tunnel has no
// neighbour discovery, and the table does not let it through.
type lab struct {
	device, gateway, server *namespace
	table                   *Table
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{device: newNamespace(t), gateway: newNamespace(t), server: newNamespace(t)}
	l.join(l.device, "wg0", l.gateway, "lz0")
	l.join(l.gateway, "out0", l.server, "eth0")
	l.gateway.up("lz0", 1420, []string{"10.99.0.1/16", "10.98.0.1/20", "fd99::1/64", "fd98::1/64"}, nil)
	l.gateway.up("out0", 1500, []string{"192.0.2.1/24", "2001:db8::1/64"}, nil)
	l.device.up("wg0", 1420, []string{"10.99.0.9/16", "fd99::9/64"}, nil)
	l.server.up("eth0", 1500, []string{"192.0.2.10/24", "192.0.2.20/24", "2001:db8::10/64", "2001:db8::20/64"}, nil)
	l.route(l.device, "wg0", l.gateway, "lz0", "10.99.0.1", "fd99::1")
	l.route(l.server, "eth0", l.gateway, "out0", "192.0.2.1", "2001:db8::1")
	l.neighbour(l.gateway, "lz0", l.device, "wg0", "10.99.0.9", "fd99::9")
	l.neighbour(l.gateway, "out0", l.server, "eth0", "192.0.2.10", "192.0.2.20", "2001:db8::10", "2001:db8::20")
	for _, n := range []*namespace{l.device, l.gateway, l.server} {
		n.settled()
	}
	l.table = openAt(t, l.gateway.fd)
	return l
}

func (l *lab) join(a *namespace, left string, b *namespace, right string) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: left}, PeerName: right, PeerNamespace: netlink.NsFd(b.fd)}
	must(a.t, a.nl.LinkAdd(veth))
}

// neighbour tells from the hardware address of to for each of its addresses.
func (l *lab) neighbour(from *namespace, link string, to *namespace, peer string, addresses ...string) {
	here, err := from.nl.LinkByName(link)
	must(from.t, err)
	there, err := to.nl.LinkByName(peer)
	must(from.t, err)
	for _, a := range addresses {
		must(from.t, from.nl.NeighSet(&netlink.Neigh{LinkIndex: here.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: net.ParseIP(a), HardwareAddr: there.Attrs().HardwareAddr}))
	}
}

// route makes the gateway the way out.
func (l *lab) route(from *namespace, link string, gateway *namespace, peer string, by ...string) {
	l.neighbour(from, link, gateway, peer, by...)
	for i, all := range []string{"0.0.0.0/0", "::/0"} {
		dst, err := netlink.ParseIPNet(all)
		must(from.t, err)
		must(from.t, from.nl.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(by[i])}))
	}
}

// stream is a connection whose far end counts what arrives.
type stream struct {
	near, far net.Conn
	arrived   atomic.Int64
	tick      chan struct{} // holds one when arrived has grown
}

// dial opens a connection from the device to the server; what the device sends, the
// server counts, and the other way round for a download.
func (l *lab) dial(t *testing.T, network, to string, download bool) *stream {
	t.Helper()
	s := &stream{tick: make(chan struct{}, 1)}
	accepted := make(chan net.Conn, 1)
	l.server.do(func() error {
		if network == "udp" {
			p, err := net.ListenPacket("udp", to)
			if err != nil {
				return err
			}
			accepted <- &packetEnd{PacketConn: p}
			return nil
		}
		n, err := net.Listen("tcp", to)
		if err != nil {
			return err
		}
		go func() {
			c, err := n.Accept()
			n.Close()
			if err == nil {
				accepted <- c
			}
		}()
		return nil
	})
	l.device.do(func() (err error) {
		s.near, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, to)
		return err
	})
	if _, err := s.near.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	s.far = <-accepted
	must(t, s.far.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := s.far.Read(make([]byte, 5)); err != nil {
		t.Fatalf("%s %s does not get through while it may: %v", network, to, err)
	}
	must(t, s.far.SetReadDeadline(time.Time{}))
	from, at := s.near, s.far
	if download {
		from, at = s.far, s.near
	}
	go s.pump(from)
	go s.count(at)
	t.Cleanup(func() { s.near.Close(); s.far.Close() }) // ends both
	return s
}

// packetEnd is a UDP socket bound to whoever wrote first.
type packetEnd struct {
	net.PacketConn
	peer net.Addr
}

func (p *packetEnd) Read(b []byte) (n int, err error) { n, p.peer, err = p.ReadFrom(b); return n, err }
func (p *packetEnd) Write(b []byte) (int, error)      { return p.WriteTo(b, p.peer) }
func (p *packetEnd) RemoteAddr() net.Addr             { return p.peer }

func (s *stream) pump(c net.Conn) {
	b := make([]byte, 1000)
	for {
		_, err := c.Write(b)
		// A packet that the gateway refuses may come back as an error of the socket; the flow goes on trying.
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			return
		}
	}
}

func (s *stream) count(c net.Conn) {
	b := make([]byte, 65536)
	for {
		n, err := c.Read(b)
		s.arrived.Add(int64(n))
		select {
		case s.tick <- struct{}{}:
		default:
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// more waits until n more bytes have arrived, or gives up.
func (s *stream) more(n int64) bool {
	start, over := s.arrived.Load(), time.After(10*time.Second)
	for s.arrived.Load() < start+n {
		select {
		case <-s.tick:
		case <-over:
			return false
		}
	}
	return true
}

// settle waits for the others to fall silent: what had passed the gateway before may
// still be in sockets. Silent is who gets nothing while session carries ten times 2 MiB
// one after the other; those who were not within a hundred are returned.
func settle(t *testing.T, session *stream, others map[string]*stream) (busy []string) {
	t.Helper()
	silent, seen := map[string]int{}, map[string]int64{}
	for range 100 {
		if !session.more(2 << 20) {
			t.Fatal("the management session was cut")
		}
		busy = nil
		for name, s := range others {
			silent[name]++
			if n := s.arrived.Load(); n != seen[name] {
				seen[name], silent[name] = n, 0
			}
			if silent[name] < 10 {
				busy = append(busy, name)
			}
		}
		if len(busy) == 0 {
			return nil
		}
	}
	return busy
}

// TestSocketsAreCut demotes a device with a fixed address while its sockets are busy
// in both directions. Another flow, to the management server, goes on all the while and
// is the clock.
func TestSocketsAreCut(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := leakRuleset()
	r.Gateway = addrs("10.99.0.1", "10.98.0.1", "fd99::1", "fd98::1")
	for _, w := range []struct{ name, device, management, other string }{
		{"ipv4", "10.99.0.9", "192.0.2.10", "192.0.2.20"}, {"ipv6", "fd99::9", "2001:db8::10", "2001:db8::20"},
	} {
		t.Run(w.name, func(t *testing.T) {
			l := newLab(t)
			device := netip.MustParseAddr(w.device)
			routed := []Routed{{device, 1, After(time.Hour)}}
			must(t, l.table.Fill(r, Elements{Quarantined: []netip.Addr{device}, Routed: routed, Fresh: After(time.Minute), Alive: After(time.Hour)}))
			session := l.dial(t, "tcp", net.JoinHostPort(w.management, "443"), false)
			streams := map[string]*stream{
				"tcp upload":   l.dial(t, "tcp", net.JoinHostPort(w.other, "1001"), false),
				"tcp download": l.dial(t, "tcp", net.JoinHostPort(w.other, "1002"), true),
				"udp upload":   l.dial(t, "udp", net.JoinHostPort(w.other, "1003"), false),
				"udp download": l.dial(t, "udp", net.JoinHostPort(w.other, "1004"), true),
			}
			for name, s := range streams {
				if !s.more(100_000) {
					t.Fatalf("%s does not run", name)
				}
			}
			must(t, l.table.Apply(Change{DelRouted: []netip.Addr{device}}))
			if busy := settle(t, session, streams); len(busy) > 0 {
				t.Errorf("still running after the demotion: %v", busy)
			}
			must(t, l.table.Apply(Change{AddRouted: routed}))
			for name, s := range streams {
				if name[:3] == "udp" && !s.more(100_000) {
					t.Errorf("%s does not run again after the promotion", name)
				}
			}
		})
	}
}
