package plane

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/internal/config"
	"lazaret/internal/stig"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// hostLab is a gateway, an administrator's host, another one, and a server that is both a
// proxy and a web server, all on one network.
type hostLab struct {
	t                             *testing.T
	lab                           *testnet.Lab
	gateway, admin, other, server *testnet.Host
	served                        *testnet.Server // the gateway's
	file                          string
	plane                         *testnet.Process
}

// at is a host's address in the lab's network.
func at(family int, last byte) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte{192, 0, 2, last})
	}
	return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: last})
}

const (
	gatewayHost, adminHost, otherHost, serverHost = 1, 10, 130, 200
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newHostLab(t *testing.T) *hostLab {
	t.Helper()
	testneed.Namespaces(t)
	l := &hostLab{t: t}
	var err error
	l.lab, err = testnet.Start(context.Background(), testnet.Config{})
	l.must(err)
	t.Cleanup(func() { l.lab.Close() })
	for name, x := range map[string]struct {
		host **testnet.Host
		last byte
	}{"gateway": {&l.gateway, gatewayHost}, "admin": {&l.admin, adminHost}, "other": {&l.other, otherHost}, "server": {&l.server, serverHost}} {
		*x.host, err = l.lab.AddHost(soon(t), name)
		l.must(err)
		l.must(l.lab.Link(soon(t), *x.host, "site", "site", netip.PrefixFrom(at(4, x.last), 24), netip.PrefixFrom(at(6, x.last), 64)))
	}
	l.served = l.serve(l.gateway, gatewayHost, 22, 8443, 9100)
	l.serve(l.server, serverHost, 443, 3128)
	l.serve(l.other, otherHost, 3128)
	l.file = filepath.Join(l.gateway.Dir(), "lazaret.toml")
	return l
}

// serve has the host answer on ports of its addresses.
func (l *hostLab) serve(h *testnet.Host, last byte, ports ...uint16) *testnet.Server {
	l.t.Helper()
	var list []netip.AddrPort
	for _, p := range ports {
		list = append(list, netip.AddrPortFrom(at(4, last), p), netip.AddrPortFrom(at(6, last), p))
	}
	s, err := h.Serve(soon(l.t), list...)
	l.must(err)
	return s
}

func (l *hostLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// write makes the configuration file say this in its firewall section, and reads it.
func (l *hostLab) write(lines string) config.Config {
	l.t.Helper()
	dir := l.gateway.Dir()
	text := fmt.Appendf(nil, `
[enroll]
names = ["gw.example.com"]
[api]
listen = ["0.0.0.0:8443", "[::]:8443"]
from = ["192.0.2.0/25", "2001:db8::/121"]
[tunnel]
userspace = true
[dataplane]
socket = %q
state = %q
[firewall]
admin = ["192.0.2.0/25", "2001:db8::/121"]
%s
`, filepath.Join(dir, "run", "dataplane.sock"), filepath.Join(dir, "plane"), lines)
	l.must(os.WriteFile(l.file, text, 0o600))
	c, err := config.Load(l.file)
	l.must(err)
	return c
}

// start starts the data plane.
func (l *hostLab) start() {
	l.t.Helper()
	var err error
	l.plane, err = l.gateway.Run(soon(l.t), "dataplane", l.file)
	l.must(err)
	var word string
	if err := l.plane.Next(soon(l.t), &word); err != nil {
		l.t.Fatalf("%v\n%s", err, l.plane.Output())
	}
}

// restart ends it as a crash does, and starts another.
func (l *hostLab) restart() {
	l.t.Helper()
	l.must(l.plane.Kill(soon(l.t)))
	<-l.plane.Done()
	l.start()
}

// ask is a connection that should get through, or not.
type ask struct {
	from *testnet.Host
	to   byte
	port uint16
	want bool
}

// passes tries all of them in both families, all at once.
func (l *hostLab) passes(when string, asks ...ask) {
	l.t.Helper()
	var all sync.WaitGroup
	for _, a := range asks {
		for _, family := range []int{4, 6} {
			all.Go(func() { l.probe(when, a, family) })
		}
	}
	all.Wait()
}

func (l *hostLab) probe(when string, a ask, family int) {
	l.t.Helper()
	r, err := a.from.Probe(soon(l.t), testnet.ProbeSpec{Proto: testnet.TCP, To: netip.AddrPortFrom(at(family, a.to), a.port), Timeout: l.patience(a.want)})
	if err != nil || r.Passed() != a.want {
		l.t.Errorf("%s: from %s to port %d, IPv%d: %s (%v), want passed %v", when, a.from.Name(), a.port, family, r.Outcome, err, a.want)
	}
}

// patience is short where silence is expected: everything passes at another moment.
func (l *hostLab) patience(want bool) time.Duration {
	if want {
		return 10 * time.Second
	}
	return 300 * time.Millisecond
}

const (
	sshForAdmin   = `in = ["tcp/22 from 192.0.2.0/25, 2001:db8::/121"]`
	otherForAll   = `in = ["tcp/9100"]`
	throughProxy  = `out = []` + "\n" + `proxy = "http://192.0.2.200:3128"`
	directlyToWeb = `out = ["tcp/443 to 192.0.2.200, 2001:db8::c8"]`
)

// TestTryHostRules changes the host's rules of a running gateway, in both families, and
// asks with real packets from the administrator's host and from another one what they do.
// The administrator's open connection lives through all of it but a restart's, too.
func TestTryHostRules(t *testing.T) {
	t.Parallel()
	l := newHostLab(t)
	for _, from := range []*testnet.Host{l.admin, l.other} { // without any rules, everything passes
		l.passes("no rules", ask{from, gatewayHost, 22, true}, ask{from, gatewayHost, 9100, true})
	}
	l.write(sshForAdmin)
	l.start()
	before := func(when string) {
		t.Helper()
		l.passes(when, ask{l.admin, gatewayHost, 22, true}, ask{l.admin, gatewayHost, 8443, true}, ask{l.other, gatewayHost, 22, false}, ask{l.other, gatewayHost, 8443, false}, ask{l.admin, gatewayHost, 9100, false})
	}
	after := func(when string) {
		t.Helper()
		l.passes(when, ask{l.admin, gatewayHost, 22, false}, ask{l.admin, gatewayHost, 8443, true}, ask{l.other, gatewayHost, 9100, true}, ask{l.other, gatewayHost, 8443, false})
	}
	before("at first")
	session := l.session()

	c := l.write(otherForAll)
	_, err := TryHost(soon(t), c, ShortestTry)
	l.must(err)
	l.alive(session, "tried")
	l.reverted(c)
	before("taken back by itself")
	l.alive(session, "taken back")

	_, err = TryHost(soon(t), c, LongestTry)
	l.must(err)
	after("tried again")
	_, err = ConfirmHost(soon(t), c)
	l.must(err)
	after("confirmed")
	l.alive(session, "confirmed")
	c = l.write(sshForAdmin) // never tried
	l.restart()
	after("confirmed, and the data plane killed")
	_, err = TryHost(soon(t), c, LongestTry)
	l.must(err)
	before("tried, before the data plane is killed")
	l.restart()
	after("tried, and the data plane killed")
	l.alive(session, "killed and started again")
	_, err = TryHost(soon(t), c, LongestTry)
	l.must(err)
	before("tried, before the data plane ends")
	l.must(l.plane.Stop(soon(t)))
	after("tried, and the data plane ended in order")
	l.alive(session, "without a data plane")
}

// session is a connection of the administrator's in each family that stays open, with
// traffic both ways.
func (l *hostLab) session() []*testnet.Stream {
	l.t.Helper()
	var list []*testnet.Stream
	for _, family := range []int{4, 6} {
		s, err := l.admin.Stream(soon(l.t), l.served, testnet.StreamSpec{
			Proto: testnet.TCP, Direction: testnet.Echo, To: netip.AddrPortFrom(at(family, gatewayHost), 22), Timeout: 10 * time.Second,
		})
		l.must(err)
		list = append(list, s)
	}
	return list
}

// alive waits until the session has got twenty more answers.
func (l *hostLab) alive(session []*testnet.Stream, when string) {
	l.t.Helper()
	for _, s := range session {
		first, err := s.Client(soon(l.t))
		l.must(err)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx := soon(l.t); ; {
			now, err := s.Client(ctx)
			l.must(err)
			if now.Received >= first.Received+20 {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				l.t.Fatalf("%s: the session from %s gets no more: %+v", when, s.Local(), now)
			}
		}
	}
}

// stig runs the checks on the gateway, and returns those that did not pass, but for what
// the kernel says nothing of in the lab's user namespace.
func (l *hostLab) stig() map[string][]string {
	l.t.Helper()
	p, err := l.gateway.Run(soon(l.t), "stig", l.file)
	l.must(err)
	var r stig.Report
	l.must(p.Next(soon(l.t), &r))
	bad := map[string][]string{}
	for _, c := range r.Checks {
		if c.ID == "interfaces.linked" && c.Result == stig.NotChecked && strings.Contains(strings.Join(c.Found, " "), "operation not permitted") {
			continue
		}
		if c.Result != stig.Pass {
			bad[c.ID] = c.Found
		}
	}
	return bad
}

// reverted waits until nothing is tried any more.
func (l *hostLab) reverted(c config.Config) {
	l.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx := soon(l.t); ; {
		s, err := ShowHost(ctx, c)
		l.must(err)
		if s.Until.IsZero() {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.t.Fatal("what was tried is still in force")
		}
	}
}

// TestOnlyListedServicesGoOut: the gateway's own connections, in both families, directly
// and with a proxy. The proxy has an IPv4 address, and nothing goes out by IPv6 then.
func TestOnlyListedServicesGoOut(t *testing.T) {
	t.Parallel()
	l := newHostLab(t)
	l.passes("no rules", ask{l.gateway, otherHost, 3128, true})
	l.write(directlyToWeb)
	l.start()
	l.passes("directly", ask{l.gateway, serverHost, 443, true}, ask{l.gateway, serverHost, 3128, false}, ask{l.gateway, otherHost, 3128, false})
	c := l.write(throughProxy)
	_, err := TryHost(soon(t), c, LongestTry)
	l.must(err)
	l.passes("through the proxy", ask{l.gateway, serverHost, 443, false}, ask{l.gateway, otherHost, 3128, false})
	for family, want := range map[int]bool{4: true, 6: false} {
		l.probe("through the proxy", ask{l.gateway, serverHost, 3128, want}, family)
	}
	_, err = RevertHost(soon(t), c)
	l.must(err)
	l.passes("taken back", ask{l.gateway, serverHost, 443, true})
}

// TestStigOfARunningGateway: what a data plane makes of its configuration passes, also the
// settings that it makes itself. A change that is not tried yet, and one that is on trial
// while the file says otherwise, are found.
func TestStigOfARunningGateway(t *testing.T) {
	t.Parallel()
	l := newHostLab(t)
	l.must(l.gateway.Configure(soon(t), testnet.NetConfig{Sysctls: map[string]string{
		"net/ipv4/conf/all/rp_filter": "2", "net/ipv4/conf/site/accept_redirects": "1", "net/ipv4/conf/site/send_redirects": "1",
	}}))
	l.write(`in = ["tcp/22 from 192.0.2.0/25, 2001:db8::/121", "tcp/9100", "udp/22", "udp/8443", "udp/9100"]`)
	l.start()
	if bad := l.stig(); len(bad) > 0 {
		t.Errorf("a gateway as configured does not pass: %q", bad)
	}
	c := l.write(sshForAdmin)
	bad := l.stig()
	if len(bad["table.rules"]) == 0 || len(bad["sockets.listening"]) == 0 || len(bad) != 2 {
		t.Errorf("the file changed and was not tried, port 9100 is not in it, and what does not pass is %q", bad)
	}
	_, err := TryHost(soon(t), c, LongestTry)
	l.must(err)
	if bad := l.stig(); len(bad["table.rules"]) > 0 {
		t.Errorf("tried: %q", bad)
	}
	l.must(l.plane.Kill(soon(t)))
	<-l.plane.Done()
	bad = l.stig()
	if !strings.Contains(strings.Join(bad["table.owner"], " "), "nobody owns it") || len(bad["table.rules"]) == 0 || len(bad["table.hooks"]) > 0 {
		t.Errorf("without a data plane: %q", bad)
	}
}
