package leak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/internal/plane"
	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/storetest"
	"lazaret/quarantine/tunnel"
)

// Ports of the lab. The management server's first two are all that quarantine reaches.
const (
	servicePort = 443  // TCP
	allowedUDP  = 5000 // UDP
	apiPort     = 8443 // of the gateway's API, outside
	agentPort   = 8444 // of the gateway's API for agents, inside
	outsideUDP  = 700  // an open port of the gateway, outside
	tunnelPort  = 51820
)

// Groups that the gateway's host is a member of, so that somebody would hear.
const (
	mdns4 = "224.0.0.251"
	ssdp4 = "239.255.255.250"
	mdns6 = "ff02::fb"
	dhcp6 = "ff02::1:2"
)

// link is the name of the gateway's WireGuard interface.
const link = "lz0"

const rolePlane = "leak.dataplane"

// Roles are the processes of the suite's lab; a program that runs the suite gives them to
// [testnet.Main].
func Roles() map[string]testnet.Role {
	return map[string]testnet.Role{rolePlane: runPlane}
}

// runPlane is the data plane, as lazaretd runs it; the argument is its configuration.
func runPlane(ctx context.Context, args []string) error {
	c, err := config.Load(args[0])
	if err != nil {
		return err
	}
	return plane.Run(ctx, c, c.Logger(os.Stderr), func() {
		if err := testnet.Report("ready"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	})
}

// site is the lab, its gateway and whoever attacks it.
type site struct {
	net    *testnet.Net
	plane  *testnet.Process
	store  *storetest.Memory
	gate   *quarantine.Gate
	client *dataplane.Client
	key    tunnel.Key // the gateway's
	pools  map[string]quarantine.Pool
	wide   []firewall.Reach // what else quarantine reaches
	stages []Stage          // nil: all

	devices                  []*device // attackers, on dev1
	victim, guest, neighbour *device   // on dev2
	flow4, flow6             victimFlows
	controlFlow4             victimFlows
	controlFlow6             victimFlows
	macs                     map[string]net.HardwareAddr // of the gateways' interfaces, by host and network
	caps                     []*sighting
	server                   *testnet.Server // the intranet's
	flows                    []*flow

	stop  context.CancelFunc
	parts sync.WaitGroup
}

// victimFlows are the flows of others that attacks are about.
type victimFlows struct {
	udp, tcp        ends
	guestUDP        ends // of a masqueraded device, before translation
	guestTCP        ends
	mapping, mapped netip.AddrPort
}

// sighting is one capture and where it is.
type sighting struct {
	host    string
	capture *testnet.Capture
}

func openSite(ctx context.Context, o Options) (*site, error) {
	s := &site{wide: o.wide, stages: o.stages, store: storetest.NewMemory(), macs: make(map[string]net.HardwareAddr)}
	var pools []netip.Prefix
	for _, p := range []string{"10.66.0.0/16", "fd66::/48", "10.67.0.0/16", "fd67::/48", "10.69.0.0/16", "fd69::/48"} {
		pools = append(pools, netip.MustParsePrefix(p))
	}
	var err error
	if s.net, err = testnet.Standard(context.WithoutCancel(ctx), testnet.Config{Log: o.Detail}, testnet.Params{Pools: pools}); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = cancel
	for _, step := range []func(context.Context) error{
		s.startPlane, func(ctx context.Context) error { return s.startGate(ctx, run, o.Detail) },
		s.enroll, s.openTunnels, s.openControl, s.prepareHosts, s.capture,
	} {
		if err := step(ctx); err != nil {
			s.close()
			return nil, fmt.Errorf("preparing the site: %w", err)
		}
	}
	return s, nil
}

// close ends everything.
func (s *site) close() {
	s.stop()
	s.parts.Wait()
	if s.client != nil {
		s.client.Close()
	}
	_ = s.net.Close() // always nil
}

// startPlane starts the data plane's process.
func (s *site) startPlane(ctx context.Context) error {
	dir, p := s.net.Gateway.Dir(), s.net.Plan
	path := filepath.Join(dir, "lazaret.toml")
	text := fmt.Sprintf(`
state = %q
[enroll]
listen = ["%s:443", "[%s]:443"]
names = ["gateway.example"]
[api]
listen = ["%s:%d"]
[tunnel]
userspace = true
[dataplane]
socket = %q
state = %q
[firewall]
in = ["udp/%d"]
`, filepath.Join(dir, "state"), p.GatewayOuter.V4, p.GatewayOuter.V6, p.GatewayMgmt.V4, apiPort,
		s.socket(), filepath.Join(dir, "plane"), outsideUDP)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	var err error
	if s.plane, err = s.net.Gateway.Run(ctx, rolePlane, path); err != nil {
		return err
	}
	var word string
	if err := s.plane.Next(ctx, &word); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(s.socket()), "wireguard.pub"))
	if err == nil {
		s.key, err = tunnel.ParseKey(strings.TrimSpace(string(b)))
	}
	return err
}

