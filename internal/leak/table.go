package leak

import (
	"fmt"
	"net/netip"
	"slices"
)

// Probes is the table: every attack that is tried in every stage.
func Probes() []Probe {
	return slices.Concat(plain(), ports(), oddSegments(), protocols(), names(), fragments4(), fragments(), headers(),
		sourceRoutes(), quotes(), forged(), neighbours(), groups(), hairpins(), around(), inwards())
}

// one makes a list of one packet.
func one(b []byte) [][]byte { return [][]byte{b} }

// plain are the protocols of every day, to every forbidden destination.
func plain() []Probe {
	var list []Probe
	for _, t := range forbidden {
		list = append(list,
			Probe{Group: "tcp", Name: t.name, Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), servicePort).tcp(syn, s.msg())) }},
			Probe{Group: "udp", Name: t.name, Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), servicePort+1).udp(s.msg())) }},
			Probe{Group: "icmp", Name: t.name, Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), 0).echo(s.msg())) }},
			Probe{Group: "quic", Name: t.name, Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), servicePort).udp(initial(s))) }},
		)
	}
	for _, port := range []uint16{22, 80, servicePort - 1, servicePort + 1, 8443, 65535} {
		list = append(list, Probe{Group: "tcp", Name: fmt.Sprintf("management server, port %d", port), Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Management, port).tcp(syn, s.msg()))
		}})
	}
	for _, port := range []uint16{53, servicePort, allowedUDP - 1, allowedUDP + 1} {
		list = append(list, Probe{Group: "udp", Name: fmt.Sprintf("management server, port %d", port), Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Management, port).udp(s.msg()))
		}})
	}
	return append(list,
		Probe{Group: "quic", Name: "management server", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Management, servicePort).udp(initial(s)))
		}},
		Probe{Group: "icmp", Name: "management server", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Management, 0).echo(s.msg()))
		}})
}

// initial is a datagram like QUIC's first: a long header, version 1, padded to 1,200
// bytes (RFC 9000, sections 14.1 and 17.2.2).
func initial(s Shot) []byte {
	b := append([]byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0}, s.msg()...)
	return append(b, make([]byte, max(0, 1200-len(b)))...)
}

// ports are the gateway's own, on every address it has.
func ports() []Probe {
	var list []Probe
	for _, t := range own() {
		for _, port := range []uint16{22, servicePort, apiPort} {
			list = append(list, Probe{Group: "gateway", Name: fmt.Sprintf("%s, tcp/%d", t.name, port), Make: func(w World, s Shot) [][]byte {
				return one(w.to(s, t.at(w), port).tcp(syn, s.msg()))
			}})
		}
		for _, port := range []uint16{53, servicePort, outsideUDP, tunnelPort} {
			list = append(list, Probe{Group: "gateway", Name: fmt.Sprintf("%s, udp/%d", t.name, port), Make: func(w World, s Shot) [][]byte {
				return one(w.to(s, t.at(w), port).udp(s.msg()))
			}})
		}
		list = append(list, Probe{Group: "gateway", Name: t.name + ", icmp", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, t.at(w), 0).echo(s.msg()))
		}})
	}
	// The agent's API is open to devices on the inner addresses, and on no other.
	for _, t := range own()[3:] {
		list = append(list, Probe{Group: "gateway", Name: t.name + ", agent's port", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, t.at(w), agentPort).tcp(syn, s.msg()))
		}})
	}
	return append(list, Probe{Group: "gateway", Name: "inner, agent's port over udp", Make: func(w World, s Shot) [][]byte {
		return one(w.to(s, w.Inside[0], agentPort).udp(s.msg()))
	}})
}

// oddSegments are segments of connections that do not exist, which connection tracking
// may take for the middle of one.
func oddSegments() []Probe {
	var list []Probe
	for name, flags := range map[string]byte{
		"ack": ack, "syn ack": syn | ack, "push ack": psh | ack, "fin ack": fin | ack, "rst": rst,
		"none": 0, "christmas": fin | psh | urg, "syn fin": syn | fin,
	} {
		list = append(list, Probe{Group: "tcp flags", Name: name, Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Intranet, servicePort).tcp(flags, s.msg()))
		}})
	}
	slices.SortFunc(list, byName)
	return append(list,
		Probe{Group: "tcp flags", Name: "answer from an allowed port", Make: func(w World, s Shot) [][]byte {
			return one(ends{w.Own, w.Intranet, servicePort, s.port}.tcp(syn|ack, s.msg()))
		}},
		Probe{Group: "udp", Name: "wrong checksum", Make: func(w World, s Shot) [][]byte {
			b := w.to(s, w.Intranet, allowedUDP).udp(s.msg())
			b[len(b)-len(s.msg())-1] ^= 0x55
			return one(b)
		}, Note: "a router without connection tracking forwards it"},
		Probe{Group: "udp", Name: "from port 53", Make: func(w World, s Shot) [][]byte {
			return one(ends{w.Own, w.Intranet, 53, s.port}.udp(s.msg()))
		}},
		Probe{Group: "udp", Name: "full pool's address", Make: func(w World, s Shot) [][]byte {
			return one(ends{w.OwnFull, w.Intranet, s.port, allowedUDP}.udp(s.msg()))
		}},
		Probe{Group: "tcp", Name: "full pool's address", Make: func(w World, s Shot) [][]byte {
			return one(ends{w.OwnFull, w.Intranet, s.port, servicePort}.tcp(syn, s.msg()))
		}})
}

