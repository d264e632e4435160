package leak

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Message types of neighbour discovery (RFC 4861, section 4).
const (
	routerSolicitation  = 133
	routerAdvertisement = 134
	solicitation        = 135
	advertisement       = 136
	redirected          = 137
)

// neighbours are messages of neighbour discovery through the tunnel. There is no ARP in
// this list, for a tunnel has no link layer: WireGuard carries packets that begin with
// the version 4 or 6 and nothing else, on its way in and out.
func neighbours() []Probe {
	all, routers := parse("ff02::1"), parse("ff02::2")
	body := func(s Shot, head ...byte) []byte {
		// The message is in an option that nobody knows, of six times eight bytes.
		return slices.Concat(head, []byte{253, 6, 0, 0, 0, 0, 0, 0}, s.msg()[:40])
	}
	about := func(a netip.Addr) []byte { return a.AsSlice() }
	var list []Probe
	for _, src := range []target{{"own address", func(w World) netip.Addr { return w.Own }}, {"link-local address", func(World) netip.Addr { return parse("fe80::1234") }},
		{"gateway's link-local address", func(World) netip.Addr { return parse("fe80::1") }}} {
		add := func(name string, kind byte, to func(World) netip.Addr, head func(World) []byte) {
			list = append(list, Probe{Group: "neighbour discovery", Name: name + ", from " + src.name, Only: 6, Make: func(w World, s Shot) [][]byte {
				return one(ends{src: src.at(w), dst: to(w)}.neighbour(kind, body(s, head(w)...)))
			}})
		}
		group := func(a netip.Addr) func(World) netip.Addr { return func(World) netip.Addr { return a } }
		gateway := func(w World) netip.Addr { return w.Inside[0] }
		add("solicitation of a device", solicitation, group(all), func(w World) []byte { return about(w.Victim) })
		add("solicitation of the gateway", solicitation, gateway, func(w World) []byte { return about(w.Inside[0]) })
		add("advertisement of a device to all", advertisement, group(all), func(w World) []byte { return about(w.Victim) })
		add("advertisement of a device to the gateway", advertisement, gateway, func(w World) []byte { return about(w.Victim) })
		add("router solicitation", routerSolicitation, group(routers), func(World) []byte { return nil })
		add("router advertisement", routerAdvertisement, group(all), func(World) []byte { return make([]byte, 8) })
		add("redirect to the gateway", redirected, gateway, func(w World) []byte { return append(about(w.Own), about(w.Intranet)...) })
	}
	return list
}

// groups are destinations that are many.
func groups() []Probe {
	var list []Probe
	for _, g := range []struct {
		name, addr, note string
		only             int
		port             uint16
	}{
		{"all hosts", "224.0.0.1", "", 4, 9}, {"mdns", mdns4, "", 4, 5353}, {"ssdp", ssdp4, "", 4, 1900},
		{"limited broadcast", "255.255.255.255", "", 4, 67}, {"quarantine pool's broadcast", "10.66.255.255", "", 4, 9},
		{"staff pool's broadcast", "10.67.255.255", "", 4, 9},
		{"intranet's broadcast", "10.10.0.255", "the control forwards it (net.ipv4.conf.*.bc_forwarding=1), as the gateway does in the lab; the kernel does not by default", 4, 9},
		{"all nodes", "ff02::1", "", 6, 9}, {"mdns", mdns6, "", 6, 5353}, {"dhcp servers", dhcp6, "", 6, 547},
	} {
		list = append(list, Probe{Group: "multicast", Name: g.name + ", udp", Only: g.only, Note: g.note, Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, parse(g.addr), g.port).udp(s.msg()))
		}}, Probe{Group: "multicast", Name: g.name + ", echo", Only: g.only, Note: g.note, Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, parse(g.addr), 0).echo(s.msg()))
		}})
	}
	return append(list,
		Probe{Group: "multicast", Name: "membership report, IGMP", Only: 4, Make: func(w World, s Shot) [][]byte {
			b := slices.Concat([]byte{0x16, 0, 0, 0}, parse(mdns4).AsSlice(), s.msg())
			c := sum(b)
			b[2], b[3] = byte(c>>8), byte(c)
			return one(ends{src: w.Own, dst: parse(mdns4)}.ipHop(unix.IPPROTO_IGMP, 1, b))
		}},
		Probe{Group: "multicast", Name: "membership query, MLD", Only: 6, Make: func(w World, s Shot) [][]byte {
			return one(ends{src: w.Own, dst: parse("ff02::1")}.icmp(0, 130, 0, 0, append(make([]byte, 16), s.msg()...)))
		}})
}