func (s *site) socket() string { return filepath.Join(s.net.Gateway.Dir(), "run", "dataplane.sock") }

// settings are the pools and profiles of the site.
func (s *site) settings() storetest.Settings {
	var reach []firewall.Reach
	for _, a := range s.net.Plan.Management.All() {
		to := netip.PrefixFrom(a, a.BitLen())
		reach = append(reach, firewall.Reach{To: to, Protocol: "tcp", From: servicePort, Up: servicePort},
			firewall.Reach{To: to, Protocol: "udp", From: allowedUDP, Up: allowedUDP})
	}
	pool := func(name, v4, v6 string) quarantine.Pool {
		return quarantine.Pool{Name: name, IPv4: netip.MustParsePrefix(v4), IPv6: netip.MustParsePrefix(v6)}
	}
	q, staff, guests := pool("quarantine", "10.66.0.0/16", "fd66::/48"), pool("staff", "10.67.0.0/16", "fd67::/48"), pool("guests", "10.69.0.0/16", "fd69::/48")
	q.Quarantine, q.Reach, guests.Masquerade = true, append(reach, s.wide...), true
	return storetest.Settings{
		Pools: map[string]quarantine.Pool{"quarantine": q, "staff": staff, "guests": guests},
		Profiles: map[string]quarantine.Profile{
			"staff":        {Name: "staff", Pool: "staff"},
			"staff-fixed":  {Name: "staff-fixed", Pool: "staff", Addressing: quarantine.Fixed},
			"guests":       {Name: "guests", Pool: "guests"},
			"guests-fixed": {Name: "guests-fixed", Pool: "guests", Addressing: quarantine.Fixed},
			"approved":     {Name: "approved", Pool: "staff", NeedApproval: true},
		},
		Sources: map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true, MaxValidity: 2 * time.Hour}},
	}
}

// startGate starts the control plane: the gate with a store in memory.
func (s *site) startGate(ctx, run context.Context, w io.Writer) error {
	settings := s.settings()
	s.store.Save(settings)
	s.pools = settings.Pools
	journal, err := quarantine.OpenJournal(filepath.Join(s.net.Dir(), "tightenings"))
	if err != nil {
		return err
	}
	if s.client, err = dataplane.Dial(ctx, s.socket()); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if w != nil {
		log = slog.New(slog.NewTextHandler(w, nil))
	}
	s.gate, err = quarantine.NewGate(quarantine.Config{
		Store: s.store, Enforcer: s.client, Journal: journal, Policy: quarantine.PlainPolicy{},
		Control: "leak/1", Gateway: "gateway", Log: log,
	})
	if err != nil {
		return err
	}
	s.parts.Go(func() { _ = s.gate.Run(run); _ = journal.Close() }) // always nil; a journal of a lab
	s.parts.Go(func() { s.follow(run) })
	select {
	case <-s.gate.Ready():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the gate: %w", ctx.Err())
	}
}

// follow tells the gate when the data plane wants a plan.
func (s *site) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-s.client.Events():
			if !ok {
				return
			}
			if e.Kind == dataplane.Connected || e.Kind == dataplane.NeedPlan || e.Kind == dataplane.ClockJump {
				s.gate.Replan()
			}
		}
	}
}