func byName(a, b Probe) int {
	if a.Name < b.Name {
		return -1
	}
	return 1
}

// protocols are those that have no ports, and tunnels in the tunnel.
func protocols() []Probe {
	var list []Probe
	for _, p := range []struct {
		name   string
		number byte
	}{{"esp", 50}, {"gre", 47}, {"sctp", 132}, {"udp-lite", 136}, {"experimental", 253}} {
		list = append(list,
			Probe{Group: "protocol", Name: p.name + " to the intranet", Make: func(w World, s Shot) [][]byte {
				return one(w.to(s, w.Intranet, 0).ip(p.number, s.msg()))
			}},
			Probe{Group: "protocol", Name: p.name + " to the management server", Make: func(w World, s Shot) [][]byte {
				return one(w.to(s, w.Management, 0).ip(p.number, s.msg()))
			}},
			Probe{Group: "protocol", Name: p.name + " to the gateway", Make: func(w World, s Shot) [][]byte {
				return one(w.to(s, w.Inside[0], 0).ip(p.number, s.msg()))
			}})
	}
	for _, t := range []target{forbidden[3], {"gateway", func(w World) netip.Addr { return w.Inside[0] }}, {"management server", func(w World) netip.Addr { return w.Management }}} {
		list = append(list,
			Probe{Group: "protocol", Name: "ipv4 within, to the " + t.name, Make: func(w World, s Shot) [][]byte {
				inner := ends{parse("10.66.0.9"), parse("10.10.0.10"), s.port, servicePort}
				return one(w.to(s, t.at(w), 0).ip(4, inner.udp(s.msg())))
			}},
			Probe{Group: "protocol", Name: "ipv6 within, to the " + t.name, Make: func(w World, s Shot) [][]byte {
				inner := ends{parse("fd66::9"), parse("fd10::a"), s.port, servicePort}
				return one(w.to(s, t.at(w), 0).ip(41, inner.udp(s.msg())))
			}})
	}
	return append(list,
		Probe{Group: "icmp", Name: "time to live of one", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Intranet, 33434).ipHop(17, 1, w.to(s, w.Intranet, 33434).datagram(s.msg())))
		}, Note: "the gateway's own answer is the leak: the control says that the time is up"},
		// IPv6 alone: IPv4's answer shares its limit with all other ICMP errors to the device,
		// so that the control does not always give it. A time to live of one stands for both.
		Probe{Group: "icmp", Name: "no route", Only: 6, Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Nowhere, 9).udp(s.msg()))
		}, Note: "the gateway's own answer is the leak: the control says that there is no route"},
		Probe{Group: "icmp", Name: "time stamp, name", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Intranet, 0).icmp(13, 139, 0, 1, s.msg()))
		}})
}

// names are questions to resolvers.
func names() []Probe {
	var list []Probe
	for _, t := range append([]target{{"management server", func(w World) netip.Addr { return w.Management }}, {"gateway, outer", func(w World) netip.Addr { return w.Outside[0] }},
		{"gateway, inner", func(w World) netip.Addr { return w.Inside[0] }}}, forbidden[2:]...) {
		list = append(list,
			Probe{Group: "dns", Name: t.name + ", udp", Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), 53).udp(question(s))) }},
			Probe{Group: "dns", Name: t.name + ", tcp", Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), 53).tcp(syn, s.msg())) }},
			Probe{Group: "dns", Name: t.name + ", tls", Make: func(w World, s Shot) [][]byte { return one(w.to(s, t.at(w), 853).tcp(syn, s.msg())) }},
		)
	}
	return list
}

// question asks for the address of x.example (RFC 1035, section 4); the message follows it.
func question(s Shot) []byte {
	q := append([]byte{byte(s.port >> 8), byte(s.port), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x01x\x07example\x00\x00\x01\x00\x01"...)
	return append(q, s.msg()...)
}
