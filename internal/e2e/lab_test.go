package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/daemon"
	"lazaret/internal/testnet"
)

// Ports of the lab.
const (
	servicePort = 443 // of the management and intranet servers
	apiPort     = 8443
)

// patience bounds one wait for something that must happen; the machine may be busy.
const patience = 30 * time.Second

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	return ctx
}

// moment is enough where silence is expected, as everything passes at another; late is for what
// must pass, and costs nothing where it does.
const moment, late = 400 * time.Millisecond, patience / 2

// until asks again and again until the answer is yes.
func until(t testing.TB, what string, ask func() bool) {
	t.Helper()
	limit, tick := time.After(patience), time.NewTicker(25*time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-limit:
			t.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// doors are the doors opened so far, by host.
var doors struct {
	sync.Mutex
	socket map[*testnet.Host]string
}

// through returns a dialer inside the host's network; from and device may be zero.
func through(t testing.TB, h *testnet.Host, from netip.Addr, device string) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	doors.Lock()
	defer doors.Unlock()
	if doors.socket == nil {
		doors.socket = map[*testnet.Host]string{}
	}
	socket := doors.socket[h]
	if socket == "" {
		socket = filepath.Join(h.Dir(), "door")
		p, err := h.Run(soon(t), "door", socket)
		if err != nil {
			t.Fatal(err)
		}
		var word string
		if err := p.Next(soon(t), &word); err != nil {
			t.Fatal(err)
		}
		doors.socket[h] = socket
	}
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return openDoor(ctx, socket, passage{To: to, From: from, Device: device})
	}
}

func openDoor(ctx context.Context, socket string, p passage) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := json.NewEncoder(c).Encode(p); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	r := bufio.NewReader(c)
	word, err := r.ReadString('\n')
	if err == nil && word != "\n" {
		err = errors.New(strings.TrimSpace(word))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &doorConn{c, r}, nil
}

type doorConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *doorConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// gateway is a gateway in a host of its own.
type gateway struct {
	*operator
	n                  byte
	host               *testnet.Host
	outer, mgmt, intra netip.Addr
	quarantine, full   netip.Prefix
	six                sixth
	config, admin      string
	serve, plane       *testnet.Process
	mu                 sync.Mutex
	logs               []*testnet.Process // everything that ever ran of it
	key                string             // of its tunnel, in public
	life               time.Duration      // of certificates; zero: as configured
}

// options are what tests choose; zero fields take what is usual.
type options struct {
	quarantine, full string // prefixes
	freshness        time.Duration
	life             time.Duration // of certificates
	dual, six        bool          // IPv6 beside IPv4, or in place of it
	alertEvery       time.Duration // zero: as configured
	out              []string      // besides, for the host firewall
	programs         string        // directory of the programs to run; empty: the functions that they run
}

var gateways atomic.Int32

