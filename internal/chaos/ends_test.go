package chaos

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// right is what a packet needs to pass.
type right int

const (
	never       right = iota
	quarantined       // the device has a place
	routed            // and is released
)

// shot is one sort of packet that is sent again and again.
type shot struct {
	name     string
	inside   bool // enters from the tunnel, else from outside
	proto    byte
	from, to netip.AddrPort
	device   int // its rights count
	needs    right
	fresh    bool // from another port each time
}

// rights of a device, as the judge knows them. They are taken away when the gateway has
// said so, and given before it is asked.
type rights struct{ quarantined, routed bool }

// ends is both ends of the gateway and everything that goes through it.
type ends struct {
	tunnel, outside *os.File // the ends of lz0 and up0
	inner           []*net.UDPConn
	shots           []shot

	firing sync.Mutex // held while a volley is sent

	mu      sync.Mutex
	rights  []rights
	epoch   uint64          // of rights
	unsure  map[uint64]bool // by seq: rights changed while it was sent
	leaks   []string        // what arrived though it was denied when it was sent
	suspect map[uint64]string

	sent, passed, denied atomic.Uint64 // packets; of the denied, those sent
	seq, rounds          atomic.Uint64
	allowed, arrived     atomic.Uint64 // packets on their first way
	lastRouted           atomic.Int64  // nanoseconds of the wall clock
	stop                 chan struct{}
	runs                 sync.WaitGroup
}

// tun opens a TUN interface, which is there as long as it is open.
func tun(t testing.TB, name string, own ...string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	check(t, err)
	request, err := unix.NewIfreq(name)
	check(t, err)
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	f := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { f.Close() })
	link, err := netlink.LinkByName(name)
	check(t, err)
	check(t, netlink.LinkSetTxQLen(link, 100_000)) // nothing that passes may be lost unseen
	for _, text := range own {
		a, err := netlink.ParseAddr(text)
		check(t, err)
		check(t, netlink.AddrAdd(link, a))
	}
	check(t, netlink.LinkSetUp(link))
	return f
}

// open makes both ends, with forwarding on: whatever is stopped is stopped by the table.
func open(t testing.TB, devices int) *ends {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	for _, name := range []string{"all", "default"} {
		check(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0))
		check(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/send_redirects", []byte("0"), 0))
	}
	e := &ends{unsure: map[uint64]bool{}, suspect: map[uint64]string{}, rights: make([]rights, devices+1), stop: make(chan struct{})}
	e.tunnel = tun(t, host.Tunnel)
	e.outside = tun(t, "up0", "192.0.2.1/24", "2001:db8::1/64")
	check(t, forward("1"))
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenUDP(network, &net.UDPAddr{Port: 9999})
		check(t, err)
		t.Cleanup(func() { c.Close() })
		e.inner = append(e.inner, c)
		e.runs.Go(func() { e.meetInside(c) })
	}
	e.runs.Go(func() { e.meet(e.outside, true) })
	e.runs.Go(func() { e.meet(e.tunnel, false) })
	return e
}

// close ends what open began.
func (e *ends) close() {
	close(e.stop)
	e.tunnel.Close()
	e.outside.Close()
	for _, c := range e.inner {
		c.Close()
	}
	e.runs.Wait()
}

// grant gives rights before they are asked for; deny takes them once they are gone.
func (e *ends) grant(device int, r rights) {
	e.set(device, func(have rights) rights { return rights{have.quarantined || r.quarantined, have.routed || r.routed} })
}

func (e *ends) deny(device int, r rights) {
	e.set(device, func(have rights) rights { return rights{have.quarantined && !r.quarantined, have.routed && !r.routed} })
}

func (e *ends) set(device int, f func(rights) rights) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rights[device] = f(e.rights[device])
	e.epoch++
}

// may says whether a shot has its right now, and the epoch of that.
func (e *ends) may(s shot) (bool, uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.rights[s.device]
	switch s.needs {
	case quarantined:
		return r.quarantined, e.epoch
	case routed:
		return r.routed, e.epoch
	}
	return false, e.epoch
}

