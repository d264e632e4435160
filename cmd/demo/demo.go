package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/daemon"
	"lazaret/internal/testnet"
)

// Times of the lab's gateway, short enough to be waited for.
const (
	freshness = 12 * time.Second // how long routing outlives a dead control plane
	repeatFor = 2 * time.Second  // how long a lost enrollment answer may be asked for again
)

// Ports of the lab.
const (
	servicePort = 443  // of the management server, the intranet and the other device
	otherPort   = 7443 // a service on the gateway, and a second one on the management server, that quarantine may not reach
	apiPort     = 8443
)

// The tunnel's prefixes, quarantine and full, and the gateway in the former.
var (
	quarantine4, quarantine6 = netip.MustParsePrefix("10.66.0.0/16"), netip.MustParsePrefix("fd66::/64")
	full4, full6             = netip.MustParsePrefix("10.67.0.0/16"), netip.MustParsePrefix("fd67::/64")
	tunnelGateway            = testnet.Both{V4: netip.MustParseAddr("10.66.0.1"), V6: netip.MustParseAddr("fd66::1")}
)

// demo is the lab and what the steps hand on to each other.
type demo struct {
	print   *printer
	verbose bool

	net      *testnet.Net
	config   string // path of the gateway's configuration
	admin    string // directory of the administrator's credential
	operator *operator
	plane    *testnet.Process // lazaretd dataplane
	serve    *testnet.Process // lazaretd serve
	agent    *testnet.Process // on dev1
	management, intranet,
	gateway, control *testnet.Server

	codes   map[string]api.OTPCreated
	uniform []byte // the answer to a code that is no good
	honest  device // dev1, held by the agent
	rogue   device // dev2: enrolled as well, but its tunnel sends whatever it likes
	session *testnet.Stream
	opened  netip.AddrPort  // the session's own end
	second  *testnet.Stream // dev2's
	witness *testnet.Stream // the like of session through the control gateway

	outside *asker         // on the outer network; nil: not started yet
	signal  outsideRequest // the CAEP event that released dev1
	hook    hook
}

// device is one enrolled device.
type device struct {
	host       *testnet.Host
	dir        string // of its state
	enrolled   enrolled
	quarantine testnet.Both
	full       testnet.Both
}

// step is one part of what is shown.
type step struct {
	id, title string
	run       func(context.Context, *result) error
}

func (d *demo) steps() []step {
	return []step{
		{"a", "An administrator creates one-time passwords", d.createCodes},
		{"b", "A wrong, an expired, a cancelled and a used code are refused alike", d.refuseCodes},
		{"c", "Two devices enroll", d.enrollDevices},
		{"d", "In quarantine only the management server answers", d.probeQuarantine},
		{"e", "Their own word opens nothing; the management server's does", d.release},
		{"f", "A report of non-compliance cuts what is open", d.cut},
		{"g", "The management session lived through it all", d.checkSession},
		{"h", "The control plane is killed: the tunnel goes on, routing runs out", d.killControl},
		{"i", "A report's lease runs out with the control plane dead", d.expireLease},
		{"j", "An identity provider's CAEP event releases", d.releaseBySignal},
		{"k", "A signed webhook quarantines, and what is open stops", d.cutByHook},
		{"l", "A policy set is tried, then decides by what the agent tells; explain says which rule", d.decideByPolicy},
		{"m", "Revoked: tunnel and certificate are refused", d.revoke},
	}
}

// stepTime bounds one step: a lab that hangs is a lab that failed.
const stepTime = 90 * time.Second

// all builds the lab and runs every step; after one that failed for want of something
// the later ones need, those are shown as not run.
func (d *demo) all(ctx context.Context) bool {
	d.print.started = time.Now()
	d.print.begin("lab", "Five hosts in namespaces, a control gateway beside them, and lazaretd")
	if err := d.setUp(ctx); err != nil {
		d.print.failed, d.print.broken = append(d.print.failed, "lab"), err
		return false
	}
	ok, broken := true, error(nil)
	for _, s := range d.steps() {
		r := &result{}
		began := time.Now()
		d.print.begin(s.id, s.title)
		if broken != nil {
			r.check(false, "not run, since an earlier step broke off")
		} else {
			broken = d.bounded(ctx, s, r)
			if broken != nil {
				r.check(false, "broke off: %v", broken)
			}
		}
		if ctx.Err() != nil {
			d.print.failed, d.print.broken = append(d.print.failed, s.id), errors.New("interrupted")
			return false
		}
		d.print.end(s.id, s.title, r, time.Since(began))
		ok = ok && r.ok()
	}
	return ok
}

