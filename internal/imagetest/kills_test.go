package imagetest

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
)

func (l *life) needsOrders(t *testing.T) {
	t.Helper()
	if !l.orders {
		t.Skip("needs the version that the step Update brings")
	}
}

// order gives one to the guest, which runs a version made with the tag lazarettest.
func (l *life) order(t *testing.T, order string) string {
	t.Helper()
	said, err := l.v.Order(soon(t), order)
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// freshness is how long routing outlives who keeps it, for the steps below.
const freshness = "10s"

// prepareKills shortens what is waited for, and releases the device.
func (l *life) prepareKills(t *testing.T) {
	t.Helper()
	l.order(t, "freshness "+freshness)
	l.order(t, "kill dataplane")
	l.order(t, "kill serve")
	until(t, "the gateway is back after both its processes were killed", func() error {
		return echoes(t, l.phone.quarantine, l.management)
	})
	l.enforces(t)
	until(t, "a report on the device is enforced", func() error {
		stage, err := l.place(shortly(t), l.device.ID, "compliant")
		if err == nil && stage != "routed" {
			err = errors.New("it is " + stage)
		}
		return err
	})
	until(t, "the intranet answers", func() error { return echoes(t, l.phone.full, l.intranet) })
}

// killed takes away each of the gateway's processes: what holds then is the kernel's table
// and its WireGuard. Routing ends by itself, quarantine goes on, nothing more is open.
func (l *life) killed(t *testing.T) {
	l.needsOrders(t)
	l.prepareKills(t)
	for _, part := range []string{"dataplane", "serve"} {
		last := l.flow(t)
		dead := time.Now()
		l.order(t, "hold "+part)
		end := <-last
		t.Logf("%s dead: the last packet to the intranet %v later, freshness is %s", part, end.Sub(dead).Round(100*time.Millisecond), freshness)
		l.forbidden(t) // with the management server beside it, through the kernel's WireGuard
		l.order(t, "release")
		begin := time.Now()
		until(t, "the intranet answers again", func() error { return echoes(t, l.phone.full, l.intranet) })
		t.Logf("%s released: routing is back after %v", part, time.Since(begin).Round(100*time.Millisecond))
		l.enforces(t)
	}
	if stage := l.report(t, l.device.ID, "noncompliant"); stage != "quarantined" {
		t.Fatalf("a device that is not compliant is %s", stage)
	}
	l.forbidden(t)
}

// flow keeps a connection to the intranet busy, and tells when its last answer came, once
// none has come for three seconds.
func (l *life) flow(t *testing.T) <-chan time.Time {
	t.Helper()
	c, err := dial(soon(t), l.phone.full, l.intranet.at())
	if err != nil {
		t.Fatal(err)
	}
	last, alive := make(chan time.Time, 1), make(chan struct{})
	go func() { // ends with the flow
		defer c.Close()
		var at time.Time
		b := make([]byte, 1)
		for first := true; ; first = false {
			_, err := c.Write([]byte{1})
			err = errors.Join(err, c.SetReadDeadline(time.Now().Add(3*time.Second)))
			if err == nil {
				_, err = io.ReadFull(c, b)
			}
			if err != nil {
				last <- at
				return
			}
			at = time.Now()
			if first {
				close(alive)
			}
		}
	}()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	select {
	case <-alive:
	case <-last:
		t.Fatal("the flow never lived")
	case <-ctx.Done():
		t.Fatal("the flow never lived")
	}
	return last
}

// inside is what the kernel says of the machine from inside: who listens, and what is mounted.
func (l *life) inside(t *testing.T) {
	l.needsOrders(t)
	outside := map[string][]uint16{"tcp": {443, 8443}, "udp": {68, 546, 51820}}                         // enrollment, API, DHCP, WireGuard
	tunnel := map[string][]uint16{"tcp": {53, 80, 8444, 8445}, "udp": {53}}                             // resolver, portal, what agents ask
	gateway := []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66:6c61:7a61::1")} // in the tunnel
	for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
		network := file[:3]
		for _, at := range listeners(t, l.order(t, "show /proc/net/"+file)) {
			t.Logf("%s listens on %s", file, at)
			open := outside
			if slices.Contains(gateway, at.Addr()) {
				open = tunnel
			}
			if !at.Addr().IsLoopback() && !slices.Contains(open[network], at.Port()) {
				t.Errorf("%s is open on %s", network, at)
			}
		}
	}
	var m api.Machine
	l.must(t, "GET", "/api/v1/machine", nil, &m)
	t.Logf("memory used, with the version in it: %d of %d MB", (m.Memory.Size-m.Memory.Available)>>20, m.Memory.Size>>20)
	mounts := l.order(t, "show /proc/mounts")
	root := regexp.MustCompile(`(?m)^\S+ / \S+ (\S+) `).FindAllStringSubmatch(mounts, -1)
	if len(root) == 0 || !slices.Contains(strings.Split(root[len(root)-1][1], ","), "ro") {
		t.Errorf("the root is not read-only:\n%s", mounts)
	}
	if !regexp.MustCompile(`(?m)^/dev/\S+ /data ext4 \S*nodev`).MatchString(mounts) {
		t.Errorf("the data partition is not mounted as it should be:\n%s", mounts)
	}
}

// listeners reads who listens from the kernel's list (proc_net_tcp.rst): state 0A of TCP,
// 07 of UDP, addresses as words of this machine's byte order.
func listeners(t testing.TB, list string) []netip.AddrPort {
	t.Helper()
	var all []netip.AddrPort
	for in := bufio.NewScanner(strings.NewReader(list)); in.Scan(); {
		f := strings.Fields(in.Text())
		if len(f) < 4 || f[3] != "0A" && f[3] != "07" {
			continue
		}
		addr, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(addr)
		p, err2 := strconv.ParseUint(port, 16, 16)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		for word := range slices.Chunk(b, 4) {
			slices.Reverse(word)
		}
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			t.Fatalf("no address: %s", in.Text())
		}
		all = append(all, netip.AddrPortFrom(a.Unmap(), uint16(p)))
	}
	return all
}

// TestListeners: the list is read as the kernel writes it.
func TestListeners(t *testing.T) {
	const list = `  sl  local_address rem_address   st
   0: 0100007F:0035 00000000:0000 0A 00000000:00000000
   1: 0F02000A:01BB 0202000A:9C40 01 00000000:00000000
   2: 00000000000000000000000001000000:20FB 00000000000000000000000000000000:0000 0A`
	got := listeners(t, list)
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:8443")}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
