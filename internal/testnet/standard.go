package testnet

import (
	"context"
	"net/netip"
)

// Ports and addresses of the standard lab. Each network has a /24 and a /64; a
// host has the same last number in both.
var (
	OuterNet4 = netip.MustParsePrefix("198.51.100.0/24")  // devices and gateways: the Internet
	OuterNet6 = netip.MustParsePrefix("2001:db8:51::/64") //
	MgmtNet4  = netip.MustParsePrefix("192.0.2.0/24")     // management server
	MgmtNet6  = netip.MustParsePrefix("2001:db8:2::/64")  //
	IntraNet4 = netip.MustParsePrefix("10.10.0.0/24")     // intranet server
	IntraNet6 = netip.MustParsePrefix("fd10::/64")        //
	Outside4  = netip.MustParseAddr("203.0.113.7")        // an address beyond the intranet
	Outside6  = netip.MustParseAddr("2001:db8:113::7")    //
	Control4  = netip.MustParsePrefix("10.68.0.0/16")     // tunnel of the control gateway
	Control6  = netip.MustParsePrefix("fd68::/64")        //
)

// Params say what differs between standard labs. The zero Params are filled in.
type Params struct {
	// Pools are the tunnel prefixes that the servers answer through the gateway;
	// by default 10.66.0.0/16, 10.67.0.0/16, fd66::/48 and fd67::/48.
	Pools []netip.Prefix
}

// Net is the standard lab.
type Net struct {
	*Lab
	Dev1, Dev2 *Host // on the outer network, with no way but it
	Gateway    *Host // on all three networks
	Management *Host // answers the pools through the gateway
	Intranet   *Host // answers the pools through the gateway, and holds the outside address
	Control    *Host // a gateway like the other, without a firewall
	Plan       Plan
}

// Plan is the addresses of the standard lab, IPv4 first.
type Plan struct {
	Dev1, Dev2   [2]netip.Addr
	GatewayOuter [2]netip.Addr
	GatewayMgmt  [2]netip.Addr
	GatewayIntra [2]netip.Addr
	Management   [2]netip.Addr
	Intranet     [2]netip.Addr
	Outside      [2]netip.Addr
	ControlOuter [2]netip.Addr
	ControlMgmt  [2]netip.Addr
	ControlIntra [2]netip.Addr
}

// Standard starts a lab of two devices, a gateway, a management server, an
// intranet server and a control gateway, all linked up and with routes, and with
// nothing running on them.
func Standard(ctx context.Context, c Config, p Params) (*Net, error) {
	l, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	return &Net{Lab: l}, nil
}
