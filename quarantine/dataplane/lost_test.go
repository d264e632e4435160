package dataplane

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// until waits for the kernel to become as it should.
func until(t testing.TB, what string, good func() bool) {
	t.Helper()
	late := time.After(soon)
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for !good() {
		select {
		case <-late:
			t.Fatalf("never came: %s", what)
		case <-pause.C:
		}
	}
}

// named opens a TUN interface of the tunnel's name, as another program may.
func named(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// The tunnel's interface deleted under a data plane: nothing is routed without it; it is
// opened again by itself and filled with the next plan. Nobody else gets its name while it
// is there; who grabs it in between finds a table that is shut, and loses nothing but time.
func TestTunnelDeleted(t *testing.T) {
	nft := testneed.Program(t, "nft")
	if !inside(t) {
		return
	}
	s := newSite(t)
	check(t, s.c.Replace(t.Context(), s.plan(10, s.routed(5, 0))))
	s.refresh(t, 10)
	s.restartPhone(t)
	s.sees(t, "routed", true, true)
	if f, err := named(host.Tunnel); !errors.Is(err, unix.EBUSY) {
		t.Errorf("another program opens %s: %v, %v", host.Tunnel, f, err)
	}
	revision := int64(10)
	for _, grabbed := range []bool{false, true} {
		link, err := netlink.LinkByName(host.Tunnel)
		check(t, err)
		old := link.Attrs().Index
		stop := func() {}
		if grabbed {
			stop = grab(t)
		}
		check(t, netlink.LinkDel(link))
		expect(t, s.c, NeedPlan)
		if left := list(t, nft); strings.Contains(left, "10.77.0.2") || !strings.Contains(left, "policy drop") {
			t.Errorf("without a tunnel:\n%s", left)
		}
		stop()
		until(t, "another interface", func() bool {
			link, err := netlink.LinkByName(host.Tunnel)
			return err == nil && link.Attrs().Index != old && link.Type() != "bridge"
		})
		revision++
		until(t, "a data plane that takes a plan", func() bool { return s.c.Replace(t.Context(), s.plan(revision, s.routed(5, 0))) == nil })
		s.refresh(t, revision)
		s.restartPhone(t)
		s.sees(t, "planned again", true, true)
	}
}

// grab makes an interface of the tunnel's name as soon as there is none, and keeps it until
// the returned function is called.
func grab(t testing.TB) (stop func()) {
	t.Helper()
	end, got := make(chan struct{}), make(chan netlink.Link)
	go func() { // ends with the grabbing
		attributes := netlink.NewLinkAttrs()
		attributes.Name = host.Tunnel
		for {
			select {
			case <-end:
				return
			default:
			}
			if other := (&netlink.Bridge{LinkAttrs: attributes}); netlink.LinkAdd(other) == nil {
				select {
				case got <- other:
				case <-end:
				}
				return
			}
		}
	}()
	return func() {
		select {
		case other := <-got:
			check(t, netlink.LinkDel(other))
		case <-time.After(time.Second):
			t.Log("the data plane was faster than who grabs the name")
		}
		close(end)
	}
}

// Addresses flushed, one added, the interface set down, forwarding switched off: each is
// mended without a person or a plan.
func TestTunnelMendedInPlace(t *testing.T) {
	if !inside(t) {
		return
	}
	s := newSite(t)
	check(t, s.c.Replace(t.Context(), s.plan(10, s.routed(5, 0))))
	s.refresh(t, 10)
	s.restartPhone(t)
	s.sees(t, "routed", true, true)
	want := somePlan(1).Gateway
	good := func() bool {
		seen, err := SystemInterface(host.Tunnel)
		return err == nil && seen.has(want)
	}
	link, err := netlink.LinkByName(host.Tunnel)
	check(t, err)
	for name, harm := range map[string]func(){
		"flushed": func() {
			all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			check(t, err)
			for _, a := range all {
				_ = netlink.AddrDel(link, &a) // one may go with another
			}
		},
		"another address": func() {
			a, err := netlink.ParseAddr("198.51.100.1/24")
			check(t, err)
			check(t, netlink.AddrAdd(link, a))
		},
		"down": func() { check(t, netlink.LinkSetDown(link)) },
	} {
		harm()
		until(t, name+" is mended", good)
		s.sees(t, name, true, true)
	}
	for _, f := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		check(t, os.WriteFile(f, []byte("0"), 0))
	}
	until(t, "forwarding", func() bool { return forwarding(t) == "1" })
	s.sees(t, "forwarding again", true, true)
	if now, err := netlink.LinkByName(host.Tunnel); err != nil || now.Attrs().Index != link.Attrs().Index {
		t.Errorf("the interface is another one: %v, %v", now, err)
	}
	if seen, _ := SystemInterface(host.Tunnel); len(seen.Addresses) < len(want) {
		t.Errorf("addresses %v", seen.Addresses)
	}
}

// After a cut the kernel forgets the device's connections from its pool address, and keeps
// the one to the management server.
func TestConnectionsAreForgotten(t *testing.T) {
	witness := testneed.Program(t, "conntrack")
	if !inside(t) {
		return
	}
	s := newSite(t)
	check(t, s.c.Replace(t.Context(), s.plan(10, s.routed(5, 0))))
	s.refresh(t, 10)
	s.restartPhone(t)
	s.sees(t, "routed", true, true)
	tracked := func(from string) bool {
		out, err := exec.Command(witness, "-L", "-s", from).Output()
		check(t, err)
		return len(out) > 0
	}
	if !tracked("10.66.0.2") || !tracked("10.77.0.2") {
		t.Fatal("the witness sees no connections")
	}
	check(t, s.c.Apply(t.Context(), s.quarantined(11, 1)))
	until(t, "forgotten connections", func() bool { return !tracked("10.77.0.2") })
	if !tracked("10.66.0.2") {
		t.Error("the connection to the management server was forgotten")
	}
	s.sees(t, "demoted", true, false)
}
