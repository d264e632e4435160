package e2e

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// device is one device: keys, what it got for them, and its tunnel.
type device struct {
	g      *gateway
	host   *testnet.Host
	keys   client.Keys
	wg     tunnel.PrivateKey
	result *client.Result // nil: not enrolled with our client
	id     string

	quarantine, full netip.Addr
	link             *testnet.WireGuard
	name             string // of the tunnel's interface
}

// Keys and Save make a device the store of its own client.
func (d *device) Keys(context.Context) (client.Keys, error) { return d.keys, nil }

func (d *device) Save(_ context.Context, r *client.Result) error {
	d.result, d.id = r, r.Settings.Device
	return nil
}

func newDevice(t testing.TB, g *gateway, h *testnet.Host) *device {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return deviceWith(t, g, h, key, newWireGuardKey(t))
}

func newWireGuardKey(t testing.TB) tunnel.PrivateKey {
	t.Helper()
	wg, err := tunnel.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return wg
}

func deviceWith(t testing.TB, g *gateway, h *testnet.Host, key crypto.Signer, wg tunnel.PrivateKey) *device {
	t.Helper()
	x, err := ecdh.X25519().NewPrivateKey(wg.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return &device{g: g, host: h, wg: wg, keys: client.Keys{Certificate: key, WireGuard: x}}
}

// enrolled makes a device and enrolls it.
func enrolled(t testing.TB, g *gateway, h *testnet.Host, r api.OTPRequest) *device {
	t.Helper()
	d := newDevice(t, g, h)
	if err := d.enroll(soon(t), t, g.otp(t, r).Code, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// enroll enrolls with our own client, which tries each message once.
func (d *device) enroll(ctx context.Context, t testing.TB, text string, claim *cmp.Claim) error {
	t.Helper()
	c, err := code.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.client(t, client.Config{Claim: claim, Attempts: 1}).Enroll(ctx, c, d)
	if err == nil {
		d.g.show(t, d.id) // and so waits until the API knows it
	}
	return err
}

// client is our own client at the device's gateway.
func (d *device) client(t testing.TB, c client.Config) *client.Client {
	t.Helper()
	c.Server, c.Log = d.g.url(), slog.New(slog.DiscardHandler)
	if c.Dial == nil {
		c.Dial = through(t, d.host, netip.Addr{}, "")
	}
	made, err := client.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// serial is the certificate's serial number as the API writes it.
func (d *device) serial() string { return hexSerial(d.result.Certificate) }

// agentPort is where the agent API listens by default.
const agentPort = 8444

var tunnels atomic.Int32

// open brings the device's tunnel up, with both its addresses, whatever the gateway
// thinks of it: it sends what it likes.
func (d *device) open(t testing.TB) {
	t.Helper()
	a := d.g.show(t, d.id)
	d.openAt(t, a.Seat)
}

// openAt brings a tunnel up for a seat, be it the device's own or not.
func (d *device) openAt(t testing.TB, seat uint32) {
	t.Helper()
	at := func(p netip.Prefix) netip.Addr {
		a := p.Addr()
		for range seat + 1 { // the gateway is the first
			a = a.Next()
		}
		return a
	}
	d.quarantine, d.full = at(d.g.quarantine), at(d.g.full)
	n := tunnels.Add(1)
	d.name = fmt.Sprintf("t%d", n)
	d.connect(t)
	if err := d.host.ForceRoutes(soon(t), d.name, 7000+int(n)); err != nil {
		t.Fatal(err)
	}
}

// connect starts the tunnel's interface.
func (d *device) connect(t testing.TB) {
	t.Helper()
	key, err := tunnel.ParseKey(gatewayKey(t, d.g))
	if err != nil {
		t.Fatal(err)
	}
	d.link, err = d.host.WireGuard(soon(t), testnet.WireGuardSpec{
		Device: d.name, Key: d.wg, Addrs: []netip.Prefix{netip.PrefixFrom(d.quarantine, 32), netip.PrefixFrom(d.full, 32)},
		Peers: []tunnel.Peer{{Key: key, Endpoint: netip.AddrPortFrom(d.g.outer, 51820), KeepAlive: 5 * time.Second,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	link := d.link
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = link.Stop(end) // it may have been stopped before
	})
}

// reopen takes the tunnel down and up again, as if the device had slept.
func (d *device) reopen(t testing.TB) {
	t.Helper()
	_ = d.link.Stop(soon(t)) // the status of a process told to end is of no interest
	n := tunnels.Add(1)
	d.name = fmt.Sprintf("t%d", n)
	d.connect(t)
	if err := d.host.ForceRoutes(soon(t), d.name, 7000+int(n)); err != nil {
		t.Fatal(err)
	}
}

// gatewayKey is the tunnel's public key, as the gateway's own file says.
func gatewayKey(t testing.TB, g *gateway) string {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.key == "" {
		g.key = strings.TrimSpace(command(t, g.host, "/bin/cat", "/run/lazaret/wireguard.pub"))
	}
	return g.key
}

// command runs a program on a host to its end, which must be a success.
func command(t testing.TB, h *testnet.Host, path string, args ...string) string {
	t.Helper()
	p, err := h.Command(soon(t), path, args...)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(soon(t)); err != nil {
		t.Fatalf("%s %s: %v", path, strings.Join(args, " "), err)
	}
	return p.Output()
}

// seen is what a device reaches.
type seen struct{ management, intranet bool }

// stage is what stage a device's packets tell of.
func (s seen) stage() string {
	return map[seen]string{{}: "blocked", {true, false}: "quarantined", {true, true}: "routed"}[s]
}

// reach asks, for all devices at once, what gets there and back: to the management server
// from the quarantine address, to the intranet from either.
func reach(t testing.TB, devices ...*device) []seen {
	t.Helper()
	plan := theLab(t).Plan
	const each = 3
	results, errs := make([]testnet.ProbeResult, each*len(devices)), make([]error, each*len(devices))
	var all sync.WaitGroup
	for i, d := range devices {
		for j, way := range [each][2]netip.Addr{
			{d.quarantine, plan.Management.V4}, {d.quarantine, plan.Intranet.V4}, {d.full, plan.Intranet.V4},
		} {
			spec := testnet.ProbeSpec{Proto: testnet.ICMP, From: way[0], To: netip.AddrPortFrom(way[1], 0), Device: d.name, Timeout: 300 * time.Millisecond}
			all.Go(func() { results[each*i+j], errs[each*i+j] = d.host.Probe(t.Context(), spec) })
		}
	}
	all.Wait()
	out := make([]seen, len(devices))
	for i, r := range results {
		if errs[i] != nil || r.Outcome == testnet.NotSent {
			t.Fatalf("a probe was not sent: %v %s", errs[i], r.Detail)
		}
		if i%each == 0 {
			out[i/each].management = r.Passed()
		} else {
			out[i/each].intranet = out[i/each].intranet || r.Passed()
		}
	}
	return out
}

// reaches says what stage the device's packets tell of: one that may be, or what it is
// after a while. The intranet, where it may not be reached, is no matter of waiting.
func (d *device) reaches(t testing.TB, may func(stage string) bool) string {
	t.Helper()
	var got seen
	for end := time.Now().Add(patience); time.Now().Before(end); {
		got = reach(t, d)[0]
		if may(got.stage()) || got.intranet && !may("routed") {
			break
		}
	}
	return got.stage()
}

// routed and shut say whether packets to the intranet get through, or do not although the
// tunnel is alive.
func (d *device) routed(t testing.TB) bool { t.Helper(); return d.is(t, "routed") }
func (d *device) shut(t testing.TB) bool   { t.Helper(); return d.is(t, "quarantined") }

func (d *device) is(t testing.TB, stage string) bool {
	t.Helper()
	return stage == d.reaches(t, func(s string) bool { return s == stage })
}

// agentAPI asks the gateway's agent API from inside the tunnel, from one of the device's
// addresses, with a certificate.
func (d *device) agentAPI(ctx context.Context, t testing.TB, from netip.Addr, cert tls.Certificate, method, path string, in, out any) (answered, error) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: through(t, d.host, from, d.name),
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: d.g.root(t), Certificates: []tls.Certificate{cert}}}}
	gateway := d.g.quarantine.Addr().Next()
	return ask(ctx, c, "https://"+netip.AddrPortFrom(gateway, agentPort).String(), "", method, path, in, out)
}
