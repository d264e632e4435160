package leak

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The first piece of a datagram must bear the whole message; a tiny one bears 8 bytes of
// the transport header and the message stands in the second.
const (
	firstPiece = 64
	tinyPiece  = 8
)

// long is a datagram whose two pieces each bear the message.
func (e ends) long(s Shot) []byte {
	body := append(s.msg()[:40:40], make([]byte, 16)...) // 8 + 56 = firstPiece
	return e.datagram(append(body, s.msg()...))
}

// fragments are cut packets, in both families.
func fragments() []Probe {
	udp, tcp := byte(unix.IPPROTO_UDP), byte(unix.IPPROTO_TCP)
	var list []Probe
	for _, t := range append([]target{{"management server's other port", func(w World) netip.Addr { return w.Management }},
		{"gateway", func(w World) netip.Addr { return w.Inside[0] }}}, forbidden[2:]...) {
		only := 0
		if t.name == "gateway" {
			only = 4 // IPv6 takes no first fragment without the whole transport header (RFC 7112)
		}
		list = append(list,
			Probe{Group: "fragments", Name: t.name, Make: func(w World, s Shot) [][]byte {
				e := w.to(s, t.at(w), allowedUDP+1)
				return e.pieces(udp, firstPiece, e.long(s))
			}},
			Probe{Group: "fragments", Name: t.name + ", tiny", Only: only, Make: func(w World, s Shot) [][]byte {
				e := w.to(s, t.at(w), servicePort+1)
				return e.pieces(tcp, tinyPiece, e.segment(syn, s.msg()))
			}},
			Probe{Group: "fragments", Name: t.name + ", backwards", Make: func(w World, s Shot) [][]byte {
				e := w.to(s, t.at(w), allowedUDP+1)
				list := e.pieces(udp, firstPiece, e.long(s))
				slices.Reverse(list)
				return list
			}})
	}
	return append(list,
		Probe{Group: "fragments", Name: "first alone", Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return e.pieces(udp, firstPiece, e.long(s))[:1]
		}},
		Probe{Group: "fragments", Name: "last alone", Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return e.pieces(udp, firstPiece, e.long(s))[1:]
		}},
		Probe{Group: "fragments", Name: "last alone, management server", Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Management, allowedUDP)
			return e.pieces(udp, firstPiece, e.long(s))[1:]
		}},
		Probe{Group: "fragments", Name: "overlap that changes the port", Make: func(w World, s Shot) [][]byte {
			// Allowed at first sight: the second piece overwrites the header with another port.
			e, f := w.to(s, w.Management, allowedUDP), w.to(s, w.Management, allowedUDP+1)
			return [][]byte{e.piece(udp, 0, true, e.long(s)[:firstPiece]), e.piece(udp, 0, true, f.long(s)[:firstPiece]), e.piece(udp, firstPiece, false, f.long(s)[firstPiece:])}
		}, Note: "reassembly drops what overlaps; the control forwards each piece"},
		Probe{Group: "fragments", Name: "atomic", Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return one(e.piece(udp, 0, false, e.datagram(s.msg())))
		}})
}

// fragments4 are what only IPv4 can do.
func fragments4() []Probe {
	return []Probe{
		{Group: "fragments", Name: "with a source route", Only: 4, Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			f := ip4Fields{next: 17, hops: 64, id: s.port, fragment: 0x2000, options: hops(131, w.Internet)}
			g := ip4Fields{next: 17, hops: 64, id: s.port, fragment: firstPiece / 8}
			return [][]byte{e.ip4(f, e.long(s)[:firstPiece]), e.ip4(g, e.long(s)[firstPiece:])}
		}},
		{Group: "options", Name: "router alert", Only: 4, Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return one(e.ip4(ip4Fields{next: 17, hops: 64, options: []byte{148, 4, 0, 0}}, e.datagram(s.msg())))
		}},
		{Group: "options", Name: "record route", Only: 4, Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return one(e.ip4(ip4Fields{next: 17, hops: 64, options: []byte{7, 7, 4, 0, 0, 0, 0}}, e.datagram(s.msg())))
		}},
	}
}

