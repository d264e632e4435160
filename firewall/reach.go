package firewall

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

var families = []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}

// up are the rules that let a device reach what it may: the packet's own destination
// decides. An ICMP error of the device passes when the flow it quotes is one it may
// have, and goes to the flow's other end. What passes by its own destination may be remembered.
func (x Reach) up() []*rule { return x.upFrom(netip.Prefix{}, toRemember) }

func toRemember(x *rule) *rule { return x.enter(rememberChain) }

// upFrom is up for sources within near only; the zero Prefix is any source. A packet that
// may pass by its own destination ends as end says.
func (x Reach) upFrom(near netip.Prefix, end func(*rule) *rule) []*rule {
	f := familyOf(x.To.Addr())
	open, fault := new(rule), new(rule)
	if near.IsValid() {
		open.addr(source, near)
		fault.addr(source, near)
	}
	switch x.Protocol {
	case "icmp":
		open.icmp(f, echoRequest[f]).addr(destination, x.To)
	case "":
		return []*rule{end(open.addr(destination, x.To))}
	default:
		from, up := x.ports()
		open.addr(destination, x.To).port(x.Protocol, from, up)
	}
	fault.state("related").direction(original).icmp(f, narrowErrors[f]).addr(destination, x.To)
	return []*rule{end(open), x.quoted(fault).accept()}
}

// down are the rules for what comes back: the packet's own source, and the flow as
// the device opened it. A bare "established" would keep alive what placement closed.
func (x Reach) down() []*rule {
	f := familyOf(x.To.Addr())
	answer := new(rule)
	switch x.Protocol {
	case "icmp":
		answer.icmp(f, echoReply[f])
	case "":
	default:
		answer.l4proto(x.Protocol)
	}
	answer.addr(source, x.To).state("established").direction(reply).originally(x.To)
	if x.Protocol == "tcp" || x.Protocol == "udp" {
		answer.originalPort(x.ports())
	}
	fault := new(rule).state("related").direction(reply).icmp(f, narrowErrors[f])
	return []*rule{answer.accept(), x.quoted(fault).accept()}
}

// quoted matches the flow that an ICMP error quotes against x.
func (x Reach) quoted(fault *rule) *rule {
	fault.originally(x.To)
	if x.Protocol != "" {
		fault.flowProtocol(x.Protocol, familyOf(x.To.Addr()))
	}
	if x.Protocol == "tcp" || x.Protocol == "udp" {
		fault.originalPort(x.ports())
	}
	return fault
}

// ports are the first and the last port; none given means all, which Check allows
// full pools only.
func (x Reach) ports() (from, up uint16) {
	switch {
	case x.From == 0 && x.Up == 0:
		return 0, 65535
	case x.Up == 0:
		return x.From, x.From
	default:
		return x.From, x.Up
	}
}

// visits are the rules that let devices reach s at one of the gateway's addresses.
func (s Service) visits(at netip.Addr) []*rule {
	if len(s.From) == 0 {
		return s.reach(at).upFrom(netip.Prefix{}, (*rule).accept)
	}
	var rules []*rule
	for _, p := range s.From {
		if familyOf(p.Addr()) == familyOf(at) {
			rules = append(rules, s.reach(at).upFrom(p, (*rule).accept)...)
		}
	}
	return rules
}

// reach is a service seen as something to be reached at one of the gateway's addresses.
func (s Service) reach(at netip.Addr) Reach {
	return Reach{To: netip.PrefixFrom(at, at.BitLen()), Protocol: s.Protocol, From: s.Port, Up: s.Port}
}

// open are the rules for a service found by its port alone, on whatever address; far
// is the side on which From stands.
func (s Service) open(far side) []*rule {
	var rules []*rule
	add := func(bind func(*rule)) {
		if s.Protocol != "icmp" {
			r := new(rule)
			bind(r)
			rules = append(rules, r.port(s.Protocol, s.Port, s.Port).accept())
		}
	}
	if len(s.From) == 0 {
		add(func(*rule) {})
		for _, f := range families {
			if s.Protocol == "icmp" {
				rules = append(rules, new(rule).icmp(f, echoRequest[f]).accept())
			}
		}
	}
	for _, p := range s.From {
		add(func(r *rule) { r.addr(far, p) })
		if s.Protocol == "icmp" {
			f := familyOf(p.Addr())
			rules = append(rules, new(rule).icmp(f, echoRequest[f]).addr(far, p).accept())
		}
	}
	return rules
}
