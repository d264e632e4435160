package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/config"
	"lazaret/internal/listener"
	"lazaret/internal/portal"
)

// TestOneDeviceLeavesThePortalToOthers: a device that holds connections and says nothing
// keeps a few, and another is answered; when they end, it has them again.
func TestOneDeviceLeavesThePortalToOthers(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	defer func() { cancel(); _ = group.Wait() }()
	s := listener.Site{Name: "portal-http", Most: 32, Each: portalEach, Idle: time.Minute, At: []netip.AddrPort{at},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })}
	if err := s.Serve(ctx, group, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	dial := func(from byte) net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}).Dial("tcp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // to fail rather than hang
			t.Fatal(err)
		}
		return c
	}
	var held []net.Conn
	for range 64 { // twice as many as all may have
		held = append(held, dial(2))
	}
	answered := func(from byte) bool {
		c := dial(from)
		defer c.Close()
		if _, err := fmt.Fprint(c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n"); err != nil {
			return false
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		return err == nil && line == "HTTP/1.0 200 OK\r\n"
	}
	if !answered(3) {
		t.Error("another device is not answered")
	}
	for i, c := range held[portalEach:] {
		if _, err := c.Read(make([]byte, 1)); err == nil { // ends: closed by the server
			t.Errorf("connection %d is answered", portalEach+i)
		}
	}
	if answered(2) {
		t.Error("one more of the same device is answered")
	}
	for _, c := range held {
		c.Close()
	}
	for !answered(2) { // once the server has seen that they ended
		if t.Context().Err() != nil {
			t.Fatal("never has room again")
		}
	}
}

// TestOwnAddressesOutliveAnError: while the interfaces cannot be read, the gateway's own
// addresses are those read last, so that no name comes to lead to them.
func TestOwnAddressesOutliveAnError(t *testing.T) {
	broken := errors.New("no memory")
	var fail error
	own := &lastOwn{list: func() ([]net.Addr, error) {
		if fail != nil {
			return nil, fail
		}
		return []net.Addr{&net.IPNet{IP: net.IPv4(9, 9, 9, 1), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2a01::1"), Mask: net.CIDRMask(64, 128)}}, nil
	}}
	k := &control{log: slog.New(slog.DiscardHandler), config: config.Config{Enroll: config.Enroll{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:443"), netip.MustParseAddrPort("9.9.9.2:443")}, Names: []string{"gw.example.com", "9.9.9.3"}}}}
	want := []netip.Addr{netip.MustParseAddr("9.9.9.1"), netip.MustParseAddr("2a01::1"), netip.MustParseAddr("9.9.9.2"), netip.MustParseAddr("9.9.9.3")}
	for _, fail = range []error{nil, broken, nil, broken, broken} {
		if got := k.ownAddresses(own); !slices.Equal(got, want) {
			t.Errorf("with the error %v: %v", fail, got)
		}
	}
}

// TestSitesInsideAreBoundedPerDevice: what devices reach through the tunnel says how many
// connections one of them may hold.
func TestSitesInsideAreBoundedPerDevice(t *testing.T) {
	k := &control{inside: inside{portal: new(portal.Server)}}
	for _, s := range k.portalSites() {
		if s.Each == 0 || s.Each > s.Most/64 {
			t.Errorf("%s: %d of %d", s.Name, s.Each, s.Most)
		}
	}
}

// TestEnrollmentIsBoundedPerHost: no host of the Internet holds more than a small part of the
// enrollment listener, which takes webhooks and security events too. A /64 is one host; a
// trusted proxy is bounded by nothing but the listener.
func TestEnrollmentIsBoundedPerHost(t *testing.T) {
	if enrollEach == 0 || enrollEach > 2048/16 {
		t.Errorf("one address holds %d of 2048 connections", enrollEach)
	}
	holder := listener.Outside([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("2001:db8:1::/64")})
	for address, want := range map[string]string{
		"fe80::1": "fe80::1", "fe80::2": "fe80::2", "192.0.2.15": "", "192.0.2.16": "192.0.2.16", "2001:db8:1::5": "", "2001:db8:2::5": "2001:db8:2::", "2001:db8:2::ffff:1": "2001:db8:2::", "2001:db8:2:1::1": "2001:db8:2:1::",
	} {
		var w netip.Addr
		if want != "" {
			w = netip.MustParseAddr(want)
		}
		if got := holder(netip.MustParseAddr(address)); got != w {
			t.Errorf("%s counts to %v, want %q", address, got, want)
		}
	}
}

// TestOneAddressLeavesEnrollmentToOthers: who holds all connections to the enrollment
// listener that one may have is refused the next, and another is answered.
func TestOneAddressLeavesEnrollmentToOthers(t *testing.T) {
	leavesToOthers(t, func(at netip.AddrPort) listener.Site {
		return enrollSite(config.Config{Enroll: config.Enroll{Listen: []netip.AddrPort{at}}})
	})
}

// TestOneAddressLeavesTheAPIToOthers is the same of the API, which one address could shut
// administrators out of.
func TestOneAddressLeavesTheAPIToOthers(t *testing.T) {
	if apiEach == 0 || apiEach > 512/4 {
		t.Errorf("one address holds %d of 512 connections", apiEach)
	}
	leavesToOthers(t, func(at netip.AddrPort) listener.Site {
		return apiSite(config.Config{API: config.API{Listen: []netip.AddrPort{at}}})
	})
}

func leavesToOthers(t *testing.T, of func(netip.AddrPort) listener.Site) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	defer func() { cancel(); _ = group.Wait() }()
	s := of(at)
	s.Handler = http.NotFoundHandler()
	if err := s.Serve(ctx, group, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	dial := func(from byte) net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}).Dial("tcp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // to fail rather than hang
			t.Fatal(err)
		}
		return c
	}
	var held []net.Conn
	for range s.Most { // as many as there are: those beyond are closed
		held = append(held, dial(2))
	}
	if _, err := dial(2).Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more of the same address: %v", err)
	}
	c := dial(3)
	if _, err := fmt.Fprint(c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "HTTP/1.0 404 Not Found\r\n" {
		t.Errorf("another address is answered %q, %v", line, err)
	}
	for _, c := range held { // else the server waits for them before it ends
		c.Close()
	}
}
