package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/console/api"
	"lazaret/internal/listener"
	"lazaret/internal/portal"
	"lazaret/internal/resolver"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// dnsPort is where the gateway's resolver answers in the tunnel.
const dnsPort = 53

// inside is what the gateway offers to devices in the tunnel besides the agent API.
type inside struct {
	names  *resolver.Resolver // resolves what pools reach, always
	dns    *resolver.Service  // nil: devices are not answered
	portal *portal.Server     // nil: no page
}

// lastOwn keeps the addresses of the interfaces as they were when they could be read.
type lastOwn struct {
	list func() ([]net.Addr, error)

	mu    sync.Mutex
	addrs []netip.Addr
}

// read asks list. With its error it returns what it told last. The caller may append to it.
func (o *lastOwn) read() ([]netip.Addr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, err := o.list()
	if err == nil {
		o.addrs = nil
		for _, a := range now {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				o.addrs = append(o.addrs, p.Addr().Unmap())
			}
		}
	}
	return slices.Clone(o.addrs), err
}

// makeInside makes the resolver, and with it what devices are answered by.
func (k *control) makeInside() (in inside, err error) {
	c, own := k.config, &lastOwn{list: net.InterfaceAddrs}
	if _, err := own.read(); err != nil {
		return in, fmt.Errorf("reading the gateway's own addresses: %w", err) // there are none of a time before
	}
	in.names, err = resolver.New(resolver.Config{
		Gate: k.gate, Servers: resolver.Servers(c.Resolver.Servers, resolver.SystemFile), Grace: c.Resolver.Grace, Stale: c.Resolver.Stale,
		Gateway: func() []netip.Addr { return k.ownAddresses(own) }, Own: c.Resolver.Own, File: filepath.Join(c.State, "names.json"), Log: k.log,
	})
	if err != nil || len(k.tunnel) == 0 {
		return in, err
	}
	host, name := k.tunnel[0].String(), ""
	if c.Resolver.Serve && c.Portal.Serve {
		host, name = c.Portal.Name, c.Portal.Name
	}
	if c.Resolver.Serve {
		in.dns, err = resolver.NewService(resolver.ServiceConfig{Directory: k.gate, Resolver: in.names, Portal: name, At: k.tunnel, Log: k.log})
	}
	if err == nil && c.Portal.Serve {
		in.portal, err = portal.New(portal.Config{
			Find: k.gate.At, Host: host, Addrs: k.tunnel, HTTPPort: c.Portal.HTTPPort, HTTPSPort: c.Portal.HTTPSPort,
			Help: c.Portal.Help, Venue: c.Portal.Venue, Log: k.log,
		})
	}
	return in, err
}

