package testnet

import (
	"context"
	"fmt"
	"net/netip"
)

// Both is an address in both families.
type Both struct{ V4, V6 netip.Addr }

// All returns the two addresses, IPv4 first.
func (b Both) All() []netip.Addr { return []netip.Addr{b.V4, b.V6} }

// network is a network of the standard lab. A host has the same last number in
// both families.
type network struct {
	name   string
	v4, v6 netip.Prefix
}

func (n network) host(last byte) Both {
	v4, v6 := n.v4.Addr().As4(), n.v6.Addr().As16()
	v4[3], v6[15] = last, last
	return Both{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
}

func (n network) prefixes(last byte) []netip.Prefix {
	b := n.host(last)
	return []netip.Prefix{netip.PrefixFrom(b.V4, n.v4.Bits()), netip.PrefixFrom(b.V6, n.v6.Bits())}
}

// The networks of the standard lab; those named by documentation prefixes stand
// for the Internet's.
var (
	outerNet   = network{"outer", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:51::/64")}
	mgmtNet    = network{"mgmt", netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:2::/64")}
	intraNet   = network{"intra", netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10::/64")}
	controlNet = network{"control", netip.MustParsePrefix("10.68.0.0/16"), netip.MustParsePrefix("fd68::/64")}
	outside    = Both{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:113::7")}
)

// Last numbers of addresses.
const (
	numGateway = 1
	numControl = 2
	numServer  = 10
	numDev1    = 11
	numDev2    = 12
)

// Params say what may differ between standard labs.
type Params struct {
	// Pools are the tunnel prefixes that the servers answer through the gateway;
	// by default 10.66.0.0/16, 10.67.0.0/16, fd66::/48 and fd67::/48.
	Pools []netip.Prefix
}

// Net is the standard lab: two devices that see only the outer network, a gateway
// on all three networks, a management server, an intranet server that also holds
// an address outside of it, and a control gateway, which stands beside the gateway
// and has no firewall. Nothing runs on any of them, and the gateway does not
// forward until it is told to.
type Net struct {
	*Lab
	Dev1, Dev2, Gateway, Management, Intranet, Control *Host
	Plan                                               Plan
}

// Plan is the addresses of the standard lab. Interfaces are named after their
// networks: outer, mgmt, intra.
type Plan struct {
	Dev1, Dev2                              Both
	Management, Intranet, Outside           Both
	GatewayOuter, GatewayMgmt, GatewayIntra Both
	ControlOuter                            Both
	// ControlTunnel is the control gateway's address in its tunnel; Dev1Control and
	// Dev2Control are the devices'.
	ControlTunnel, Dev1Control, Dev2Control Both
}

func standardPlan() Plan {
	return Plan{
		Dev1: outerNet.host(numDev1), Dev2: outerNet.host(numDev2),
		Management: mgmtNet.host(numServer), Intranet: intraNet.host(numServer), Outside: outside,
		GatewayOuter: outerNet.host(numGateway), GatewayMgmt: mgmtNet.host(numGateway), GatewayIntra: intraNet.host(numGateway),
		ControlOuter:  outerNet.host(numControl),
		ControlTunnel: controlNet.host(numGateway), Dev1Control: controlNet.host(numDev1), Dev2Control: controlNet.host(numDev2),
	}
}

// Standard starts the standard lab.
func Standard(ctx context.Context, c Config, p Params) (*Net, error) {
	if p.Pools == nil {
		for _, s := range []string{"10.66.0.0/16", "10.67.0.0/16", "fd66::/48", "fd67::/48"} {
			p.Pools = append(p.Pools, netip.MustParsePrefix(s))
		}
	}
	l, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	n := &Net{Lab: l, Plan: standardPlan()}
	if err := n.build(ctx, p); err != nil {
		l.Close()
		return nil, fmt.Errorf("building the standard lab: %w", err)
	}
	return n, nil
}

// build starts the hosts and links them up.
func (n *Net) build(ctx context.Context, p Params) error {
	gateways := []network{outerNet, mgmtNet, intraNet}
	for _, h := range []struct {
		host     **Host
		name     string
		last     byte
		networks []network
		config   NetConfig
	}{
		{&n.Gateway, "gateway", numGateway, gateways, NetConfig{Routes: viaIntranet()}},
		{&n.Control, "control", numControl, gateways, NetConfig{Routes: viaIntranet(), Sysctls: map[string]string{
			"net/ipv4/conf/all/forwarding": "1",
			"net/ipv6/conf/all/forwarding": "1",
			"net/ipv4/conf/all/arp_ignore": "1", // it may hold the gateway's addresses, for the tunnel only
		}}},
		{&n.Dev1, "dev1", numDev1, []network{outerNet}, NetConfig{}},
		{&n.Dev2, "dev2", numDev2, []network{outerNet}, NetConfig{}},
		{&n.Management, "mgmt", numServer, []network{mgmtNet}, NetConfig{Routes: returns(mgmtNet, p.Pools)}},
		{&n.Intranet, "intranet", numServer, []network{intraNet}, NetConfig{Routes: returns(intraNet, p.Pools),
			Links: []LinkConfig{{Name: "lo", Addrs: whole(outside)}}}},
	} {
		host, err := n.AddHost(ctx, h.name)
		if err != nil {
			return err
		}
		for _, net := range h.networks {
			if err := n.Link(ctx, host, net.name, net.name, net.prefixes(h.last)...); err != nil {
				return err
			}
		}
		if err := host.Configure(ctx, h.config); err != nil {
			return err
		}
		*h.host = host
	}
	return nil
}

// viaIntranet leads to the outside address.
func viaIntranet() []Route {
	via := intraNet.host(numServer)
	return []Route{{To: whole(outside)[0], Via: via.V4}, {To: whole(outside)[1], Via: via.V6}}
}

// returns leads a server's answers back: those for the pools through the gateway,
// those for the control tunnel through the control gateway.
func returns(on network, pools []netip.Prefix) []Route {
	gateway, control := on.host(numGateway), on.host(numControl)
	routes := []Route{{To: controlNet.v4, Via: control.V4}, {To: controlNet.v6, Via: control.V6}}
	for _, p := range pools {
		via := gateway.V4
		if p.Addr().Is6() {
			via = gateway.V6
		}
		routes = append(routes, Route{To: p, Via: via})
	}
	return routes
}

func whole(b Both) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(b.V4, 32), netip.PrefixFrom(b.V6, 128)}
}