// newGateway makes a gateway with lazaretd init, and runs it until the test ends.
func newGateway(t testing.TB, o options) *gateway {
	t.Helper()
	lab := theLab(t)
	i := byte(gateways.Add(1))
	g := &gateway{
		n: 20 + i, outer: netip.AddrFrom4([4]byte{198, 51, 100, 20 + i}), mgmt: netip.AddrFrom4([4]byte{192, 0, 2, 20 + i}),
		intra:      netip.AddrFrom4([4]byte{10, 10, 0, 20 + i}),
		quarantine: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + i, 0, 0}), 16),
		full:       netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 150 + i, 0, 0}), 16),
	}
	g.life = o.life
	if o.quarantine != "" {
		g.quarantine, g.full = netip.MustParsePrefix(o.quarantine), netip.MustParsePrefix(o.full)
	}
	ctx := soon(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	g.host, err = lab.AddHost(ctx, fmt.Sprintf("gw%d", i))
	must(err)
	g.six = sixthOf(g.n, o)
	for name, a := range map[string][2]netip.Addr{"outer": {g.outer, g.six.outer}, "mgmt": {g.mgmt, g.six.mgmt}, "intra": {g.intra, g.six.intra}} {
		own := []netip.Prefix{netip.PrefixFrom(a[0], 24)}
		if o.dual || o.six {
			own = append(own, netip.PrefixFrom(a[1], 64))
		}
		must(lab.Link(ctx, g.host, name, name, own...))
	}
	must(g.host.Configure(ctx, testnet.NetConfig{Sysctls: map[string]string{"net/ipv4/ip_unprivileged_port_start": "443"}}))
	for h, via := range map[*testnet.Host]netip.Addr{lab.Management: g.mgmt, lab.Intranet: g.intra} {
		must(h.Configure(ctx, testnet.NetConfig{Routes: []testnet.Route{{To: g.quarantine, Via: via}, {To: g.full, Via: via}}}))
	}
	for h, via := range map[*testnet.Host]netip.Addr{lab.Management: g.six.mgmt, lab.Intranet: g.six.intra} {
		must(h.Configure(ctx, testnet.NetConfig{Routes: []testnet.Route{{To: g.six.quarantine, Via: via}, {To: g.six.full, Via: via}}}))
	}
	dir := g.host.Dir()
	g.config, g.admin = filepath.Join(dir, "lazaret.toml"), filepath.Join(dir, "admin")
	if o.freshness == 0 {
		o.freshness = time.Minute
	}
	if o.programs != "" {
		g.runPrograms(t, o.programs)
	} else {
		made := g.initOptions(lab.Plan, o.freshness)
		if o.alertEvery > 0 {
			made.Values["alerts.every"] = o.alertEvery.String()
		}
		if o.out != nil {
			made.Values["firewall.out"] = o.out
		}
		_, err = daemon.Init(ctx, made, slog.New(slog.DiscardHandler))
		must(err)
		g.startPlane(t)
		g.startServe(t)
	}
	g.operator = newOperator(t, g)
	g.awaitReady(t)
	t.Cleanup(func() {
		g.noSecrets(t)
		// A gateway whose test is over takes no more part of the machine.
		end, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, p := range []*testnet.Process{g.serve, g.plane} {
			if err := p.Kill(end); err != nil {
				t.Error(err)
			}
		}
	})
	return g
}

func (g *gateway) initOptions(plan testnet.Plan, freshness time.Duration) daemon.InitOptions {
	dir := g.host.Dir()
	o := daemon.InitOptions{
		ConfigPath: g.config, AdminDir: g.admin, Organization: "Test", Administrator: "tester",
		Values: map[string]any{
			"state": filepath.Join(dir, "state"), "dataplane.state": filepath.Join(dir, "dataplane"),
			"enroll.listen": []string{netip.AddrPortFrom(g.outer, 443).String()}, "enroll.names": []string{g.outer.String()},
			"api.listen": []string{netip.AddrPortFrom(g.mgmt, apiPort).String()}, "quarantine.freshness": freshness.String(),
			"log.level": "debug",
		},
		Management: []string{plan.Management.V4.String() + " tcp/443", plan.Management.V4.String() + " icmp"},
		Quarantine: []netip.Prefix{g.quarantine}, Full: []netip.Prefix{g.full},
		Routes: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")}, MayRelease: true, MaxValidity: 24 * time.Hour,
	}
	six := []string{plan.Management.V6.String() + " tcp/443", plan.Management.V6.String() + " icmp"}
	switch {
	case g.six.dual:
		o.Management = append(o.Management, six...)
		o.Quarantine, o.Full = append(o.Quarantine, g.six.quarantine), append(o.Full, g.six.full)
		o.Routes = append(o.Routes, netip.MustParsePrefix("fd10::/64"))
	case g.six.only:
		o.Management, o.Routes = six, []netip.Prefix{netip.MustParsePrefix("fd10::/64")}
		o.Quarantine, o.Full = []netip.Prefix{g.six.quarantine}, []netip.Prefix{g.six.full}
		o.Values["enroll.listen"], o.Values["enroll.names"] = []string{netip.AddrPortFrom(g.six.outer, 443).String()}, []string{g.six.outer.String()}
	}
	return o
}