// ownAddresses are the gateway's own, which no name may lead to. While the interfaces cannot
// be read they are those of the last time.
func (k *control) ownAddresses(interfaces *lastOwn) []netip.Addr {
	all, err := interfaces.read()
	if err != nil {
		k.log.Warn("reading the gateway's own addresses; names lead to none of those read last", "error", err)
	}
	for _, at := range append(append([]netip.AddrPort(nil), k.config.Enroll.Listen...), k.config.API.Listen...) {
		if !at.Addr().IsUnspecified() {
			all = append(all, at.Addr().Unmap())
		}
	}
	for _, n := range k.config.Enroll.Names {
		if a, err := netip.ParseAddr(n); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// notAsked is the problem of a name before its first question.
const notAsked = "not asked for yet"

// names tells what the names of a pool resolve to.
func (k *control) names(p quarantine.Pool) []api.Name {
	pools, _ := k.gate.Pools()
	told, inside := k.gate.Names(), quarantine.InsideOf(pools)
	var all []api.Name
	for _, named := range p.Named {
		if slices.ContainsFunc(all, func(n api.Name) bool { return n.Name == named.Name }) {
			continue // with another port
		}
		known, ok := k.inside.names.Look(named.Name)
		if !ok {
			known.Problem = notAsked
		}
		n := api.Name{Name: named.Name, Answered: known.Answered, Problem: known.Problem, Addresses: []api.NameAddress{}}
		for _, pin := range known.Pins {
			a := api.NameAddress{Address: pin.Addr, Since: pin.Since, Good: pin.Good, Until: k.inside.names.Until(pin), Current: pin.Current, Open: k.gate.Opens(p.Name, pin.Addr)}
			if err := p.Refuses(pin.Addr, told, inside); err != nil {
				a.Refused = err.Error()
			}
			n.Addresses = append(n.Addresses, a)
		}
		all = append(all, n)
	}
	return all
}

// dressed are pools as devices are told of them: with what names resolve to, and with the
// gateway as the resolver where it is one.
func (k *control) dressed(pools map[string]quarantine.Pool) map[string]quarantine.Pool {
	out := maps.Clone(k.gate.Names().Resolve(pools))
	for name, p := range out {
		if k.inside.dns != nil && len(p.DNS) == 0 && (p.Quarantine || p.Forward) {
			p.DNS = k.tunnel
			out[name] = p
		}
	}
	return out
}

// organization is the store as the enrollment desk sees it.
type organization struct {
	*store.Store
	k *control
}

// Pools returns every pool by name, dressed.
func (o organization) Pools(ctx context.Context) (map[string]quarantine.Pool, error) {
	pools, err := o.Store.Pools(ctx)
	return o.k.dressed(pools), err
}

// serveInside opens what devices are answered by, and answers until ctx ends.
func (k *control) serveInside(ctx context.Context, group *errgroup.Group) error {
	if k.inside.portal != nil {
		for _, s := range k.portalSites() {
			if err := s.Serve(ctx, group, k.log); err != nil {
				return err
			}
		}
	}
	if k.inside.dns == nil {
		return nil
	}
	datagrams, listeners, err := k.dnsSockets(ctx)
	if err != nil {
		return err
	}
	group.Go(func() error { return k.inside.dns.Run(ctx, datagrams, listeners) })
	return nil
}

// portalEach is how many connections one device may hold: a browser opens six.
const portalEach = 8

func (k *control) portalSites() []listener.Site {
	at := func(port uint16) (all []netip.AddrPort) {
		for _, a := range k.tunnel {
			all = append(all, netip.AddrPortFrom(a, port))
		}
		return all
	}
	c := k.config.Portal
	return []listener.Site{
		{Name: "portal-http", Most: 1024, Each: portalEach, Idle: 5 * time.Second, At: at(c.HTTPPort), Free: true, Handler: k.inside.portal.Plain()},
		{Name: "portal", Most: 1024, Each: portalEach, Idle: 15 * time.Second, At: at(c.HTTPSPort), Free: true, TLS: k.openTLS(), Handler: k.inside.portal.Secure()},
	}
}

// dnsSockets opens port 53 on the gateway's tunnel addresses, or takes over what the
// service manager opened, as "resolver-udp" and "resolver-tcp".
func (k *control) dnsSockets(ctx context.Context) (datagrams []*net.UDPConn, listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, c := range datagrams {
				c.Close()
			}
			for _, l := range listeners {
				l.Close()
			}
		}
	}()
	if datagrams, err = listener.InheritedPackets("resolver-udp"); err != nil {
		return nil, nil, err
	}
	if listeners, err = listener.Inherited("resolver-tcp"); err != nil {
		return datagrams, nil, err
	}
	ours := len(datagrams) == 0
	theirs := len(listeners) > 0
	for _, a := range k.tunnel {
		at := netip.AddrPortFrom(a, dnsPort)
		if ours {
			c, err := listener.UDP(ctx, "resolver", at)
			if err != nil {
				return datagrams, listeners, err
			}
			datagrams = append(datagrams, c)
		}
		if !theirs {
			l, err := listener.TCP(ctx, "resolver", at, true)
			if err != nil {
				return datagrams, listeners, err
			}
			listeners = append(listeners, l)
		}
	}
	k.log.Info("listening", "listener", "resolver", "addresses", fmt.Sprint(k.tunnel))
	return datagrams, listeners, nil
}