// headers are IPv6 extension headers before an ordinary datagram.
func headers() []Probe {
	udp := byte(unix.IPPROTO_UDP)
	var list []Probe
	for _, t := range []target{forbidden[0], forbidden[3], forbidden[4], {"gateway", func(w World) netip.Addr { return w.Inside[0] }},
		{"management server's other port", func(w World) netip.Addr { return w.Management }}} {
		for _, h := range []struct {
			name string
			kind byte
			data [6]byte
		}{{"hop by hop", unix.IPPROTO_HOPOPTS, padding}, {"destination options", unix.IPPROTO_DSTOPTS, padding},
			{"routing, none left", unix.IPPROTO_ROUTING, [6]byte{253, 0}}} {
			list = append(list, Probe{Group: "extension headers", Name: h.name + ", " + t.name, Only: 6, Make: func(w World, s Shot) [][]byte {
				e := w.to(s, t.at(w), allowedUDP+1)
				return one(e.ip(h.kind, extended(udp, h.data, e.datagram(s.msg()))))
			}})
		}
	}
	at := func(name string, make func(World, Shot) [][]byte, note string) Probe {
		return Probe{Group: "extension headers", Name: name, Only: 6, Make: make, Note: note}
	}
	return append(list,
		at("three in a row", func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			inner := extended(udp, padding, e.datagram(s.msg()))
			inner = extended(unix.IPPROTO_DSTOPTS, [6]byte{253, 0}, inner)
			return one(e.ip(unix.IPPROTO_HOPOPTS, extended(unix.IPPROTO_ROUTING, padding, inner)))
		}, ""),
		at("fragment after options", func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			frag := append([]byte{udp, 0, 0, 1, 0, 0}, byte(s.port>>8), byte(s.port))
			first := extended(unix.IPPROTO_FRAGMENT, padding, slices.Concat(frag, e.long(s)[:firstPiece]))
			last := slices.Clone(frag)
			last[3] = firstPiece
			return [][]byte{e.ip(unix.IPPROTO_DSTOPTS, first), e.ip(unix.IPPROTO_DSTOPTS, extended(unix.IPPROTO_FRAGMENT, padding, slices.Concat(last, e.long(s)[firstPiece:])))}
		}, ""),
		at("fragment that begins with options", func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return e.pieces(unix.IPPROTO_DSTOPTS, tinyPiece, extended(udp, padding, e.datagram(s.msg())))
		}, ""),
		at("no next header", func(w World, s Shot) [][]byte {
			return one(w.to(s, w.Intranet, 0).ip(unix.IPPROTO_NONE, s.msg()))
		}, ""),
		at("routing header to an allowed port", func(w World, s Shot) [][]byte {
			e := w.to(s, w.Management, allowedUDP)
			return one(e.ip(unix.IPPROTO_ROUTING, extended(udp, [6]byte{253, 0}, e.datagram(s.msg()))))
		}, "names further hops, so that no destination is the last"),
		at("segments through the gateway to the intranet", func(w World, s Shot) [][]byte {
			e, last := w.to(s, w.Inside[0], allowedUDP), w.to(s, w.Intranet, allowedUDP)
			return one(e.ip(unix.IPPROTO_ROUTING, segments(udp, w.Intranet, w.Inside[0], last.datagram(s.msg()))))
		}, "control and gateway both take segment routes (net.ipv6.conf.*.seg6_enabled=1), which the kernel refuses by default"),
		at("segments through the management server", func(w World, s Shot) [][]byte {
			e, last := w.to(s, w.Management, allowedUDP), w.to(s, w.Intranet, allowedUDP)
			return one(e.ip(unix.IPPROTO_ROUTING, segments(udp, w.Intranet, w.Management, last.datagram(s.msg()))))
		}, ""))
}

// sourceRoutes are IPv4's: through the gateway to what is forbidden, and through what is
// allowed to what is not.
func sourceRoutes() []Probe {
	var list []Probe
	for name, kind := range map[string]byte{"loose": 131, "strict": 137} {
		for _, via := range []target{{"gateway", func(w World) netip.Addr { return w.Inside[0] }}, {"gateway's outer address", func(w World) netip.Addr { return w.Outside[0] }}} {
			list = append(list, Probe{Group: "source route", Name: name + ", " + via.name + " to the intranet", Only: 4, Make: func(w World, s Shot) [][]byte {
				e := w.to(s, via.at(w), allowedUDP)
				return one(e.ip4(ip4Fields{next: 17, hops: 64, options: hops(kind, w.Intranet)}, unsummed(w.to(s, w.Intranet, allowedUDP).datagram(s.msg()))))
			}, Note: "control and gateway both take source routes (net.ipv4.conf.*.accept_source_route=1), which the kernel refuses by default"})
		}
		list = append(list, Probe{Group: "source route", Name: name + ", intranet's address", Only: 4, Make: func(w World, s Shot) [][]byte {
			e := w.to(s, w.Intranet, allowedUDP)
			return one(e.ip4(ip4Fields{next: 17, hops: 64, options: hops(kind, w.Internet)}, unsummed(e.datagram(s.msg()))))
		}})
	}
	list = append(list, Probe{Group: "source route", Name: "loose, through the management server's allowed port", Only: 4, Make: func(w World, s Shot) [][]byte {
		e := w.to(s, w.Management, allowedUDP)
		return one(e.ip4(ip4Fields{next: 17, hops: 64, options: hops(131, w.Intranet)}, unsummed(w.to(s, w.Intranet, allowedUDP).datagram(s.msg()))))
	}, Note: "names a further hop behind an allowed one, as a routing header does in IPv6"})
	slices.SortFunc(list, byName)
	return list
}

