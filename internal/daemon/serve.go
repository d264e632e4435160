// Package daemon wires the control plane from its parts: Init makes a gateway, Serve runs
// it. The lazaretd program and the lab run the same functions; the data plane is package plane.
package daemon

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/enroll"
	"lazaret/enroll/cmp"
	"lazaret/internal/config"
	"lazaret/internal/console"
	"lazaret/internal/listener"
	"lazaret/internal/manage"
	"lazaret/internal/plane"
	"lazaret/internal/seal"
	"lazaret/internal/servercert"
	"lazaret/internal/store"
	"lazaret/internal/stream"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/policy"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/ssf"
	"lazaret/quarantine/tunnel"
)

// listenerLife is the life of the gateway's own server certificates.
const listenerLife = 30 * 24 * time.Hour

// planTime bounds one call to store or data plane. The longest is a first plan: 65,000
// peers of a userspace tunnel take nine seconds by themselves.
const planTime = 45 * time.Second

// openStore opens what init made in the state directory.
func openStore(ctx context.Context, c config.Config, log *slog.Logger) (*store.Store, *seal.Ring, error) {
	keyFile := filepath.Join(c.State, "node.key")
	if _, err := os.Stat(keyFile); err != nil {
		return nil, nil, fmt.Errorf("opening %s: %w; make a gateway with lazaretd init", c.State, err)
	}
	ring, err := seal.LoadOrCreate(keyFile)
	if err != nil {
		return nil, nil, err
	}
	s, err := store.Open(ctx, store.Config{
		Dir: filepath.Join(c.State, "etcd"), AuditDir: auditDir(c), Ring: ring, Gateway: c.Name, Log: log,
		CheckSet: policy.CheckSet,
	})
	return s, ring, err
}

func auditDir(c config.Config) string { return filepath.Join(c.State, "audit") }

// control is the control plane while it is being put together.
type control struct {
	config   config.Config
	log      *slog.Logger
	store    *store.Store
	ring     *seal.Ring
	ca       *authorities
	listener *pki.Listener
	trusted  *servercert.Keeper // shown to those who know no root of ours
	journal  *quarantine.Journal
	client   *dataplane.Client
	gate     *quarantine.Gate
	desk     *enroll.Desk
	console  *console.Server
	inside   inside
	manage   *manage.Manager
	parts    []part
	streams  *stream.Manager // who is told of device events
	alerts   *alerts
	machine  machineDoor
	signals  *ssf.Receiver
	ledger   *source.Ledger // how every source does

	connections connections  // how sources are asked
	tunnel      []netip.Addr // the gateway's addresses in the quarantine pool
}

// Serve runs the control plane until ctx ends. ready is called once enrollment and the
// APIs answer. When it ends, for whatever reason, tunnel and enforcement stay as they are.
func Serve(ctx context.Context, c config.Config, version string, log *slog.Logger, ready func()) (err error) {
	collectLater()
	k := &control{config: c, log: log, ledger: &source.Ledger{}}
	if k.store, k.ring, err = openStore(ctx, c, log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.store.Close()) }()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.store.Run(ctx) })
	if err := k.build(ctx, version); err != nil {
		return errors.Join(err, stop(group))
	}
	defer k.client.Close()
	defer k.journal.Close()
	running := map[string]func(context.Context) error{
		"gate": k.gate.Run, "desk": k.desk.Run, "certificates": k.listener.Run, "events": k.events, "responder": k.keepResponder,
		"resolver": k.inside.names.Run,
	}
	for _, p := range k.parts {
		if p.run != nil {
			running[p.name] = p.run
		}
	}
	for name, run := range running {
		group.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("running %s: %w", name, err)
			}
			return nil
		})
	}
	for _, s := range k.sites() {
		if err := s.Serve(ctx, group, log); err != nil {
			return errors.Join(err, stop(group))
		}
	}
	if err := k.serveInside(ctx, group); err != nil {
		return errors.Join(err, stop(group))
	}
	group.Go(func() error { return k.trusted.Run(ctx) }) // proofs are asked for at what listens by now
	log.Info("control plane ready", "gateway", c.Name, "version", version)
	ready()
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// errStop ends a group whose parts could not all be started.
var errStop = errors.New("stopping")

func stop(group *errgroup.Group) error {
	group.Go(func() error { return errStop })
	if err := group.Wait(); !errors.Is(err, errStop) {
		return err
	}
	return nil
}

