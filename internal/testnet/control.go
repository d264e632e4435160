package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"lazaret/quarantine/tunnel"
)

// ControlDevice is the interface of the control tunnel, on both sides.
const ControlDevice = "wgc"

// controlPort is the control gateway's; controlTable and controlPriority are of
// the devices' routing rules, ahead of any that an agent sets.
const (
	controlPort     = 51820
	controlTable    = 6868
	controlPriority = 68
)

// everything is every address.
var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// ControlSpec says what the control tunnel stands in for.
type ControlSpec struct {
	// Gateway lists addresses of the real gateway that the control gateway is to
	// hold as well, so that probes sent to them through its tunnel find somebody.
	Gateway []netip.Addr
	// Dev1 and Dev2 list addresses that the devices hold in the real tunnel, which
	// the control gateway is to lead to them through its own.
	Dev1, Dev2 []netip.Addr
	// AnySource lets dev1 send from any address, as if there were no cryptokey routing.
	AnySource bool
}

// OpenControl opens a tunnel from both devices to the control gateway. A probe
// that a device sends from its address there (Plan.Dev1Control) goes through it,
// whatever its destination, and nothing filters it; answers come back the same
// way. Together with the same probe through the real gateway it shows that a
// silence there is the gateway's doing.
func (n *Net) OpenControl(ctx context.Context, s ControlSpec) error {
	gatewayKey, err := tunnel.GeneratePrivateKey()
	if err != nil {
		return err
	}
	gateway := WireGuardSpec{Device: ControlDevice, Key: gatewayKey, Port: controlPort, Addrs: controlNet.prefixes(numGateway)}
	there := NetConfig{Links: []LinkConfig{{Name: "lo", Addrs: hostPrefixes(s.Gateway)}}}
	type device struct {
		host *Host
		spec WireGuardSpec
		own  Both
	}
	var devices []device
	for _, d := range []struct {
		host  *Host
		last  byte
		claim []netip.Addr
	}{{n.Dev1, numDev1, s.Dev1}, {n.Dev2, numDev2, s.Dev2}} {
		key, err := tunnel.GeneratePrivateKey()
		if err != nil {
			return err
		}
		own := controlNet.host(d.last)
		allowed := append(whole(own), hostPrefixes(d.claim)...)
		if s.AnySource && d.host == n.Dev1 {
			allowed = append(allowed, everything...)
		}
		gateway.Peers = append(gateway.Peers, tunnel.Peer{Key: key.Public(), AllowedIPs: allowed})
		for _, p := range hostPrefixes(d.claim) {
			there.Routes = append(there.Routes, Route{To: p, Device: ControlDevice})
		}
		devices = append(devices, device{d.host, n.controlClient(key, gatewayKey.Public(), own), own})
	}
	if _, err := n.Control.WireGuard(ctx, gateway); err != nil {
		return fmt.Errorf("opening the control tunnel: %w", err)
	}
	if err := n.Control.Configure(ctx, there); err != nil {
		return fmt.Errorf("opening the control tunnel: %w", err)
	}
	for _, d := range devices {
		if _, err := d.host.WireGuard(ctx, d.spec); err != nil {
			return fmt.Errorf("opening the control tunnel: %w", err)
		}
		if err := d.host.Configure(ctx, controlRoutes(d.own)); err != nil {
			return fmt.Errorf("opening the control tunnel: %w", err)
		}
	}
	return nil
}

func (n *Net) controlClient(key tunnel.PrivateKey, gateway tunnel.Key, own Both) WireGuardSpec {
	return WireGuardSpec{Device: ControlDevice, Key: key, Addrs: whole(own), Peers: []tunnel.Peer{{
		Key:        gateway,
		Endpoint:   netip.AddrPortFrom(n.Plan.ControlOuter.V4, controlPort),
		AllowedIPs: everything,
		KeepAlive:  5 * time.Second, // so that the gateway knows the way before it is asked
	}}}
}

// controlRoutes leads what comes from, goes to or is bound to the control tunnel
// into it.
func controlRoutes(own Both) NetConfig {
	var c NetConfig
	for _, p := range everything {
		c.Routes = append(c.Routes, Route{To: p, Device: ControlDevice, Table: controlTable})
	}
	for _, p := range whole(own) {
		c.Rules = append(c.Rules, Rule{Priority: controlPriority, From: p, Table: controlTable})
	}
	for _, p := range []netip.Prefix{controlNet.v4, controlNet.v6} {
		c.Rules = append(c.Rules, Rule{Priority: controlPriority + 1, To: p, Table: controlTable})
	}
	for _, family := range []int{4, 6} {
		c.Rules = append(c.Rules, Rule{Priority: controlPriority + 2, Family: family, Out: ControlDevice, Table: controlTable})
	}
	return c
}

// ForceRoutes leads every socket that is bound to the interface into it, whatever
// the other routes say, as a device that ignores what it was told may do.
func (h *Host) ForceRoutes(ctx context.Context, device string, table int) error {
	var c NetConfig
	for family, everything := range map[int]string{4: "0.0.0.0/0", 6: "::/0"} {
		c.Routes = append(c.Routes, Route{To: netip.MustParsePrefix(everything), Device: device, Table: table})
		c.Rules = append(c.Rules, Rule{Priority: table, Family: family, Out: device, Table: table})
	}
	return h.Configure(ctx, c)
}

func hostPrefixes(addrs []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}