// hairpins try the gateway's translation: another device's masqueraded flow stands behind
// a port of the gateway's outside address.
func hairpins() []Probe {
	return []Probe{
		{Group: "hairpin", Name: "another device's mapping", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Mapping.Addr(), w.Mapping.Port()).udp(s.msg()))
		}, Note: "the control has no translation: there the gateway itself takes it in"},
		{Group: "hairpin", Name: "another device's mapping, as its server", Make: func(w World, s Shot) [][]byte {
			return one(w.from(w.Mapped.Addr(), w.Mapped.Port(), w.Mapping.Addr(), w.Mapping.Port()).udp(s.msg()))
		}, Note: "the control has no translation: there the gateway itself takes it in"},
		{Group: "hairpin", Name: "another device's mapping, over tcp", Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Mapping.Addr(), w.Mapping.Port()).tcp(ack, s.msg()))
		}},
	}
}

// around are packets that pass the tunnel by, to the gateway's outer side.
func around() []Probe {
	var list []Probe
	for _, src := range []target{{"outer address", func(w World) netip.Addr { return w.Here }}, {"own tunnel address", func(w World) netip.Addr { return w.Own }},
		{"own full address", func(w World) netip.Addr { return w.OwnFull }}, {"a routed device's address", func(w World) netip.Addr { return w.Victim }}} {
		for _, t := range []target{forbidden[0], forbidden[2], forbidden[3], forbidden[4], {"management server, allowed port", func(w World) netip.Addr { return w.Management }},
			{"gateway, inner", func(w World) netip.Addr { return w.Inside[0] }}, {"gateway, intranet side", func(w World) netip.Addr { return w.Outside[2] }}} {
			list = append(list, Probe{Group: "past the tunnel", Name: src.name + " to " + t.name + ", udp", Way: Clear, Make: func(w World, s Shot) [][]byte {
				return one(ends{src.at(w), t.at(w), s.port, allowedUDP}.udp(s.msg()))
			}}, Probe{Group: "past the tunnel", Name: src.name + " to " + t.name + ", tcp", Way: Clear, Make: func(w World, s Shot) [][]byte {
				return one(ends{src.at(w), t.at(w), s.port, agentPort}.tcp(syn, s.msg()))
			}})
		}
	}
	return append(list,
		Probe{Group: "past the tunnel", Name: "a routed device's address, in its open flow", Way: Clear, Make: func(w World, s Shot) [][]byte {
			return one(w.Flow.udp(s.msg()))
		}},
		Probe{Group: "past the tunnel", Name: "own tunnel address to gateway, outer, open port", Way: Clear, Make: func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Outside[0], outsideUDP).udp(s.msg()))
		}})
}

// inwards are packets that servers send to the device without having been asked.
func inwards() []Probe {
	var list []Probe
	for _, way := range []Way{Management, Intranet} {
		src := func(w World) netip.Addr {
			if way == Management {
				return w.Management
			}
			return w.Intranet
		}
		for _, dst := range []target{{"quarantine address", func(w World) netip.Addr { return w.Own }}, {"full address", func(w World) netip.Addr { return w.OwnFull }}} {
			add := func(name string, make func(e ends, s Shot) []byte) {
				list = append(list, Probe{Group: "from the " + string(way), Name: name + ", to the " + dst.name, Way: way, Make: func(w World, s Shot) [][]byte {
					return one(make(ends{src(w), dst.at(w), allowedUDP, s.port}, s))
				}})
			}
			add("udp", func(e ends, s Shot) []byte { return e.udp(s.msg()) })
			add("tcp", func(e ends, s Shot) []byte { e.sport = servicePort; return e.tcp(syn, s.msg()) })
			add("tcp answer", func(e ends, s Shot) []byte { e.sport = servicePort; return e.tcp(syn|ack, s.msg()) })
			add("ftp data", func(e ends, s Shot) []byte { e.sport = 20; return e.tcp(syn, s.msg()) })
			add("icmp", func(e ends, s Shot) []byte { return e.echo(s.msg()) })
			add("icmp error", func(e ends, s Shot) []byte {
				return e.icmp(3, 1, 3, 0, append(ends{e.dst, e.src, 50001, 50002}.quote(17), s.msg()...))
			})
			add("fragments", func(e ends, s Shot) []byte { return e.pieces(17, firstPiece, e.long(s))[1] })
		}
	}
	return list
}
