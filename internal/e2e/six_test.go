package e2e

import (
	"net/netip"
	"testing"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// sixth is a gateway's IPv6, where it has any.
type sixth struct {
	dual, only         bool // beside IPv4, in place of it; the API stays where it is
	outer, mgmt, intra netip.Addr
	quarantine, full   netip.Prefix
}

func sixthOf(n byte, o options) sixth {
	at := func(prefix string) netip.Addr {
		a := netip.MustParseAddr(prefix).As16()
		a[15] = n
		return netip.AddrFrom16(a)
	}
	pool := func(prefix string) netip.Prefix {
		a := netip.MustParseAddr(prefix).As16()
		a[7] = n
		return netip.PrefixFrom(netip.AddrFrom16(a), 64)
	}
	return sixth{o.dual, o.six, at("2001:db8:51::"), at("2001:db8:2::"), at("fd10::"), pool("fd66::"), pool("fd67::")}
}

// TestIPv6Only: a device and a gateway that have no IPv4 at all, outside of the tunnel or
// in it, from enrollment to the intranet and back.
func TestIPv6Only(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{six: true})
	plan := theLab(t).Plan
	managementServer(t)
	l := newLaptop(t, g, netip.MustParsePrefix("2001:db8:51::2:1/64"))
	l.enroll(t, g.url(), api.OTPRequest{User: "six@example.com"})
	l.start(t, "")
	l.stands(t, "quarantined")
	management, intranet := netip.AddrPortFrom(plan.Management.V6, servicePort), netip.AddrPortFrom(plan.Intranet.V6, 0)
	if !l.reaches(t, testnet.TCP, management, late) || l.reaches(t, testnet.ICMP, intranet, moment) {
		t.Error("in quarantine: the management server is not reached, or the intranet is")
	}
	g.reported(t, l.id, "compliant")
	l.stands(t, "routed")
	if !l.reaches(t, testnet.TCP, management, late) || !l.reaches(t, testnet.ICMP, intranet, late) {
		t.Error("routed: management server or intranet are not reached")
	}
	g.reported(t, l.id, "noncompliant")
	l.stands(t, "quarantined")
	if l.reaches(t, testnet.ICMP, intranet, moment) {
		t.Error("back in quarantine, and the intranet is reached")
	}
	for _, a := range g.show(t, l.id).Addresses {
		if a.Is4() {
			t.Errorf("the device has the address %s", a)
		}
	}
}
