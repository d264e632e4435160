package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"lazaret/firewall"
)

// Resolver is how names are resolved: those that pools reach, and those that devices ask for.
type Resolver struct {
	Servers []netip.AddrPort // upstream; empty: those of /etc/resolv.conf
	Grace   time.Duration    // how long an address that left the answer stays open
	Stale   time.Duration    // how long one stays open while no server answers
	Own     []netip.Prefix   // public networks that names open only where a pool allows it
	Serve   bool             // answer devices, on port 53 of the gateway's tunnel addresses
}

// Portal is the page that tells a device's user where it stands, and its API (RFC 8908).
type Portal struct {
	Serve     bool
	Name      string // that the gateway's resolver leads to it
	HTTPPort  uint16 // on the gateway's tunnel addresses
	HTTPSPort uint16
	Help      string // whom to ask, in words
	Venue     string // URL about the place, for RFC 8908; empty: none
}

// dnsPort is where servers are asked, and devices answered.
const dnsPort = 53

func (d *document) resolver() Resolver {
	return Resolver{
		Servers: each(d, "resolver.servers", nil, `write addresses like "192.0.2.53" or "[2001:db8::53]:5353"`, server),
		Grace:   d.duration("resolver.grace", time.Hour, time.Minute, 7*24*time.Hour),
		Stale:   d.duration("resolver.stale", 24*time.Hour, time.Minute, 7*24*time.Hour),
		Own:     d.prefixes("resolver.own"),
		Serve:   d.boolean("resolver.serve", false),
	}
}

func server(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), dnsPort), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err == nil && a.Port() == 0 {
		err = fmt.Errorf("port must be from 1 to 65535")
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err
}

func (d *document) portal() Portal {
	p := Portal{
		Serve:     d.boolean("portal.serve", false),
		Name:      strings.ToLower(d.text("portal.name", "lazaret.internal")),
		HTTPPort:  uint16(d.number("portal.http_port", 80, 1, 65535)),
		HTTPSPort: uint16(d.number("portal.https_port", 8445, 1, 65535)),
		Help:      d.text("portal.help", ""),
		Venue:     d.text("portal.venue", ""),
	}
	dotted := func(s string) bool { return earlierName(s) && strings.Contains(s, ".") }
	if d.tolerated("portal.name", p.Name, portalName, dotted) != nil {
		d.fault("portal.name", fmt.Sprintf("is %q", p.Name), "write a host name with a dot in it, like lazaret.internal")
	}
	if u, err := url.Parse(p.Venue); p.Venue != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		d.fault("portal.venue", fmt.Sprintf("is %q", p.Venue), `write a URL like "https://www.example.com/"`)
	}
	if len(p.Help) > 1000 {
		d.fault("portal.help", fmt.Sprintf("has %d bytes", len(p.Help)), "write 1000 at most")
	}
	return p
}

// portsInside finds TCP ports of the gateway's tunnel addresses that are given twice; what
// listens on every address listens there, too.
func (d *document) portsInside(c Config) {
	taken := make(map[uint16]string)
	for key, list := range map[string][]netip.AddrPort{"enroll.listen": c.Enroll.Listen, "api.listen": c.API.Listen} {
		for _, at := range list {
			if at.Addr().IsUnspecified() {
				taken[at.Port()] = key
			}
		}
	}
	if c.Resolver.Serve {
		taken[dnsPort] = "the resolver's"
	}
	take := func(key string, port uint16) {
		if by, ok := taken[port]; ok {
			d.fault(key, fmt.Sprintf("is %d, as %s", port, by), "give each a port of its own")
		}
		taken[port] = key
	}
	take("tunnel.agent_port", c.Tunnel.AgentPort)
	if c.Portal.Serve {
		take("portal.http_port", c.Portal.HTTPPort)
		take("portal.https_port", c.Portal.HTTPSPort)
	}
}

// Inside are the ports that devices in the tunnel reach on the gateway, besides the agent API.
func (c Config) Inside() []firewall.Service {
	var all []firewall.Service
	if c.Resolver.Serve {
		all = append(all, firewall.Service{Protocol: "udp", Port: dnsPort}, firewall.Service{Protocol: "tcp", Port: dnsPort})
	}
	if c.Portal.Serve {
		all = append(all, firewall.Service{Protocol: "tcp", Port: c.Portal.HTTPPort}, firewall.Service{Protocol: "tcp", Port: c.Portal.HTTPSPort})
	}
	return all
}

// Upstream are the configured servers as services that the gateway opens.
func (c Config) Upstream() []firewall.Service {
	var all []firewall.Service
	for _, s := range c.Resolver.Servers {
		if s.Addr().IsLoopback() {
			continue
		}
		for _, p := range []firewall.Protocol{"udp", "tcp"} {
			all = append(all, firewall.Service{Protocol: p, Port: s.Port(), From: []netip.Prefix{netip.PrefixFrom(s.Addr(), s.Addr().BitLen())}})
		}
	}
	return all
}
