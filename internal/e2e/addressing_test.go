package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// servers are those that this lab's devices talk to, one for all tests.
var servers struct {
	once       sync.Once
	management *testnet.Server
	err        error
}

// managementServer answers at the management server's addresses.
func managementServer(t testing.TB) *testnet.Server {
	t.Helper()
	plan := theLab(t).Plan
	servers.once.Do(func() {
		servers.management, servers.err = theLab(t).Management.Serve(soon(t),
			netip.AddrPortFrom(plan.Management.V4, servicePort), netip.AddrPortFrom(plan.Management.V6, servicePort))
	})
	if servers.err != nil {
		t.Fatal(servers.err)
	}
	return servers.management
}

// putPool makes a pool or changes it.
func (c *operator) putPool(t testing.TB, p api.Pool) {
	t.Helper()
	var list []api.Pool
	c.want(t, http.StatusOK, "GET", "/api/v1/pools", nil, &list)
	if i := slices.IndexFunc(list, func(o api.Pool) bool { return o.Name == p.Name }); i >= 0 {
		p.Revision = list[i].Revision
	}
	c.want(t, http.StatusOK, "PUT", "/api/v1/pools/"+p.Name, p, nil)
}

// putProfile makes a profile or changes it: its devices move with it.
func (c *operator) putProfile(t testing.TB, p api.Profile) {
	t.Helper()
	var list []api.Profile
	c.want(t, http.StatusOK, "GET", "/api/v1/profiles", nil, &list)
	if i := slices.IndexFunc(list, func(o api.Profile) bool { return o.Name == p.Name }); i >= 0 {
		p.Revision = list[i].Revision
	}
	c.want(t, http.StatusOK, "PUT", "/api/v1/profiles/"+p.Name, p, nil)
}

// app is a device with a stock WireGuard app: nothing is on it but an interface, made
// from what the API says, as wg-quick would.
type app struct {
	*device
	t    testing.TB
	host *testnet.Host
}

// config asks the API for a device's configurations, by name.
func (c *operator) stockConfig(t testing.TB, device string) map[string]api.TunnelConfiguration {
	t.Helper()
	var tunnels api.Tunnel
	c.want(t, http.StatusOK, "GET", "/api/v1/devices/"+device+"/tunnel", nil, &tunnels)
	out := map[string]api.TunnelConfiguration{}
	for _, conf := range tunnels.Configurations {
		out[conf.Name] = conf
	}
	return out
}

