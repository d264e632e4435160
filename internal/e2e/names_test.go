package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// runNameServer is a name server for the lab: it answers from a zone file, read anew for
// each question, and writes every question into another. Arguments: address, zone, questions.
func runNameServer(ctx context.Context, args []string) error {
	answer := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetRcode(q, dns.RcodeNameError)
		asked := q.Question[0]
		if f, err := os.OpenFile(args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintln(f, strings.ToLower(asked.Name))
			f.Close()
		}
		text, err := os.ReadFile(args[1])
		if err != nil {
			return
		}
		for zone := dns.NewZoneParser(strings.NewReader(string(text)), ".", ""); ; {
			rr, ok := zone.Next()
			if !ok {
				break
			}
			if strings.EqualFold(rr.Header().Name, asked.Name) {
				m.Rcode = dns.RcodeSuccess
				if rr.Header().Rrtype == asked.Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		_ = w.WriteMsg(m) // whoever asked asks again
	}
	failed := make(chan error, 2)
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &dns.Server{Addr: args[0], Net: network, Handler: dns.HandlerFunc(answer), NotifyStartedFunc: func() { close(started) }}
		context.AfterFunc(ctx, func() { _ = s.Shutdown() })
		go func() { failed <- s.ListenAndServe() }()
		select {
		case <-started:
		case err := <-failed:
			return err
		}
	}
	ready()
	<-ctx.Done()
	return nil
}

// namesLab is a gateway that resolves names, and a device of its own host.
type namesLab struct {
	*gateway
	t         *testing.T
	device    *device
	zone      string // file
	questions string // file
	within    netip.Addr
}

// Addresses of the lab on the management network.
var (
	nameServer = netip.MustParseAddr("192.0.2.202")
	firstMDM   = netip.MustParseAddr("192.0.2.203")
	secondMDM  = netip.MustParseAddr("192.0.2.204")
)

const (
	mdmName = "mdm.example.com"
	mdmPort = 7443
)

func newNamesLab(t *testing.T) *namesLab {
	t.Helper()
	g := newGateway(t, options{})
	lab, ctx := theLab(t), soon(t)
	n := &namesLab{gateway: g, t: t, within: g.quarantine.Addr().Next(),
		zone: filepath.Join(lab.Management.Dir(), "zone"), questions: filepath.Join(lab.Management.Dir(), "questions")}
	n.lead("192.0.2.203")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var more []netip.Prefix
	for _, a := range []netip.Addr{nameServer, firstMDM, secondMDM} {
		more = append(more, netip.PrefixFrom(a, 24))
	}
	must(lab.Management.Configure(ctx, testnet.NetConfig{Links: []testnet.LinkConfig{{Name: "mgmt", Addrs: more}}}))
	p, err := lab.Management.Run(ctx, "nameserver", netip.AddrPortFrom(nameServer, 53).String(), n.zone, n.questions)
	must(err)
	var word string
	must(p.Next(ctx, &word))

	text, err := os.ReadFile(g.config)
	must(err)
	for old, now := range map[string]string{
		"servers = []": fmt.Sprintf("servers = [%q]", nameServer), "serve = false": "serve = true", `help = ""`: `help = "Call 4711."`,
	} {
		if !strings.Contains(string(text), old) {
			t.Fatalf("the configuration has no %q", old)
		}
		text = []byte(strings.ReplaceAll(string(text), old, now))
	}
	must(os.WriteFile(g.config, text, 0o600))
	must(g.host.Configure(ctx, testnet.NetConfig{Sysctls: map[string]string{"net/ipv4/ip_unprivileged_port_start": "53"}}))
	must(g.serve.Kill(ctx))
	must(g.plane.Kill(ctx))
	g.startPlane(t)
	g.startServe(t)
	g.awaitReady(t)
	n.pool(fmt.Sprintf("%s tcp/%d", mdmName, mdmPort), "192.0.2.0/24")

	h, err := lab.AddHost(ctx, "named")
	must(err)
	must(lab.Link(ctx, h, "outer", "outer", netip.MustParsePrefix("198.51.100.200/24")))
	n.device = enrolled(t, g, h, api.OTPRequest{})
	n.device.open(t)
	routes := []testnet.Route{}
	for _, a := range []netip.Addr{n.within, firstMDM, secondMDM} {
		routes = append(routes, testnet.Route{To: netip.PrefixFrom(a, 32), Device: n.device.name, From: n.device.quarantine})
	}
	must(h.Configure(ctx, testnet.NetConfig{Routes: routes}))
	return n
}