// unsummed takes the checksum out of a datagram, which IPv4 allows (RFC 768): it is right
// for every destination that the datagram comes to have.
func unsummed(datagram []byte) []byte {
	datagram[6], datagram[7] = 0, 0
	return datagram
}

// quotes are ICMP errors about a flow that is another device's, and routed.
func quotes() []Probe {
	udp, tcp := byte(unix.IPPROTO_UDP), byte(unix.IPPROTO_TCP)
	var list []Probe
	for _, k := range []struct {
		name         string
		kind4, kind6 byte
		code4, code6 byte
		rest         uint32
	}{
		{"unreachable", 3, 1, 3, 4, 0}, {"too big", 3, 2, 4, 0, 1280}, {"time exceeded", 11, 3, 0, 0, 0},
		{"parameter problem", 12, 4, 0, 0, 0}, {"redirect", 5, 137, 1, 0, 0},
	} {
		code := func(w World) byte {
			if w.v6() {
				return k.code6
			}
			return k.code4
		}
		add := func(name string, src, dst func(World) netip.Addr, quoted func(World) []byte) {
			list = append(list, Probe{Group: "icmp error", Name: k.name + ", " + name, Make: func(w World, s Shot) [][]byte {
				body := append(quoted(w), s.msg()...)
				return one(ends{src: src(w), dst: dst(w)}.icmp(k.kind4, k.kind6, code(w), k.rest, body))
			}})
		}
		me := func(w World) netip.Addr { return w.Own }
		add("of a routed udp flow, to its server", me, func(w World) netip.Addr { return w.Flow.dst }, func(w World) []byte { return w.Flow.back().quote(udp) })
		add("of a routed tcp flow, to its server", me, func(w World) netip.Addr { return w.Stream.dst }, func(w World) []byte { return w.Stream.back().quote(tcp) })
		add("of a routed udp flow, to its device", me, func(w World) netip.Addr { return w.Victim }, func(w World) []byte { return w.Flow.quote(udp) })
		add("of a routed tcp flow, to its device", me, func(w World) netip.Addr { return w.Victim }, func(w World) []byte { return w.Stream.quote(tcp) })
		add("of a routed udp flow, to the gateway", me, func(w World) netip.Addr { return w.Outside[2] }, func(w World) []byte { return w.Flow.quote(udp) })
		add("of a routed udp flow, as its device", func(w World) netip.Addr { return w.Routed }, func(w World) netip.Addr { return w.OtherFlow.dst }, func(w World) []byte { return w.OtherFlow.back().quote(udp) })
	}
	return list
}

// forged are sources that are not the sender's own.
func forged() []Probe {
	var list []Probe
	for _, src := range []target{
		{"a routed device", func(w World) netip.Addr { return w.Routed }}, {"a quarantined device", func(w World) netip.Addr { return w.Confined }},
		{"nobody's quarantine address", func(w World) netip.Addr { return w.Nobody }}, {"nobody's full address", func(w World) netip.Addr { return w.NobodyFull }},
		{"the management server", func(w World) netip.Addr { return w.Management }}, {"the internet", func(w World) netip.Addr { return w.Internet }},
	} {
		for _, t := range []target{forbidden[3], forbidden[0], {"management server", func(w World) netip.Addr { return w.Management }}, {"gateway", func(w World) netip.Addr { return w.Inside[0] }}} {
			if src.name == "the management server" && t.name == src.name[4:] {
				continue
			}
			list = append(list, Probe{Group: "forged source", Name: src.name + ", to the " + t.name, Make: func(w World, s Shot) [][]byte {
				return one(ends{src.at(w), t.at(w), s.port, allowedUDP}.udp(s.msg()))
			}})
		}
	}
	return append(list, Probe{Group: "forged source", Name: "a routed device, in its open flow", Make: func(w World, s Shot) [][]byte {
		return one(w.OtherFlow.udp(s.msg()))
	}}, Probe{Group: "forged source", Name: "a routed device, in its open stream", Make: func(w World, s Shot) [][]byte {
		return one(w.OtherStream.tcp(psh|ack, s.msg()))
	}})
}
