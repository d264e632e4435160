package chaos

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// The addresses, worked out here and not by the product: device n has seat n, and its
// address is the prefix and n+1.
func seat(prefix string, n int) netip.Addr {
	a := netip.MustParseAddr(prefix)
	b := a.AsSlice()
	b[len(b)-2], b[len(b)-1] = byte((n+1)>>8), byte(n+1)
	a, _ = netip.AddrFromSlice(b)
	return a
}

var (
	quarantinePrefixes = []string{"10.66.0.0", "fd66::"}
	fullPrefixes       = []string{"10.77.0.0", "fd77::"}
)

// addresses of device n in quarantine and where it is routed.
func addresses(n int) (q, r []netip.Addr) {
	for _, p := range quarantinePrefixes {
		q = append(q, seat(p, n))
	}
	if fixed(n) {
		return q, q
	}
	for _, p := range fullPrefixes {
		r = append(r, seat(p, n))
	}
	return q, r
}

// Who is who: the movers go up and down all the time, of which the last two have one
// address for both; then one of each sort that is never let in.
const (
	movers  = 6
	pending = movers + 1
	revoked = movers + 2
	nobody  = movers + 3 // never enrolled
)

func fixed(n int) bool { return n == movers || n == movers-1 }

func pools() []quarantine.Pool {
	return []quarantine.Pool{
		{Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.66.0.0/16"), IPv6: netip.MustParsePrefix("fd66::/64"),
			Reach: []firewall.Reach{
				{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "udp", From: 443, Up: 443},
				{To: netip.MustParsePrefix("2001:db8::10/128"), Protocol: "udp", From: 443, Up: 443},
			}},
		{Name: "full", IPv4: netip.MustParsePrefix("10.77.0.0/16"), IPv6: netip.MustParsePrefix("fd77::/64")},
	}
}

var (
	management = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}
	intranet   = []netip.Addr{netip.MustParseAddr("192.0.2.20"), netip.MustParseAddr("2001:db8::20")}
	gateways   = []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")}
)

// allShots are a few sorts of packets for everybody.
func allShots() []shot {
	var all []shot
	port := func(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }
	for n := 1; n <= nobody; n++ {
		q, r := addresses(n)
		for f := range 2 {
			own := uint16(30000 + n)
			all = append(all,
				shot{"quarantine address to management", true, unix.IPPROTO_UDP, port(q[f], own), port(management[f], 443), n, quarantined, false},
				shot{"routed address to intranet, old flow", true, unix.IPPROTO_UDP, port(r[f], own), port(intranet[f], 5000), n, routed, false},
				shot{"routed address to intranet, new flow", true, unix.IPPROTO_UDP, port(r[f], own), port(intranet[f], 5001), n, routed, true},
				shot{"routed address to intranet, TCP", true, unix.IPPROTO_TCP, port(r[f], own), port(intranet[f], 80), n, routed, true},
				shot{"routed address to intranet, ICMP", true, unix.IPPROTO_ICMP, port(r[f], own), port(intranet[f], 0), n, routed, false},
			)
			if n%3 != 0 && n <= movers { // enough of the rest
				continue
			}
			all = append(all,
				shot{"device to device", true, unix.IPPROTO_UDP, port(r[f], own), port(seat([]string{"10.77.0.0", "fd77::"}[f], n%movers+1), 5000), n, never, true},
				shot{"device to the gateway", true, unix.IPPROTO_UDP, port(q[f], own), port(gateways[f], 9999), n, never, true},
				shot{"intranet to device", false, unix.IPPROTO_UDP, port(intranet[f], own), port(r[f], 5000), n, never, true},
				shot{"tunnel address from outside", false, unix.IPPROTO_UDP, port(r[f], own), port(intranet[f], 5002), n, never, true},
			)
			if !fixed(n) {
				all = append(all, shot{"quarantine address to intranet", true, unix.IPPROTO_UDP, port(q[f], own), port(intranet[f], 5000), n, never, false})
			}
		}
	}
	return all
}

// controls sends every shot once with no table at all: each must come out somewhere, or
// its silence later proves nothing. It returns the number of those that did.
func (e *ends) controls(t testing.TB) int {
	t.Helper()
	e.shots = allShots()
	link := &standIn{}
	check(t, link.SetAddresses([]netip.Prefix{netip.MustParsePrefix("10.66.0.1/16"), netip.MustParsePrefix("fd66::1/64"),
		netip.MustParsePrefix("10.77.0.1/16"), netip.MustParsePrefix("fd77::1/64")}))
	leaked := map[string]bool{}
	e.fire(t, 0, len(e.shots))
	settle(t, "the controls to come through", func() string {
		for _, what := range e.forbidden() {
			leaked[what] = true
		}
		e.mu.Lock()
		e.leaks = nil
		e.mu.Unlock()
		var missing []string
		for _, s := range e.shots {
			ways := []string{"packet"}
			if s.inside && s.proto == unix.IPPROTO_UDP && s.to.Port() != 9999 && s.name != "device to device" {
				ways = append(ways, "answer")
			}
			for _, way := range ways {
				if what := fmt.Sprintf("%s (%s, protocol %d, %s to %s)", s.name, way, s.proto, s.from, s.to); !contains(leaked, what) {
					missing = append(missing, what)
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Sprintf("%d of %d did not, such as %s", len(missing), len(e.shots), strings.Join(missing[:min(3, len(missing))], "; "))
		}
		return ""
	})
	e.sent.Store(0)
	e.denied.Store(0)
	return len(leaked)
}

func contains(all map[string]bool, part string) bool {
	for s := range all {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