// send sends one packet into an end, with what was decided about it at that moment.
func (e *ends) send(n int, reply bool, into *os.File, from, to netip.AddrPort) error {
	s := e.shots[n]
	allowed, before := e.may(s)
	t := tag{shot: uint16(n), denied: !allowed, reply: reply, seq: e.seq.Add(1)}
	if allowed && !reply {
		e.allowed.Add(1)
	}
	_, err := into.Write(packet(s.proto, from, to, t))
	if allowed {
		return err
	}
	e.denied.Add(1)
	if _, after := e.may(s); after != before {
		e.mu.Lock()
		e.unsure[t.seq] = true
		e.mu.Unlock()
	}
	return err
}

// fire sends the shots from first on, so many of them, and returns the next one.
func (e *ends) fire(t testing.TB, first, many int) int {
	n := first
	for ; n < min(first+many, len(e.shots)); n++ {
		s := e.shots[n]
		into, from := e.outside, s.from
		if s.inside {
			into = e.tunnel
		}
		if s.fresh {
			from = netip.AddrPortFrom(from.Addr(), uint16(20000+e.seq.Load()%40000))
		}
		if err := e.send(n, false, into, from, s.to); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EIO) {
			t.Errorf("sending %s: %v", s.name, err)
		}
		e.sent.Add(1)
	}
	if n < len(e.shots) {
		return n
	}
	e.rounds.Add(1)
	return 0
}

// pace is the time between two volleys of so many shots.
const (
	pace   = 5 * time.Millisecond
	volley = 32
)

// probe fires until the end.
func (e *ends) probe(t testing.TB) {
	e.runs.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for next := 0; ; {
			select {
			case <-e.stop:
				return
			case <-tick.C:
				e.firing.Lock()
				next = e.fire(t, next, volley)
				e.firing.Unlock()
			}
		}
	})
}

// still holds the probe, waits until nothing arrives any more, and returns how many allowed
// packets have not arrived so far.
func (e *ends) still(t testing.TB) (missing uint64) {
	t.Helper()
	e.firing.Lock()
	defer e.firing.Unlock()
	last, same := e.arrived.Load(), 0
	settle(t, "the last packet", func() string {
		now := e.arrived.Load()
		if same++; now != last {
			last, same = now, 0
		}
		if same < 20 {
			return "they still come"
		}
		return ""
	})
	return e.allowed.Load() - last
}

// meet takes what comes out of an end. The outside answers what reached it.
func (e *ends) meet(f *os.File, answers bool) {
	for b := make([]byte, 1<<16); ; {
		n, err := f.Read(b)
		if err != nil {
			return
		}
		t, from, to, ok := parse(b[:n])
		if !ok {
			continue
		}
		e.judge(t, f.Name())
		if answers && !t.reply && e.shots[t.shot].proto == unix.IPPROTO_UDP && e.shots[t.shot].inside {
			_ = e.send(int(t.shot), true, e.outside, to, from) // an error shows as an answer that never came
		}
	}
}

// meetInside takes what the gateway itself takes in.
func (e *ends) meetInside(c *net.UDPConn) {
	for b := make([]byte, 1<<16); ; {
		n, _, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n < tagSize {
			continue
		}
		t, _, _, ok := parse(slices.Concat(udp4, b[:n]))
		if ok {
			e.judge(t, "the gateway")
		}
	}
}

// udp4 is what makes a datagram's content a packet again: both headers.
var udp4 = append([]byte{0x45, 9: unix.IPPROTO_UDP}, make([]byte, 18)...)

// judge counts what passed.
func (e *ends) judge(t tag, where string) {
	if !t.denied {
		e.passed.Add(1)
		if !t.reply {
			e.arrived.Add(1)
		}
		if e.shots[t.shot].needs == routed {
			e.lastRouted.Store(time.Now().UnixNano())
		}
		return
	}
	s := e.shots[t.shot]
	way := "packet"
	if t.reply {
		way = "answer"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.suspect[t.seq] = fmt.Sprintf("%s: %s (%s, protocol %d, %s to %s) of device %d met at %s", time.Now().Format("05.000000"), s.name, way, s.proto, s.from, s.to, s.device, where)
}

// forbidden returns what passed and must not have, so far.
func (e *ends) forbidden() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for seq, what := range e.suspect {
		if !e.unsure[seq] {
			e.leaks = append(e.leaks, what)
		}
	}
	clear(e.suspect)
	clear(e.unsure)
	return e.leaks
}