// build makes every part, leaf to root.
func (k *control) build(ctx context.Context, version string) (err error) {
	c := k.config
	if k.ca, err = loadAuthorities(ctx, k.store.Secrets()); err != nil {
		return err
	}
	pools, err := k.store.Pools(ctx)
	if err != nil {
		return err
	}
	for _, p := range pools {
		if p.Quarantine {
			for _, a := range p.GatewayAddresses() {
				k.tunnel = append(k.tunnel, a.Addr())
			}
		}
	}
	if k.listener, err = k.serverCertificate(ctx); err != nil {
		return err
	}
	if k.trusted, err = k.trustedCertificate(ctx); err != nil {
		return err
	}
	if k.journal, err = quarantine.OpenJournal(filepath.Join(c.State, "tightenings")); err != nil {
		return err
	}
	k.client = dataplane.Connect(c.Dataplane.Socket) // devices enroll while there is no data plane, too
	var run [8]byte
	rand.Read(run[:])
	k.gate, err = quarantine.NewGate(quarantine.Config{
		Store: k.store, Enforcer: k.client, Journal: k.journal, Policy: policy.New(policy.Config{}), Gateway: c.Name,
		Control: c.Name + "/" + hex.EncodeToString(run[:]), Log: k.log, Timeout: planTime,
		Freshness: c.Quarantine.Freshness, QuarantineLife: min(c.Quarantine.Alive, quarantine.MaxFreshness),
	})
	if err != nil {
		return err
	}
	if k.inside, err = k.makeInside(); err != nil {
		return err
	}
	if k.desk, err = k.makeDesk(); err != nil {
		return err
	}
	if err = k.makeParts(ctx); err != nil {
		return err
	}
	k.console, err = k.makeConsole(version)
	return err
}

// serverCertificate covers every name and address that clients of this gateway use.
func (k *control) serverCertificate(ctx context.Context) (*pki.Listener, error) {
	c := k.config
	var names []string
	addrs := slices.Clone(k.tunnel)
	wanted := append(slices.Clone(c.Enroll.Names), c.API.Names...)
	if c.Portal.Serve {
		wanted = append(wanted, c.Portal.Name)
	}
	for _, n := range wanted {
		if a, err := netip.ParseAddr(n); err == nil {
			addrs = append(addrs, a)
		} else if !slices.Contains(names, strings.ToLower(n)) {
			names = append(names, strings.ToLower(n))
		}
	}
	for _, at := range append(slices.Clone(c.Enroll.Listen), c.API.Listen...) {
		if !at.Addr().IsUnspecified() {
			addrs = append(addrs, at.Addr())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return pki.NewListener(ctx, pki.ListenerConfig{
		Authority: k.ca.Authority, Name: c.Name, Names: names, IPs: slices.Compact(addrs), Life: listenerLife,
		Store: secretFile{k.store.Secrets(), "listener/" + c.Name}, Log: k.log,
	})
}

func (k *control) makeDesk() (*enroll.Desk, error) {
	c := k.config
	return enroll.New(enroll.Config{
		Store: k.store, Issuer: k.ca.Authority, Gate: k.gate, Organization: organization{k.store, k},
		Sealer: k.ring, Audit: auditor{k.store}, Log: k.log, Responder: k.ca.Responder, ProofKeys: k.ca.proof,
		Gateways: k.gateways, ListenerKeys: k.listenerKeys, Life: c.Quarantine.CertificateLife, RepeatFor: c.Enroll.RepeatFor, MTU: c.Tunnel.MTU,
		AllowSHA1: c.Enroll.AllowSHA1, Exporter: c.Enroll.ChannelBinding, Proxies: c.Enroll.TrustedProxies,
	})
}

func (k *control) makeConsole(version string) (*console.Server, error) {
	c := k.config
	return console.New(console.Config{
		Gateway: c.Name, Version: version, EnrollURL: k.enrollURL(), Gate: heard{k.gate, k.ledger}, Desk: k.desk,
		Organization: console.Organization{
			Pools: table[quarantine.Pool]{k.store.PoolTable()}, Profiles: table[quarantine.Profile]{k.store.ProfileTable()},
			Sources: streamTable{sourceTable{table[quarantine.Source]{k.store.SourceTable()}, hookKeys(k.store)}, signals{k.store, k.signals, k.enrollURL()}}, Tokens: tokens{k.store},
			TokenBySum: tokenBySum(k.store), Uses: k.store.TokenUses(),
		},
		Refused: refusals{k.store},
		Audit:   k.store.AuditLog(), Root: k.ca.Root(), Administrator: k.ca.VerifyAdministrator,
		Device: k.ca.VerifyDevice, Settings: k.settings, ListenerKeys: k.listenerKeys, Manage: k.manage, Attestation: newAttestation(k.store, c.Name, k.log), Names: k.names, Policies: k.policies(), Signals: signals{k.store, k.signals, k.enrollURL()}, Hooks: hooks{hookKeys(k.store), k.enrollURL()}, Connections: k.connections, Health: sourceHealth(k.ledger), Streams: receivers{k.streams}, Alerts: k.alerts, Machine: k.machine, Certificates: certificates{k}, From: c.API.From, Log: k.log,
	})
}

func (k *control) settings(ctx context.Context, r quarantine.Record) (cmp.Settings, error) {
	pools, err := k.store.Pools(ctx)
	if err != nil {
		return cmp.Settings{}, err
	}
	profile, err := k.store.Profile(ctx, r.Profile)
	if err != nil {
		return cmp.Settings{}, err
	}
	return enroll.SettingsFor(r, profile, k.dressed(pools), k.gateways(), k.config.Tunnel.MTU), nil
}

func (k *control) listenerKeys() [][]byte {
	var out [][]byte
	for _, sum := range k.listener.Keys() {
		out = append(out, sum[:])
	}
	return out
}

// gateways tells devices where to connect. The public key is the data plane's to say; a
// gateway whose data plane never ran tells none.
func (k *control) gateways() []cmp.Gateway {
	c := k.config
	text, err := os.ReadFile(plane.PublicKeyPath(c))
	if err != nil {
		k.log.Error("reading the tunnel's public key", "err", err)
		return nil
	}
	key, err := tunnel.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		k.log.Error("reading the tunnel's public key", "err", err)
		return nil
	}
	endpoints := c.Tunnel.Endpoints
	if len(endpoints) == 0 {
		endpoints = []string{net.JoinHostPort(c.Enroll.Names[0], strconv.Itoa(int(c.Tunnel.Port)))}
	}
	g := cmp.Gateway{Name: c.Name, WireGuard: key.String(), Endpoints: endpoints, Tunnel: k.tunnel}
	if p := k.inside.portal; p != nil {
		g.Portal, g.Captive = p.PageURL(), p.APIURL()
	}
	if len(k.tunnel) > 0 {
		g.API = "https://" + netip.AddrPortFrom(k.tunnel[0], c.Tunnel.AgentPort).String()
	}
	return []cmp.Gateway{g}
}

func (k *control) enrollURL() string {
	host := k.config.Enroll.Names[0]
	if port := k.config.Enroll.Listen[0].Port(); port != 443 {
		return "https://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "https://" + host
}

// events carries what the data plane tells to the gate.
func (k *control) events(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-k.client.Events():
			if !ok {
				return errors.New("the data plane's client ended")
			}
			k.event(ctx, e)
		}
	}
}