// use brings the app's interface up with a configuration.
func (a *app) use(c api.TunnelConfiguration) {
	t := a.t
	t.Helper()
	key, err := tunnel.ParseKey(c.Peer.Key)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := netip.ParseAddrPort(c.Peer.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if a.link != nil {
		_ = a.link.Stop(soon(t))
	}
	a.link, err = a.host.WireGuard(soon(t), testnet.WireGuardSpec{Device: "wg0", Key: a.wg, MTU: c.MTU, Addrs: c.Addresses, Peers: []tunnel.Peer{
		{Key: key, Endpoint: endpoint, AllowedIPs: c.Peer.AllowedIPs, KeepAlive: time.Duration(c.Peer.KeepAlive) * time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	var routes testnet.NetConfig
	for _, to := range c.Peer.AllowedIPs {
		routes.Routes = append(routes.Routes, testnet.Route{To: to, Device: "wg0"})
	}
	if err := a.host.Configure(soon(t), routes); err != nil {
		t.Fatal(err)
	}
}

// roamer is a device on its way through the pools.
type roamer struct {
	name   string
	host   *testnet.Host
	id     string
	fixed  bool
	routes string                                 // pool whose routes a stock app was given last
	ready  func(t testing.TB, stage, pool string) // waits until the device has followed
	own    func(pool string, six bool) netip.Addr // its address there
}

// site is one gateway with several pools, and what the devices behind it talk to.
type site struct {
	*gateway
	x, y    netip.AddrPort // two services of one server
	x6      netip.AddrPort
	out     [2]netip.AddrPort // beyond the intranet: the Internet
	server  *testnet.Server
	capture *testnet.Capture // on the intranet's wire
	pools   map[string]api.Pool
}

func newSite(t *testing.T) *site {
	t.Helper()
	lab := theLab(t)
	plan := lab.Plan
	s := &site{gateway: newGateway(t, options{dual: true}), pools: map[string]api.Pool{}}
	port := 8000 + 10*uint16(s.n)
	s.x, s.y, s.x6 = netip.AddrPortFrom(plan.Intranet.V4, port), netip.AddrPortFrom(plan.Intranet.V4, port+1), netip.AddrPortFrom(plan.Intranet.V6, port)
	s.out = [2]netip.AddrPort{netip.AddrPortFrom(plan.Outside.V4, port), netip.AddrPortFrom(plan.Outside.V6, port)}
	var err error
	if s.server, err = lab.Intranet.Serve(soon(t), s.x, s.y, s.x6, s.out[0], s.out[1]); err != nil {
		t.Fatal(err)
	}
	if err := s.host.Configure(soon(t), testnet.NetConfig{Routes: []testnet.Route{{To: netip.PrefixFrom(plan.Outside.V4, 32), Via: plan.Intranet.V4}, {To: netip.PrefixFrom(plan.Outside.V6, 128), Via: plan.Intranet.V6}}}); err != nil {
		t.Fatal(err)
	}
	if s.capture, err = lab.Intranet.Capture(soon(t), "intra"); err != nil {
		t.Fatal(err)
	}
	intranet := []string{"10.10.0.0/24", "fd10::/64"}
	all := []string{"0.0.0.0/0", "::/0"}
	only := func(to netip.AddrPort) []string { return []string{fmt.Sprintf("%s udp/%d", to.Addr(), to.Port())} }
	for i, p := range []api.Pool{
		{Name: "masked", Routes: intranet, Masquerade: true},
		{Name: "x", Routes: intranet, Reach: only(s.x)},
		{Name: "y", Routes: intranet, Reach: only(s.y)},
		{Name: "four", Routes: intranet},
		{Name: "six", Routes: intranet},
		{Name: "everything", Routes: all},
	} {
		if p.Name != "six" {
			p.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200 + byte(i), s.n, 0}), 24)
		}
		if p.Name != "four" {
			a := s.six.full.Addr().As16()
			a[5] = byte(i + 1)
			p.IPv6 = netip.PrefixFrom(netip.AddrFrom16(a), 64)
		}
		s.putPool(t, p)
		s.pools[p.Name] = p
		var back testnet.NetConfig
		if p.IPv4.IsValid() {
			back.Routes = append(back.Routes, testnet.Route{To: p.IPv4, Via: s.intra})
		}
		if p.IPv6.IsValid() {
			back.Routes = append(back.Routes, testnet.Route{To: p.IPv6, Via: s.six.intra})
		}
		if err := lab.Intranet.Configure(soon(t), back); err != nil {
			t.Fatal(err)
		}
	}
	s.pools["full"] = api.Pool{Name: "full", IPv4: s.full, IPv6: s.six.full}
	s.pools["quarantine"] = api.Pool{Name: "quarantine", IPv4: s.quarantine, IPv6: s.six.quarantine}
	return s
}

// address is a seat's in a pool: the gateway is the first, seat 1 the second.
func (s *site) address(pool string, seat uint32, six bool) netip.Addr {
	p := s.pools[pool].IPv4
	if six {
		p = s.pools[pool].IPv6
	}
	a := p.Addr()
	for range seat + 1 {
		a = a.Next()
	}
	return a
}

// follower is a device with our agent, whose address follows its pool.
func (s *site) follower(t *testing.T) *roamer {
	l := newLaptop(t, s.gateway)
	s.putProfile(t, api.Profile{Name: "roam", Pool: "full"})
	l.enroll(t, s.url(), api.OTPRequest{User: "follow@example.com", Profile: "roam"})
	l.start(t, "")
	seat := s.show(t, l.id).Seat
	return &roamer{name: "follow", host: l.host, id: l.id,
		ready: func(t testing.TB, stage, pool string) {
			t.Helper()
			until(t, fmt.Sprintf("the agent is %s in pool %s", stage, pool), func() bool {
				st := l.ask(t, "status")
				return st.Status != nil && st.Status.Stage == stage && st.Status.Pool == pool && st.Problem == ""
			})
		},
		own: func(pool string, six bool) netip.Addr { return s.address(pool, seat, six) },
	}
}

// stayer is a device with a stock WireGuard app and one address for good.
func (s *site) stayer(t *testing.T) *roamer {
	l := newLaptop(t, s.gateway)
	s.putProfile(t, api.Profile{Name: "stay", Pool: "full", Addressing: "fixed"})
	d := enrolled(t, s.gateway, l.host, api.OTPRequest{User: "fixed@example.com", Profile: "stay"})
	a := &app{device: d, t: t, host: l.host}
	seat := s.show(t, d.id).Seat
	a.use(s.stockConfig(t, d.id)["fixed"])
	t.Cleanup(func() { _ = a.link.Stop(soon(t)) })
	var r *roamer
	r = &roamer{name: "fixed", host: l.host, id: d.id, fixed: true,
		ready: func(t testing.TB, stage, pool string) {
			t.Helper()
			until(t, fmt.Sprintf("the device is %s in pool %s", stage, pool), func() bool {
				e := s.explain(t, d.id)
				return e.Device.Stage == stage && e.Device.Pool == pool && e.Enforced
			})
			if pool == "everything" { // an app is told of new routes by its administrator
				a.use(s.stockConfig(t, d.id)["fixed"])
				r.routes = pool
			}
		},
		own: func(_ string, six bool) netip.Addr { return s.address("quarantine", seat, six) },
	}
	return r
}

// visits sends a datagram by the device's own routes, and returns whether it came back
// in time, and the source that the intranet's wire saw.
func (s *site) visits(t *testing.T, d *roamer, to netip.AddrPort, within time.Duration) (passed bool, from netip.Addr) {
	t.Helper()
	r, err := d.host.Probe(soon(t), testnet.ProbeSpec{Proto: testnet.UDP, To: to, Timeout: within})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Passed() {
		return false, netip.Addr{}
	}
	rec, err := s.capture.Await(soon(t), func(p testnet.Record) bool { return r.Is(p) && !p.Out })
	if err != nil {
		t.Fatal(err)
	}
	return true, rec.From.Addr()
}

// TestAddressing takes a device with our agent, whose address follows its pool, and one
// with a stock WireGuard app and a fixed address through every kind of pool: dual, IPv4 and
// IPv6 only, with less reach, behind the gateway's address, and with a default route. What
// they reach, and from which address, is worked out from the prefixes. A session with the
// management server lives through it all.
func TestAddressing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	follow, fixed := s.follower(t), s.stayer(t)
	t.Run("follow", func(t *testing.T) { s.roams(t, follow) })
	t.Run("fixed", func(t *testing.T) { s.roams(t, fixed) })
	t.Run("lease", func(t *testing.T) { s.lapses(t, fixed) })
	t.Run("size", func(t *testing.T) { s.sizes(t, follow) })
}

// roams takes a device through the pools and back to quarantine.
func (s *site) roams(t *testing.T, d *roamer) {
	profile := map[bool]api.Profile{false: {Name: "roam"}, true: {Name: "stay", Addressing: "fixed"}}[d.fixed]
	d.ready(t, "quarantined", "quarantine")
	goOn := s.sessions(t, d)
	s.wants(t, d, "quarantine", nil)
	s.reported(t, d.id, "compliant")
	for _, pool := range []string{"full", "masked", "x", "y", "four", "six", "everything", "full"} {
		profile.Pool = pool
		s.putProfile(t, profile)
		d.ready(t, "routed", pool)
		s.wants(t, d, pool, s.reach(d, pool))
	}
	s.reported(t, d.id, "noncompliant")
	d.ready(t, "quarantined", "quarantine")
	s.wants(t, d, "quarantine again", nil)
	goOn(t)
}

// reach is what a device in a pool must reach, and the source it must be seen with.
func (s *site) reach(d *roamer, pool string) map[netip.AddrPort]netip.Addr {
	a4, a6 := d.own(pool, false), d.own(pool, true)
	switch pool {
	case "masked":
		return map[netip.AddrPort]netip.Addr{s.x: s.intra, s.y: s.intra, s.x6: s.gateway.six.intra}
	case "x":
		return map[netip.AddrPort]netip.Addr{s.x: a4}
	case "y":
		return map[netip.AddrPort]netip.Addr{s.y: a4}
	}
	// The others let a device go where it will. It cannot without an address of the family,
	// nor, if it is our agent, without a route.
	out := map[netip.AddrPort]netip.Addr{}
	if pool != "six" {
		out[s.x], out[s.y] = a4, a4
	}
	if pool != "four" {
		out[s.x6] = a6
	}
	if pool == "everything" || d.routes == "everything" {
		out[s.out[0]], out[s.out[1]] = a4, a6
	}
	return out
}

// sessions opens a session with the management server in each family, by the device's own
// routes, and returns what makes sure that they go on.
func (s *site) sessions(t *testing.T, d *roamer) (goOn func(*testing.T)) {
	t.Helper()
	var all []*testnet.Stream
	for _, to := range theLab(t).Plan.Management.All() {
		x, err := d.host.Stream(soon(t), managementServer(t), testnet.StreamSpec{Proto: testnet.TCP, Direction: testnet.Echo,
			To: netip.AddrPortFrom(to, servicePort), Every: 10 * time.Millisecond})
		if err != nil {
			t.Fatalf("%s: no session with the management server: %v", d.name, err)
		}
		if own := d.own("quarantine", to.Is6()); x.Local().Addr() != own {
			t.Errorf("%s: the session's address is %s, want %s", d.name, x.Local().Addr(), own)
		}
		all = append(all, x)
	}
	return func(t *testing.T) {
		t.Helper()
		for _, x := range all {
			before, err := x.Client(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			var st testnet.StreamStat
			until(t, d.name+": the session with the management server goes on", func() bool {
				st, err = x.Client(soon(t))
				return err == nil && st.Received > before.Received+5
			})
			t.Logf("%s: session from %s: longest silence %s", d.name, st.Local.Addr(), st.MaxGap.Round(time.Millisecond))
			if err := x.Close(soon(t)); err != nil {
				t.Error(err)
			}
		}
	}
}

// lapses: a stock app is told nothing; when its lease ends it is back in quarantine by
// itself, and its session with the management server lives.
func (s *site) lapses(t *testing.T, d *roamer) {
	goOn := s.sessions(t, d)
	var p api.Placed
	a, err := s.report(soon(t), api.ReportRequest{Device: d.id, Verdict: "compliant", Validity: "3s"}, &p)
	if err != nil || p.Decision.Stage != "routed" {
		t.Fatalf("%s %v", a, err)
	}
	const life = 3 * time.Second // no answer is waited for any longer: one that is only slow is none that was shut out
	if passed, _ := s.visits(t, d, s.x, life); !passed {
		t.Error("released, and does not reach the intranet")
	}
	var sent time.Time
	until(t, "the lease ends in the kernel", func() bool {
		sent = time.Now()
		passed, _ := s.visits(t, d, s.x, life)
		return !passed
	})
	if left := p.Decision.Until.Sub(sent); left > 800*time.Millisecond {
		t.Errorf("shut out %s before the end of its lease", left)
	}
	d.ready(t, "quarantined", "quarantine")
	goOn(t)
}

// wants holds what a device reaches against what it must, and from which address.
func (s *site) wants(t *testing.T, d *roamer, where string, want map[netip.AddrPort]netip.Addr) {
	t.Helper()
	var all sync.WaitGroup
	for _, to := range []netip.AddrPort{s.x, s.y, s.x6, s.out[0], s.out[1]} {
		all.Go(func() {
			own, may := want[to]
			passed, from := s.visits(t, d, to, map[bool]time.Duration{false: moment, true: late}[may])
			if passed != may || passed && from != own {
				t.Errorf("%s, %s: to %s passed %v from %v, want %v from %v", d.name, where, to, passed, from, may, own)
			}
		})
	}
	all.Wait()
}
