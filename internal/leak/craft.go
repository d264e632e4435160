package leak

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Packets made by hand, with right checksums, since connection tracking drops wrong ones.

// sum is the Internet checksum (RFC 1071).
func sum(parts ...[]byte) uint16 {
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// pseudo is the pseudo header of RFC 768 and RFC 8200, section 8.1.
func pseudo(src, dst netip.Addr, protocol byte, length int) []byte {
	return slices.Concat(src.AsSlice(), dst.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(length)), []byte{0, 0, 0, protocol})
}

// ends are the two ends of a flow, in the direction of the packets it makes.
type ends struct {
	src, dst     netip.Addr
	sport, dport uint16
}

func (e ends) back() ends { return ends{e.dst, e.src, e.dport, e.sport} }

// ip puts an IP header before payload; next is the protocol of what follows.
func (e ends) ip(next byte, payload []byte) []byte { return e.ipHop(next, 64, payload) }

// ipHop is ip with a time to live.
func (e ends) ipHop(next, hops byte, payload []byte) []byte {
	if e.src.Is4() {
		return e.ip4(ip4Fields{next: next, hops: hops, id: e.sport}, payload)
	}
	h := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	h = append(h, next, hops)
	return slices.Concat(h, e.src.AsSlice(), e.dst.AsSlice(), payload)
}

// ip4Fields are what an IPv4 header may bear besides addresses and lengths. fragment is
// flags and offset, in units of 8 bytes; options are padded to a multiple of 4 bytes.
type ip4Fields struct {
	next, hops   byte
	id, fragment uint16
	options      []byte
}

func (e ends) ip4(f ip4Fields, payload []byte) []byte {
	for len(f.options)%4 != 0 {
		f.options = append(f.options, 0)
	}
	size := 20 + len(f.options)
	h := make([]byte, 20, size)
	h[0], h[8], h[9] = byte(0x40|size/4), f.hops, f.next
	binary.BigEndian.PutUint16(h[2:], uint16(size+len(payload)))
	binary.BigEndian.PutUint16(h[4:], f.id)
	binary.BigEndian.PutUint16(h[6:], f.fragment)
	copy(h[12:], e.src.AsSlice())
	copy(h[16:], e.dst.AsSlice())
	h = append(h, f.options...)
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return append(h, payload...)
}

// datagram is a UDP header and its payload.
func (e ends) datagram(payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, e.sport)
	b = binary.BigEndian.AppendUint16(b, e.dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	binary.BigEndian.PutUint16(b[6:], sum(pseudo(e.src, e.dst, unix.IPPROTO_UDP, len(b)), b))
	return b
}

func (e ends) udp(payload []byte) []byte { return e.ip(unix.IPPROTO_UDP, e.datagram(payload)) }

// TCP flags (RFC 9293, section 3.1).
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10
	urg = 0x20
)

// segment is a TCP header and its payload, of a connection that counts from 1000.
func (e ends) segment(flags byte, payload []byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, e.sport)
	binary.BigEndian.PutUint16(b[2:], e.dport)
	binary.BigEndian.PutUint32(b[4:], 1000)
	if flags&syn == 0 {
		binary.BigEndian.PutUint32(b[4:], 1001)
	}
	if flags&ack != 0 {
		binary.BigEndian.PutUint32(b[8:], 1001)
	}
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65000)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], sum(pseudo(e.src, e.dst, unix.IPPROTO_TCP, len(b)), b))
	return b
}

func (e ends) tcp(flags byte, payload []byte) []byte {
	return e.ip(unix.IPPROTO_TCP, e.segment(flags, payload))
}

// icmpMessage is an ICMP or ICMPv6 message; rest is the second half of its header.
func (e ends) icmpMessage(kind, code byte, rest uint32, body []byte) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest), body...)
	check := sum(b)
	if e.src.Is6() {
		check = sum(pseudo(e.src, e.dst, unix.IPPROTO_ICMPV6, len(b)), b)
	}
	binary.BigEndian.PutUint16(b[2:], check)
	return b
}

// icmp is a whole ICMP or ICMPv6 packet, whose type depends on the family.
func (e ends) icmp(kind4, kind6, code byte, rest uint32, body []byte) []byte {
	if e.src.Is4() {
		return e.ip(unix.IPPROTO_ICMP, e.icmpMessage(kind4, code, rest, body))
	}
	return e.ip(unix.IPPROTO_ICMPV6, e.icmpMessage(kind6, code, rest, body))
}

// echo is an echo request, whose identifier is the source port.
func (e ends) echo(payload []byte) []byte {
	return e.icmp(8, 128, 0, uint32(e.sport)<<16|1, payload)
}

// neighbour is a message of neighbour discovery, made on this very link (RFC 4861).
func (e ends) neighbour(kind byte, body []byte) []byte {
	return e.ipHop(unix.IPPROTO_ICMPV6, 255, e.icmpMessage(kind, 0, 0, body))
}

// quote is the beginning of a packet as an ICMP error bears it: the headers and eight
// bytes, without any message.
func (e ends) quote(protocol byte) []byte {
	var transport []byte
	if protocol == unix.IPPROTO_TCP {
		transport = e.segment(ack, nil)
	} else {
		transport = e.datagram([]byte("quoted"))
	}
	return e.ip(protocol, transport)
}

// pieces cuts the payload of an IP packet after first bytes, a multiple of 8, into two
// fragments.
func (e ends) pieces(next byte, first int, payload []byte) [][]byte {
	return [][]byte{e.piece(next, 0, true, payload[:first]), e.piece(next, first, false, payload[first:])}
}

// piece is one fragment, which begins at an offset in bytes.
func (e ends) piece(next byte, offset int, more bool, payload []byte) []byte {
	flag := uint16(0)
	if e.src.Is4() {
		if more {
			flag = 0x2000
		}
		return e.ip4(ip4Fields{next: next, hops: 64, id: e.sport, fragment: uint16(offset/8) | flag}, payload)
	}
	if more {
		flag = 1
	}
	h := binary.BigEndian.AppendUint16([]byte{next, 0}, uint16(offset)|flag)
	h = binary.BigEndian.AppendUint32(h, uint32(e.sport)<<16|uint32(e.dport))
	return e.ip(unix.IPPROTO_FRAGMENT, append(h, payload...))
}

// extended puts an IPv6 extension header of eight bytes before what follows.
func extended(next byte, data [6]byte, payload []byte) []byte {
	return slices.Concat([]byte{next, 0}, data[:], payload)
}

// padding fills an options header: one PadN option (RFC 8200, section 4.2).
var padding = [6]byte{1, 4}

// segments is a segment routing header that names last as what comes after the packet's
// present destination (RFC 8754, section 2).
func segments(next byte, last netip.Addr, here netip.Addr, payload []byte) []byte {
	h := []byte{next, 4, 4, 1, 1, 0, 0, 0} // two addresses; one left; last entry 1
	return slices.Concat(h, last.AsSlice(), here.AsSlice(), payload)
}

// hops is a source route option of the given kind through one more hop (RFC 791, section
// 3.1): 131 loose, 137 strict.
func hops(kind byte, next netip.Addr) []byte {
	return slices.Concat([]byte{1, kind, 7, 4}, next.AsSlice()) // one no-operation first aligns it
}

func parse(s string) netip.Addr { return netip.MustParseAddr(s) }