func (d *demo) bounded(ctx context.Context, s step, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return s.run(ctx, r)
}

// setUp makes the lab and starts the gateway in it.
func (d *demo) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	var err error
	c := testnet.Config{}
	if d.verbose {
		c.Log = d.print.errs
	}
	// The lab outlives this bound; close ends it.
	if d.net, err = testnet.Standard(context.WithoutCancel(ctx), c, testnet.Params{}); err != nil {
		return err
	}
	d.print.progress("hosts: dev1 and dev2 outside; gateway; management server; intranet server; control gateway without a firewall")
	if err := d.makeGateway(ctx); err != nil {
		return err
	}
	d.print.progress("lazaretd init made the gateway: CA, store, pools, first administrator")
	if err := d.startGateway(ctx); err != nil {
		return err
	}
	if d.operator, err = newOperator(ctx, d.net.Management, d.admin); err != nil {
		return err
	}
	if err := d.awaitGateway(ctx); err != nil {
		return err
	}
	d.print.progress("lazaretd dataplane and lazaretd serve (no privileges at all) are up")
	return d.startServers(ctx)
}

// makeGateway is lazaretd init.
func (d *demo) makeGateway(ctx context.Context) error {
	dir, p := d.net.Gateway.Dir(), d.net.Plan
	d.config, d.admin = filepath.Join(dir, "lazaret.toml"), filepath.Join(dir, "admin")
	var reach []string
	for _, a := range p.Management.All() {
		for _, what := range []string{fmt.Sprintf("tcp/%d", servicePort), fmt.Sprintf("udp/%d", servicePort), "icmp"} {
			reach = append(reach, a.String()+" "+what)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if d.verbose {
		log = slog.New(slog.NewTextHandler(d.print.errs, nil))
	}
	_, err := daemon.Init(ctx, daemon.InitOptions{
		ConfigPath: d.config, AdminDir: d.admin, Organization: "Lazaret demo", Administrator: "demo",
		Values: map[string]any{
			"state": filepath.Join(dir, "state"), "dataplane.state": filepath.Join(dir, "dataplane"),
			"enroll.listen": []string{netip.AddrPortFrom(p.GatewayOuter.V4, 443).String(), netip.AddrPortFrom(p.GatewayOuter.V6, 443).String()},
			"enroll.names":  []string{p.GatewayOuter.V4.String()}, "enroll.repeat_for": repeatFor.String(),
			"api.listen":           []string{netip.AddrPortFrom(p.GatewayMgmt.V4, apiPort).String()},
			"quarantine.freshness": freshness.String(),
		},
		Management: reach, Quarantine: []netip.Prefix{quarantine4, quarantine6}, Full: []netip.Prefix{full4, full6},
		MayRelease: true, MaxValidity: time.Hour,
	}, log)
	return err
}

// startGateway starts the two processes; serve has no privileges, so the port below 1024
// is opened to everybody in that namespace.
func (d *demo) startGateway(ctx context.Context) error {
	c := testnet.NetConfig{Sysctls: map[string]string{"net/ipv4/ip_unprivileged_port_start": "443"}}
	if err := d.net.Gateway.Configure(ctx, c); err != nil {
		return err
	}
	var err error
	if d.plane, err = d.net.Gateway.Start(ctx, testnet.Spec{Role: "dataplane", Args: []string{d.config}}); err != nil {
		return err
	}
	if err := awaitReady(ctx, d.plane); err != nil {
		return err
	}
	return d.startServe(ctx)
}

func (d *demo) startServe(ctx context.Context) (err error) {
	d.serve, err = d.net.Gateway.Start(ctx, testnet.Spec{Role: "serve", Args: []string{d.config}, NoPrivileges: true})
	if err != nil {
		return err
	}
	return awaitReady(ctx, d.serve)
}

func awaitReady(ctx context.Context, p *testnet.Process) error {
	var s string
	return p.Next(ctx, &s)
}

// awaitGateway waits until a complete plan is enforced.
func (d *demo) awaitGateway(ctx context.Context) error {
	return until(ctx, 100*time.Millisecond, func() (bool, error) {
		var s api.Status
		err := d.operator.get(ctx, "/api/v1/status", &s)
		if err != nil && !errors.Is(err, errStatus) {
			return false, err
		}
		return s.Ready, nil
	})
}

// until asks again and again until the answer is yes or an error.
func until(ctx context.Context, every time.Duration, ask func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// startServers starts what devices would like to reach.
func (d *demo) startServers(ctx context.Context) error {
	p := d.net.Plan
	for _, s := range []struct {
		server **testnet.Server
		host   *testnet.Host
		at     []netip.AddrPort
	}{
		{&d.management, d.net.Management, append(ports(p.Management, servicePort), ports(p.Management, otherPort)...)},
		{&d.intranet, d.net.Intranet, append(ports(p.Intranet, servicePort), ports(p.Outside, servicePort)...)},
		{&d.gateway, d.net.Gateway, append(ports(tunnelGateway, otherPort), ports(p.GatewayIntra, otherPort)...)},
	} {
		var err error
		if *s.server, err = s.host.Serve(ctx, s.at...); err != nil {
			return err
		}
	}
	return nil
}

func ports(b testnet.Both, port uint16) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(b.V4, port), netip.AddrPortFrom(b.V6, port)}
}

// rootFile holds the organization's root certificate.
func (d *demo) rootFile() string { return filepath.Join(d.admin, "root.pem") }

// enrollURL is where devices enroll.
func (d *demo) enrollURL() string { return "https://" + d.net.Plan.GatewayOuter.V4.String() }

// once runs a role to its one report.
func once(ctx context.Context, h *testnet.Host, role, stdin string, out any, args ...string) error {
	p, err := h.Start(ctx, testnet.Spec{Role: role, Args: args, Stdin: strings.NewReader(stdin)})
	if err != nil {
		return err
	}
	if err := p.Next(ctx, out); err != nil {
		return fmt.Errorf("%s on %s: %w", role, h.Name(), err)
	}
	return p.Wait(ctx)
}

// ask gives dev1's agent an order.
func (d *demo) ask(ctx context.Context, order ...string) (asked, error) {
	var a asked
	args := append([]string{d.socket()}, order...)
	return a, once(ctx, d.honest.host, "ask", "", &a, args...)
}

func (d *demo) socket() string { return filepath.Join(d.honest.host.Dir(), "agent.sock") }

// close ends the lab.
func (d *demo) close() {
	if d.net == nil {
		return
	}
	if err := d.net.Close(); err != nil {
		fmt.Fprintln(d.print.errs, "demo: ending the lab:", err)
	}
}

// keep leaves the lab running until ctx ends, and says how to look around.
func (d *demo) keep(ctx context.Context, w io.Writer) {
	self, err := os.Getwd()
	if err != nil {
		self = "."
	}
	bin := filepath.Join(d.net.Dir(), "bin")
	fmt.Fprintf(w, "\nThe lab is still running; Ctrl-C ends it. To have its programs at hand, in %s:\n  CGO_ENABLED=0 go build -o %s/ ./cmd/lazaret ./cmd/lazaretctl\n\nEach host in a shell of its own:\n", self, bin)
	user := "-U --preserve-credentials "
	if d.net.Root() {
		user = ""
	}
	for _, h := range []*testnet.Host{d.net.Dev1, d.net.Dev2, d.net.Gateway, d.net.Management, d.net.Intranet, d.net.Control} {
		pid, err := h.PID()
		if err != nil {
			fmt.Fprintf(w, "  %-10s %v\n", h.Name(), err)
			continue
		}
		fmt.Fprintf(w, "  %-10s nsenter -t %d %s-m -n\n", h.Name(), pid, user)
	}
	fmt.Fprintf(w, `
The administrator, on the management host (mgmt):
  export LAZARET_DIR=%[1]s
  %[2]s/lazaretctl device list
  %[2]s/lazaretctl device explain %[3]s
  %[2]s/lazaretctl report %[3]s compliant --token-file $LAZARET_DIR/management-token
  %[2]s/lazaretctl otp create --user alice

The laptop on dev1 is revoked; with the code of the last line it becomes a new device:
  export LAZARET_AGENT_DIR=%[4]s
  %[2]s/lazaret enroll --server %[5]s
  %[2]s/lazaret up --no-dns &
  %[2]s/lazaret status
`, d.admin, bin, d.rogue.enrolled.Name, filepath.Join(d.honest.host.Dir(), "new"), d.enrollURL())
	select {
	case <-ctx.Done():
	case <-d.net.Done():
	}
}
