package form

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Reach is one thing that a pool reaches: a network, or a name where Name is set.
type Reach struct {
	Name     string // lower case, with a dot in it and none at the end
	To       netip.Prefix
	Protocol string // "tcp", "udp", "icmp", or "" for every one
	From, Up uint16 // the first and the last port; zero: all
}

// ParseReach reads "WHERE [PROTOCOL[/PORT[-PORT]]]", like "192.0.2.10 tcp/443",
// "2001:db8::/64 udp/5000-5999", "10.0.0.0/8 icmp", "10.0.0.0/8" for everything, or by name,
// "mdm.example.com tcp/443".
func ParseReach(text string) (Reach, error) {
	fields := strings.Fields(text)
	if len(fields) == 0 || len(fields) > 2 {
		return Reach{}, errors.New("want an address or a name, and a protocol")
	}
	var r Reach
	if name := strings.ToLower(strings.TrimSuffix(fields[0], ".")); ReachName(name) == nil {
		r.Name = name
	} else if foreign(name) {
		return Reach{}, errForeign
	} else if err := r.network(fields[0]); err != nil {
		return Reach{}, err
	}
	if len(fields) == 1 {
		return r, nil
	}
	return r, r.service(fields[1])
}

func (r *Reach) network(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return errors.New("no address, network or host name in front")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p != p.Masked() {
		return errors.New("bits are set behind the length")
	}
	r.To = p
	return nil
}

func (r *Reach) service(s string) error {
	proto, ports, has := strings.Cut(s, "/")
	if (proto != "tcp" && proto != "udp" && proto != "icmp") || (has && proto == "icmp") {
		return errors.New("the protocol must be tcp, udp or icmp")
	}
	r.Protocol = proto
	if !has {
		return nil
	}
	first, last, ranged := strings.Cut(ports, "-")
	if !ranged {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	up, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || up < from {
		return errors.New("ports must be from 1 to 65535, the lower one first")
	}
	r.From, r.Up = uint16(from), uint16(up)
	return nil
}

// Check says what is wrong with what a pool reaches. A quarantine pool reaches management
// servers alone: it says by which protocol and ports, and has no network of everything.
func (r Reach) Check(quarantine bool) error {
	if r.Name != "" {
		if err := ReachName(r.Name); err != nil {
			return err
		}
	} else if err := Network(r.To); err != nil {
		return err
	}
	ports := r.From != 0 || r.Up != 0
	switch r.Protocol {
	case "tcp", "udp":
		if ports && (r.From == 0 || r.Up < r.From) {
			return fmt.Errorf("ports %d to %d: want the first and the last, both at least 1", r.From, r.Up)
		}
		if quarantine && (!ports || r.From == 1 && r.Up == 65535) {
			return errors.New("a quarantine pool must name the ports")
		}
	case "icmp", "":
		if ports {
			return fmt.Errorf("protocol %q has no ports", r.Protocol)
		}
		if quarantine && r.Protocol == "" {
			return errors.New("a quarantine pool must name the protocol")
		}
	default:
		return fmt.Errorf("protocol %q is not tcp, udp, icmp or empty", r.Protocol)
	}
	if quarantine && r.Name == "" && r.To.Bits() == 0 {
		return fmt.Errorf("a quarantine pool reaches management servers, not %s", r.To)
	}
	return nil
}

// ReachName says what is wrong with a host name in a reach; nil if nothing is. Names of
// other scripts are written as they are asked for (RFC 5890, A-label).
func ReachName(name string) error {
	if foreign(name) {
		return errForeign
	}
	labels := strings.Split(name, ".")
	if name != strings.ToLower(name) || len(name) > 253 || len(labels) < 2 {
		return fmt.Errorf("%q is no host name in lower case with a dot in it", name)
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is no host name: labels have 1 to 63 characters and no hyphen at an end", name)
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("%q is no host name: use letters, digits and hyphens", name)
			}
		}
	}
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		return fmt.Errorf("%q is neither a host name nor an address", name)
	}
	return nil
}

// Network says what is wrong with a network: IPv4 is written as IPv4, and no bit is set behind
// the length.
func Network(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("not a prefix")
	case p.Addr().Is4In6():
		return fmt.Errorf("%s is an IPv4 address in IPv6 clothes: write it as IPv4", p)
	case p != p.Masked():
		return fmt.Errorf("%s has bits beyond its length: write %s", p, p.Masked())
	}
	return nil
}

// notForHosts are the prefixes of unspecified, loopback, link-local, multicast and reserved
// addresses; ::/16 holds the mapped ones too (RFC 4291, sections 2.5 and 2.7).
var notForHosts = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/16"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// Hosts says why devices cannot have the addresses of a network; nil if they can.
func Hosts(p netip.Prefix) error {
	if err := Network(p); err != nil {
		return err
	}
	for _, bad := range notForHosts {
		if p.Overlaps(bad) {
			return fmt.Errorf("%s is not for hosts: it shares addresses with %s", p, bad)
		}
	}
	return nil
}

// Room says why a pool's network is too small: its own address, the gateway's, one device's,
// and the last, which IPv4 broadcasts to.
func Room(p netip.Prefix) error {
	if p.Addr().BitLen()-p.Bits() < 2 {
		return fmt.Errorf("%s has no room for a device: take a larger network", p)
	}
	return nil
}