// lead has the name lead to addresses, with a TTL of nothing.
func (n *namesLab) lead(addrs ...string) {
	n.t.Helper()
	var zone string
	for _, a := range addrs {
		zone += fmt.Sprintf("%s. 0 IN A %s\n", mdmName, a)
	}
	zone += "secret." + mdmName + ". 0 IN A 192.0.2.203\nwww.example.org. 0 IN A 192.0.2.203\n"
	if err := os.WriteFile(n.zone+".new", []byte(zone), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(n.zone+".new", n.zone); err != nil {
		n.t.Fatal(err)
	}
}

// pool gives the quarantine pool a reach.
func (n *namesLab) pool(reach string, allow string) {
	n.t.Helper()
	var pools []api.Pool
	n.want(n.t, http.StatusOK, "GET", "/api/v1/pools", nil, &pools)
	p := pools[slices.IndexFunc(pools, func(p api.Pool) bool { return p.Quarantine })]
	p.Reach, p.Allow = append(p.Reach, reach), []netip.Prefix{netip.MustParsePrefix(allow)}
	n.want(n.t, http.StatusOK, "PUT", "/api/v1/pools/quarantine", p, nil)
}

// resolved waits until the API shows an address, open or refused.
func (n *namesLab) resolved(a string, open bool) {
	n.t.Helper()
	until(n.t, fmt.Sprintf("%s is resolved, open: %v", a, open), func() bool {
		var names []api.Name
		got, err := n.try(n.t.Context(), "GET", "/api/v1/pools/quarantine/names", nil, &names)
		return err == nil && got.status == http.StatusOK && len(names) == 1 && slices.ContainsFunc(names[0].Addresses, func(x api.NameAddress) bool {
			return x.Address.String() == a && x.Open == open && (x.Refused == "") == open
		})
	})
}

// restart ends the control plane as a crash does. The next asks for every name at once.
func (n *namesLab) restart() {
	n.t.Helper()
	if err := n.serve.Kill(soon(n.t)); err != nil {
		n.t.Fatal(err)
	}
	n.startServe(n.t)
	n.awaitReady(n.t)
}

// on runs a program on the device's host, which asks the gateway's resolver.
func (n *namesLab) on(program string, args ...string) string {
	n.t.Helper()
	file := filepath.Join(n.device.host.Dir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+n.within.String()+"\noptions attempts:2 timeout:5\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
	script := `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	p, err := n.device.host.Command(soon(n.t), testneed.Program(n.t, "unshare"), append([]string{"--mount", "/bin/sh", "-c", script, file, program}, args...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	_ = p.Wait(soon(n.t)) // the output says enough: getent fails where there is no name
	return p.Output()
}

// ask asks the gateway's resolver by TCP.
func (n *namesLab) ask(name string, qtype uint16) *dns.Msg {
	n.t.Helper()
	c, err := through(n.t, n.device.host, n.device.quarantine, n.device.name)(soon(n.t), "tcp", netip.AddrPortFrom(n.within, 53).String())
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	dc := &dns.Conn{Conn: c}
	if err := dc.WriteMsg(q); err != nil {
		n.t.Fatal(err)
	}
	m, err := dc.ReadMsg()
	if err != nil {
		n.t.Fatal(err)
	}
	return m
}

func (n *namesLab) probe(to netip.Addr, within time.Duration) testnet.ProbeResult {
	n.t.Helper()
	r, err := n.device.host.Probe(soon(n.t), testnet.ProbeSpec{Proto: testnet.TCP, From: n.device.quarantine, To: netip.AddrPortFrom(to, mdmPort), Device: n.device.name, Timeout: within})
	if err != nil || r.Outcome == testnet.NotSent {
		n.t.Fatalf("probing %s: %+v, %v", to, r, err)
	}
	return r
}

// TestNames: a management server that is known by its name alone. A device in quarantine
// learns the name from the gateway and reaches it; a rotation cuts nothing; rebinding opens
// nothing; no other name is told, nor asked for; and its user is told where it stands.
func TestNames(t *testing.T) {
	t.Parallel()
	getent, curl := testneed.Program(t, "getent"), testneed.Program(t, "curl")
	n := newNamesLab(t)
	lab := theLab(t)
	n.resolved("192.0.2.203", true)
	if got := n.on(getent, "ahostsv4", mdmName); !strings.HasPrefix(got, "192.0.2.203 ") {
		t.Fatalf("the device is told %q", got)
	}
	var at []netip.AddrPort
	for _, a := range []netip.Addr{firstMDM, secondMDM} {
		at = append(at, netip.AddrPortFrom(a, mdmPort))
	}
	server, err := lab.Management.Serve(soon(t), at...)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := n.device.host.Stream(soon(t), server, testnet.StreamSpec{Proto: testnet.TCP, Direction: testnet.Echo, From: n.device.quarantine, To: at[0], Device: n.device.name})
	if err != nil {
		t.Fatalf("the server that the name leads to is not reached: %v", err)
	}
	if r := n.probe(secondMDM, time.Second); r.Passed() {
		t.Error("an address that no name leads to is reached")
	}

	n.lead("192.0.2.204") // a rotation, and a crash of the control plane at the same time
	n.restart()
	n.resolved("192.0.2.204", true)
	if r := n.probe(secondMDM, late); !r.Passed() {
		t.Errorf("after the rotation the new address is not reached: %+v", r)
	}
	before, err := stream.Client(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the session goes on after the rotation", func() bool {
		now, err := stream.Client(soon(t))
		return err == nil && now.Error == "" && now.Received > before.Received+100
	})
	if got := n.on(getent, "ahostsv4", mdmName); !strings.HasPrefix(got, "192.0.2.204 ") || strings.Contains(got, "192.0.2.203") {
		t.Errorf("after the rotation the device is told %q", got)
	}

	capture, err := lab.Intranet.Capture(soon(t), "")
	if err != nil {
		t.Fatal(err)
	}
	intranet := lab.Plan.Intranet.V4
	n.lead(intranet.String(), "127.0.0.1", n.within.String(), "192.0.2.204")
	n.restart()
	n.resolved(intranet.String(), false)
	r := n.probe(intranet, time.Second)
	if r.Passed() || len(capture.Records(r.Is)) > 0 {
		t.Errorf("a rebound name opens the intranet: %+v, seen there %d times", r, len(capture.Records(r.Is)))
	}
	if got := n.on(getent, "ahostsv4", mdmName); !strings.HasPrefix(got, "192.0.2.204 ") || strings.Contains(got, intranet.String()) {
		t.Errorf("after rebinding the device is told %q", got)
	}

	n.tellsNothingElse(getent)
	n.tellsTheUser(curl)
}

// tellsNothingElse: no name but those of the pool is answered, and nobody is asked for it.
func (n *namesLab) tellsNothingElse(getent string) {
	n.t.Helper()
	for _, name := range []string{"secret." + mdmName + ".", "www.example.org.", "stolen-data.example.org.", "example.com."} {
		if m := n.ask(name, dns.TypeA); m.Rcode != dns.RcodeRefused || len(m.Answer) > 0 {
			n.t.Errorf("%s: %s", name, m)
		}
		if got := n.on(getent, "ahostsv4", strings.TrimSuffix(name, ".")); strings.TrimSpace(got) != "" {
			n.t.Errorf("%s is told by UDP: %q", name, got)
		}
	}
	if m := n.ask(mdmName+".", dns.TypeANY); m.Rcode != dns.RcodeRefused {
		n.t.Errorf("everything at once: %s", m)
	}
	text, err := os.ReadFile(n.questions)
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) != mdmName+"." {
			n.t.Errorf("the gateway asked for %s", line)
		}
	}
}

// tellsTheUser: the page and the captive portal API, for stock programs.
func (n *namesLab) tellsTheUser(curl string) {
	t := n.t
	t.Helper()
	page := n.on(curl, "-sS", "-H", "Accept: text/plain", "http://lazaret.internal/")
	if !strings.HasPrefix(page, "This device is in quarantine\n") || !strings.Contains(page, "Call 4711.") || !strings.Contains(page, n.device.id) {
		t.Errorf("the page says:\n%s", page)
	}
	if got := n.on(curl, "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "-H", "Host: connectivity.example", "http://"+n.within.String()+"/generate_204"); got != "302 http://lazaret.internal/" {
		t.Errorf("a client's test for a captive portal is answered %q", got)
	}
	type captive struct {
		Captive   bool   `json:"captive"`
		UserURL   string `json:"user-portal-url"`
		Remaining int    `json:"seconds-remaining"`
	}
	ask := func() (c captive) {
		t.Helper()
		url := n.device.result.Settings.Gateways[0].Captive
		if url == "" {
			t.Fatal("the settings do not announce the captive portal API")
		}
		got := n.on(curl, "-sS", "--cacert", filepath.Join(n.admin, "root.pem"), "-H", "Accept: application/captive+json", url)
		if err := json.Unmarshal([]byte(got), &c); err != nil {
			t.Fatalf("the captive portal API says %q", got)
		}
		return c
	}
	if c := ask(); !c.Captive || c.UserURL != "https://lazaret.internal:8445/" || c.Remaining != 0 {
		t.Errorf("in quarantine the API says %+v", c)
	}
	if dnsOf := n.device.result.Settings.Quarantine.DNS; len(dnsOf) != 1 || dnsOf[0] != n.within {
		t.Errorf("the settings name %v as the resolver", dnsOf)
	}
	if s := n.reported(t, n.device.id, "compliant"); s != "routed" {
		t.Fatalf("reported compliant, and %s", s)
	}
	if c := ask(); c.Captive || c.Remaining < 60 {
		t.Errorf("routed, the API says %+v", c)
	}
	if page := n.on(curl, "-sS", "http://lazaret.internal/"); !strings.Contains(page, "<h1>This device has full access</h1>") {
		t.Errorf("routed, the page says:\n%s", page)
	}
}
