package config

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"lazaret/firewall"
	"lazaret/internal/form"
)

// Firewall is what the [firewall] section says besides the two lists of services.
type Firewall struct {
	Admin   []netip.Prefix // networks that must go on reaching the API, and SSH where it is open; empty: nobody asked for it
	Lockout bool           // the file may shut Admin out
	Proxy   *url.URL       // HTTP and HTTPS leave by this way only; nil: no proxy
}

// sshPort is what Admin keeps besides the API.
const sshPort = 22

// web are the services that a proxy stands for; udp/443 is HTTP/3.
var web = []firewall.Service{{Protocol: "tcp", Port: 80}, {Protocol: "tcp", Port: 443}, {Protocol: "udp", Port: 443}}

func (d *document) firewall() Firewall {
	f := Firewall{Admin: d.prefixes("firewall.admin"), Lockout: d.boolean("firewall.lockout", false)}
	if s := d.text("firewall.proxy", ""); s != "" {
		proxy, err := form.Proxy(s)
		if err != nil {
			d.fault("firewall.proxy", err.Error(), "write "+form.ProxyIs) // without s, which may hold a password
		}
		f.Proxy = proxy
	}
	return f
}

// HTTPProxy is for http.Transport.Proxy of every HTTPS client of the gateway's own: the
// configured proxy or none. The environment does not count.
func (f Firewall) HTTPProxy(*http.Request) (*url.URL, error) { return f.Proxy, nil }

// Outgoing is what the gateway itself may open: the listed services, and the proxy's
// address and port.
func (c Config) Outgoing() []firewall.Service {
	list := slices.Clone(c.Out)
	if c.Firewall.Proxy == nil {
		return list
	}
	at, err := netip.ParseAddrPort(c.Firewall.Proxy.Host)
	if err != nil {
		return list // a Config that Parse did not make: nothing more is let out
	}
	return append(list, firewall.Service{Protocol: "tcp", Port: at.Port(), From: []netip.Prefix{netip.PrefixFrom(at.Addr(), at.Addr().BitLen())}})
}

// checkFirewall finds what its keys say against each other and against the listeners.
func (d *document) checkFirewall(c Config) {
	for _, s := range c.Out {
		bypass := slices.ContainsFunc(web, func(w firewall.Service) bool { return w.Protocol == s.Protocol && w.Port == s.Port })
		if c.Firewall.Proxy != nil && bypass {
			d.fault("firewall.out", fmt.Sprintf("lets %s/%d out past firewall.proxy", s.Protocol, s.Port), "remove it: the proxy is the only way for HTTP and HTTPS")
		}
	}
	if c.Firewall.Lockout {
		return
	}
	for _, p := range c.Firewall.Admin {
		if !c.API.reachable(p) {
			d.fault("firewall.admin", fmt.Sprintf("%s would be shut out of the API by api.listen and api.from", p),
				"let the API listen on an address of that family that is not loopback, and list a network in api.from that holds this one; or write firewall.lockout = true if that is meant")
		}
		if sshShut(c.In, p) {
			d.fault("firewall.in", fmt.Sprintf("shuts %s out of tcp/%d, which others may reach", p, sshPort),
				"list a network that holds it, or write firewall.lockout = true if that is meant")
		}
	}
}

// reachable says whether all of p may reach the API: there is a listener in its family
// that others than this host can reach, and the list of networks holds p.
func (a API) reachable(p netip.Prefix) bool {
	open := slices.ContainsFunc(a.Listen, func(at netip.AddrPort) bool {
		return !at.Addr().IsLoopback() && at.Addr().Is4() == p.Addr().Is4()
	})
	return open && (len(a.From) == 0 || holds(a.From, p))
}

// sshShut says whether SSH is open to some, and not to p.
func sshShut(in []firewall.Service, p netip.Prefix) bool {
	listed := false
	for _, s := range in {
		if s.Protocol != "tcp" || s.Port != sshPort {
			continue
		}
		if len(s.From) == 0 || holds(s.From, p) {
			return false
		}
		listed = true
	}
	return listed
}

// holds says whether one of the networks holds all of p.
func holds(list []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(list, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
}

// services reads a list of services; word is "from" where others come in and "to" where
// the gateway goes out.
func (d *document) services(key, word string, def []string) []firewall.Service {
	remedy := fmt.Sprintf(`write services like "tcp/443", "udp/53 %s 192.0.2.53" or "icmp %[1]s 192.0.2.0/24, 2001:db8::/32"`, word)
	return each(d, key, def, remedy, func(s string) (firewall.Service, error) { return parseService(s, word) })
}

// parseService reads
//
//	service = what [ ("from" | "to") network { "," network } ]
//	what    = ("tcp" | "udp") "/" port | "icmp"
//	network = address | address "/" bits
//
// with one or more spaces between the words, and any around a comma.
func parseService(s, word string) (firewall.Service, error) {
	what, rest, limited := strings.Cut(strings.TrimSpace(s), " ")
	service, err := parseWhat(what)
	if err != nil || !limited {
		return service, err
	}
	said, list, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if said != word {
		return firewall.Service{}, fmt.Errorf("%q stands where %q should", said, word)
	}
	for _, item := range strings.Split(list, ",") {
		p, err := parseNetwork(strings.TrimSpace(item))
		if err != nil {
			return firewall.Service{}, err
		}
		service.From = append(service.From, p)
	}
	return service, nil
}

func parseWhat(s string) (firewall.Service, error) {
	if s == "icmp" {
		return firewall.Service{Protocol: "icmp"}, nil
	}
	proto, port, ok := strings.Cut(s, "/")
	if !ok || (proto != "tcp" && proto != "udp") {
		return firewall.Service{}, errors.New("no protocol and port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return firewall.Service{}, errors.New("port must be from 1 to 65535")
	}
	return firewall.Service{Protocol: firewall.Protocol(proto), Port: uint16(n)}, nil
}

// parseNetwork reads a network, or one address as a network of its own.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind its length; meant %s?", p, p.Masked())
	}
	return p, nil
}