func (k *control) event(ctx context.Context, e dataplane.Event) {
	k.log.Info("data plane", "event", string(e.Kind), "device", string(e.Device), "detail", e.Detail)
	switch e.Kind {
	case dataplane.Connected, dataplane.NeedPlan, dataplane.ClockJump:
		k.gate.Replan()
	case dataplane.Rotated:
		by := quarantine.Actor{Kind: "gateway", Name: k.config.Name}
		if _, err := k.gate.Change(ctx, by, rotation(e)); err != nil {
			k.log.Error("noting the rotated key", "device", string(e.Device), "err", err)
		}
	}
}

// rotation is a device's first handshake with its next key, as the gate takes it: bound to
// that key, so that a late word of it moves nobody to another.
func rotation(e dataplane.Event) quarantine.Change {
	return quarantine.Change{Kind: quarantine.Rotate, Device: e.Device, Key: e.Key}
}

// openTLS is TLS 1.3 alone (D1), for whoever comes: those who cannot know our root are shown
// another certificate, where there is one.
func (k *control) openTLS() *tls.Config {
	return k.trusted.TLS(&tls.Config{MinVersion: tls.VersionTLS13})
}

// enrollEach is how many connections to the enrollment listener one address may hold: enough for
// an office behind one, and far from all that there are.
const enrollEach = 64

// enrollSite is the enrollment listener without what answers on it.
func enrollSite(c config.Config) listener.Site {
	return listener.Site{Name: "enroll", Most: 2048, Each: enrollEach, Holder: listener.Outside(c.Enroll.TrustedProxies), Idle: 15 * time.Second, At: c.Enroll.Listen}
}

// apiEach is likewise of the API's listener: enough for a management server that sends its
// reports side by side, and administrators behind the same address.
const apiEach = 128

// apiSite is the API's listener without what answers on it.
func apiSite(c config.Config) listener.Site {
	return listener.Site{Name: "api", Most: 512, Each: apiEach, Holder: listener.Outside(nil), Idle: 2 * time.Minute, At: c.API.Listen}
}

// sites are the three HTTPS services that there always are.
func (k *control) sites() []listener.Site {
	c := k.config
	agent := &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: k.listener.GetCertificate,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: k.ca.DevicePool()}
	var inside []netip.AddrPort
	for _, a := range k.tunnel {
		inside = append(inside, netip.AddrPortFrom(a, c.Tunnel.AgentPort))
	}
	enroll := enrollSite(c)
	enroll.TLS, enroll.Handler = k.trusted.Challenged(k.openTLS()), k.public()
	api := apiSite(c)
	api.TLS, api.Handler = k.openTLS(), k.console.API()
	api.TLS.ClientAuth = tls.RequestClientCert
	return []listener.Site{
		enroll,
		api,
		{Name: "agent", Most: 1 << 16, Each: 16, Idle: 2 * time.Minute, At: inside, Free: true, TLS: agent, Handler: k.console.Agent()},
	}
}