// runPrograms makes and runs the gateway with lazaretd itself, confined as on the appliance.
func (g *gateway) runPrograms(t testing.TB, dir string) {
	t.Helper()
	lazaretd, management := filepath.Join(dir, "lazaretd"), theLab(t).Plan.Management.V4.String()
	command(t, g.host, lazaretd, "init", "-c", g.config, "--state", filepath.Join(g.host.Dir(), "state"), "--admin-dir", g.admin,
		"--enroll-name", g.outer.String(), "--enroll-listen", netip.AddrPortFrom(g.outer, 443).String(),
		"--api-listen", netip.AddrPortFrom(g.mgmt, apiPort).String(), "--management", management+" tcp/443", "--management", management+" icmp",
		"--quarantine", g.quarantine.String(), "--full", g.full.String(), "--route", "10.10.0.0/24")
	text, err := os.ReadFile(g.config)
	if err == nil {
		at := fmt.Sprintf("state = %q", filepath.Join(g.host.Dir(), "dataplane"))
		err = os.WriteFile(g.config, bytes.Replace(text, []byte(`state = "/var/lib/lazaret-dataplane"`), []byte(at), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func(s testnet.Spec) *testnet.Process {
		s.Path = lazaretd
		p, err := g.host.Start(soon(t), s)
		if err != nil {
			t.Fatal(err)
		}
		g.logs = append(g.logs, p)
		return p
	}
	g.plane = run(testnet.Spec{Args: []string{"dataplane", "--confine", "-c", g.config}, Name: "dataplane"})
	g.serve = run(testnet.Spec{Args: []string{"serve", "--confine", "-c", g.config}, Name: "serve", NoPrivileges: true})
	if _, err := g.serve.AwaitOutput(soon(t), "control plane ready"); err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) start(t testing.TB, s testnet.Spec) *testnet.Process {
	t.Helper()
	s.Args = []string{g.config}
	p, err := g.host.Start(soon(t), s)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.logs = append(g.logs, p)
	g.mu.Unlock()
	var word string
	if err := p.Next(soon(t), &word); err != nil {
		t.Fatal(err)
	}
	return p
}

func (g *gateway) startPlane(t testing.TB) {
	t.Helper()
	g.plane = g.start(t, testnet.Spec{Role: "dataplane"})
}

// startServe starts the control plane, which has no privileges.
func (g *gateway) startServe(t testing.TB) {
	t.Helper()
	g.serve = g.start(t, testnet.Spec{Role: "serve", NoPrivileges: true, Env: []string{lifeEnv + "=" + g.life.String()}})
}

// awaitReady waits until a complete plan is enforced.
func (g *gateway) awaitReady(t testing.TB) {
	t.Helper()
	until(t, "the gateway enforces a plan", func() bool {
		var s api.Status
		a, err := g.try(t.Context(), "GET", "/api/v1/status", nil, &s)
		return err == nil && a.status == http.StatusOK && s.Ready
	})
}

// url is where devices enroll.
func (g *gateway) url() string {
	if g.six.only {
		return "https://[" + g.six.outer.String() + "]"
	}
	return "https://" + g.outer.String()
}

// root is the organization's root certificate, as init left it.
func (g *gateway) root(t testing.TB) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(g.admin, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// operator asks the API from the management network.
type operator struct {
	base        string
	admin, bare *http.Client
	token       string

	codesMu sync.Mutex
	codes   []string // every one-time password made
}

func newOperator(t testing.TB, g *gateway) *operator {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(g.admin, "admin.pem"), filepath.Join(g.admin, "admin-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(g.admin, "management-token"))
	if err != nil {
		t.Fatal(err)
	}
	dial := through(t, theLab(t).Management, netip.Addr{}, "")
	make := func(certs ...tls.Certificate) *http.Client {
		c := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dial,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: g.root(t), Certificates: certs}}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	return &operator{base: "https://" + netip.AddrPortFrom(g.mgmt, apiPort).String(), admin: make(pair), bare: make(), token: strings.TrimSpace(string(token))}
}

// answered is what the API said.
type answered struct {
	status  int
	problem api.Problem
	body    []byte
}

func (a answered) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// try asks as the administrator; the error says that there was no answer.
func (c *operator) try(ctx context.Context, method, path string, in, out any) (answered, error) {
	return ask(ctx, c.admin, c.base, "", method, path, in, out)
}

func ask(ctx context.Context, by *http.Client, base, token, method, path string, in, out any) (answered, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return answered{}, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return answered{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := by.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer resp.Body.Close()
	a := answered{status: resp.StatusCode}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	if a.status >= 300 {
		_ = json.Unmarshal(a.body, &a.problem) // the status says enough
	} else if out != nil {
		err = json.Unmarshal(a.body, out)
	}
	return a, err
}

// call asks as the administrator, and must be answered.
func (c *operator) call(t testing.TB, method, path string, in, out any) answered {
	t.Helper()
	a, err := c.try(soon(t), method, path, in, out)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// want asks as the administrator, and must be answered with this status.
func (c *operator) want(t testing.TB, status int, method, path string, in, out any) answered {
	t.Helper()
	a := c.call(t, method, path, in, out)
	if a.status != status {
		t.Fatalf("%s %s: %s; want %d", method, path, a, status)
	}
	return a
}

// report posts a report with the management server's token.
func (c *operator) report(ctx context.Context, r api.ReportRequest, out any) (answered, error) {
	return ask(ctx, c.bare, c.base, c.token, "POST", "/api/v1/reports", r, out)
}

// reported posts a report that must be taken and enforced, and returns the stage.
func (c *operator) reported(t testing.TB, device, verdict string) string {
	t.Helper()
	var p api.Placed
	a, err := c.report(soon(t), api.ReportRequest{Device: device, Verdict: verdict}, &p)
	if err != nil || a.status != http.StatusOK || !p.Enforced || len(p.Decision.Reasons) > 0 { // the token may report, and is told no more than the outcome
		t.Fatalf("reporting %s %s: %s, %v", device, verdict, a, err)
	}
	return p.Decision.Stage
}

func (c *operator) otp(t testing.TB, r api.OTPRequest) api.OTPCreated {
	t.Helper()
	if r.User == "" {
		r.User = "anna@example.com"
	}
	var o api.OTPCreated
	c.want(t, http.StatusCreated, "POST", "/api/v1/otps", r, &o)
	c.remember(o)
	return o
}

// remember keeps a code, to be looked for where it must not be.
func (c *operator) remember(o api.OTPCreated) {
	c.codesMu.Lock()
	defer c.codesMu.Unlock()
	c.codes = append(c.codes, o.Code)
}

func (c *operator) devices(t testing.TB) []api.Device {
	t.Helper()
	var list []api.Device
	c.want(t, http.StatusOK, "GET", "/api/v1/devices", nil, &list)
	return list
}

// of returns the devices of one user, by certificate.
func (c *operator) of(t testing.TB, user string) []api.Device {
	t.Helper()
	return slices.DeleteFunc(c.devices(t), func(d api.Device) bool { return d.Owner != user })
}

// one returns the one device of a user. The API follows the store, so that a device that
// was enrolled this moment may take another to be seen.
func (c *operator) one(t testing.TB, user string) api.Device {
	t.Helper()
	var list []api.Device
	until(t, "a device of "+user+" is listed", func() bool {
		list = c.of(t, user)
		return len(list) > 0
	})
	if len(list) != 1 {
		t.Fatalf("%s has %d devices, want 1: %+v", user, len(list), list)
	}
	return list[0]
}

// show returns a device that there must be.
func (c *operator) show(t testing.TB, device string) (d api.Device) {
	t.Helper()
	c.seen(t, "/api/v1/devices/"+device, &d)
	return d
}

func (c *operator) seen(t testing.TB, path string, out any) {
	t.Helper()
	until(t, path+" is there", func() bool {
		a := c.call(t, "GET", path, nil, out)
		if a.status != http.StatusOK && a.status != http.StatusNotFound {
			t.Fatalf("%s: %s", path, a)
		}
		return a.status == http.StatusOK
	})
}

func (c *operator) explain(t testing.TB, device string) (e api.Explanation) {
	t.Helper()
	c.seen(t, "/api/v1/devices/"+device+"/explain", &e)
	return e
}

// audit returns the entries about a device, or all, newest first.
func (c *operator) audit(t testing.TB, device string) []api.AuditEntry {
	t.Helper()
	var list []api.AuditEntry
	c.want(t, http.StatusOK, "GET", "/api/v1/audit?limit=10000&device="+device, nil, &list)
	return list
}

// otpState returns what the list says of a one-time password.
func (c *operator) otpState(t testing.TB, reference string) string {
	t.Helper()
	var list []api.OTP
	c.want(t, http.StatusOK, "GET", "/api/v1/otps", nil, &list)
	for _, o := range list {
		if o.Reference == reference {
			return o.State
		}
	}
	return ""
}