// prepareHosts starts servers, opens every kernel setting that would hide what the table
// does, and learns link addresses.
func (s *site) prepareHosts(ctx context.Context) error {
	p := s.net.Plan
	var errs []error
	_, err := s.net.Management.Serve(ctx, portsOf(p.Management, servicePort, allowedUDP)...)
	errs = append(errs, err)
	s.server, err = s.net.Intranet.Serve(ctx, append(portsOf(p.Intranet, servicePort, allowedUDP), portsOf(p.Outside, servicePort)...)...)
	errs = append(errs, err)
	for h, device := range map[*testnet.Host]string{s.net.Gateway: link, s.net.Control: testnet.ControlDevice} {
		c := testnet.NetConfig{Sysctls: make(map[string]string)}
		for _, name := range []string{"all", "default", device, "outer"} {
			c.Sysctls["net/ipv4/conf/"+name+"/accept_source_route"] = "1"
			c.Sysctls["net/ipv4/conf/"+name+"/bc_forwarding"] = "1"
			c.Sysctls["net/ipv6/conf/"+name+"/seg6_enabled"] = "1"
		}
		errs = append(errs, h.Configure(ctx, c))
		_ = h.Configure(ctx, testnet.NetConfig{Sysctls: map[string]string{ // older kernels have one limit for all
			"net/ipv4/icmp_msgs_per_sec": "1000000", "net/ipv4/icmp_msgs_burst": "100000",
		}})
		for _, network := range []string{"outer", "mgmt", "intra"} {
			mac, err := h.LinkAddress(ctx, network)
			errs = append(errs, err)
			s.macs[h.Name()+"/"+network] = mac
		}
	}
	return errors.Join(errs...)
}

func portsOf(b testnet.Both, ports ...uint16) []netip.AddrPort {
	var list []netip.AddrPort
	for _, port := range ports {
		list = append(list, netip.AddrPortFrom(b.V4, port), netip.AddrPortFrom(b.V6, port))
	}
	return list
}

// capture starts to record on every host, and what the gateways take in.
func (s *site) capture(ctx context.Context) error {
	for _, h := range []*testnet.Host{s.net.Dev1, s.net.Dev2, s.net.Gateway, s.net.Control, s.net.Management, s.net.Intranet} {
		c, err := h.Capture(ctx, "", tunnelPort)
		if err != nil {
			return err
		}
		s.caps = append(s.caps, &sighting{h.Name(), c})
	}
	for h, device := range map[*testnet.Host]string{s.net.Gateway: link, s.net.Control: testnet.ControlDevice} {
		var groups []testnet.Group
		for _, a := range []string{mdns4, ssdp4, mdns6, dhcp6} {
			groups = append(groups, testnet.Group{Device: device, Addr: parse(a)})
		}
		c, err := h.Hear(ctx, groups...)
		if err != nil {
			return err
		}
		s.caps = append(s.caps, &sighting{h.Name(), c})
	}
	return nil
}

// at returns the capture of a host's interfaces.
func (s *site) at(h *testnet.Host) *testnet.Capture {
	for _, c := range s.caps {
		if c.host == h.Name() {
			return c.capture
		}
	}
	return nil
}

// openControl opens the control gateway's tunnel, which holds every address of the real
// gateway's and lets dev1 send from any.
func (s *site) openControl(ctx context.Context) error {
	p := s.net.Plan
	spec := testnet.ControlSpec{AnySource: true}
	for _, b := range []testnet.Both{p.GatewayOuter, p.GatewayMgmt, p.GatewayIntra} {
		spec.Gateway = append(spec.Gateway, b.All()...)
	}
	for _, d := range s.devices {
		spec.Dev1 = append(spec.Dev1, d.addresses()...)
	}
	for _, d := range []*device{s.victim, s.neighbour} {
		spec.Dev2 = append(spec.Dev2, d.addresses()...)
	}
	if err := s.net.OpenControl(ctx, spec); err != nil {
		return err
	}
	l := testnet.LinkConfig{Name: testnet.ControlDevice}
	for _, name := range []string{"quarantine", "staff", "guests"} {
		l.Addrs = append(l.Addrs, s.pools[name].GatewayAddresses()...)
	}
	return s.net.Control.Configure(ctx, testnet.NetConfig{Links: []testnet.LinkConfig{l}})
}

// until asks again and again until the answer is yes.
func until(ctx context.Context, what string, ask func() (bool, error)) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-t.C:
		}
	}
}
