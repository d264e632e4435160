package testnet

import (
	"encoding/binary"
	"net/netip"
)

// IP protocol numbers that are looked into, or past.
const (
	protoHopByHop   = 0
	protoICMP       = 1
	protoTCP        = 6
	protoUDP        = 17
	protoRouting    = 43
	protoFragment   = 44
	protoAH         = 51
	protoICMPv6     = 58
	protoDstOptions = 60
)

// maxExtensions bounds the IPv6 extension headers looked past.
const maxExtensions = 8

// parsePacket reads the headers of an IP packet, of which b may be only the
// beginning, and says in Bad where it had to stop. It reports false for what is no
// IP packet.
func parsePacket(b []byte) (Record, bool) {
	if len(b) == 0 {
		return Record{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return parseIPv4(b), true
	case 6:
		return parseIPv6(b), true
	}
	return Record{}, false
}

func bad(r Record, why string) Record {
	r.Bad = why
	return r
}

// parseIPv4 follows RFC 791, section 3.1.
func parseIPv4(b []byte) Record {
	var r Record
	if len(b) < 20 {
		return bad(r, "short IPv4 header")
	}
	size := int(b[0]&15) * 4
	r.Proto = b[9]
	r.From = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	r.To = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	if size < 20 || size > len(b) {
		return bad(r, "short IPv4 header")
	}
	total := int(binary.BigEndian.Uint16(b[2:4]))
	fragment := binary.BigEndian.Uint16(b[6:8])
	r.Fragment = fragment&0x3fff != 0 // more fragments, or an offset
	switch {
	case total == 0: // a segment the kernel has yet to cut, longer than the field holds
		total = 1 << 30
	case total < size:
		return bad(r, "total length shorter than the header")
	}
	payload := b[size:min(len(b), max(total, size))]
	if fragment&0x1fff != 0 {
		return withMessage(r, payload) // the transport header is in the first fragment
	}
	return parseTransport(r, payload, total-size)
}

// parseIPv6 follows RFC 8200, sections 3 and 4.
func parseIPv6(b []byte) Record {
	var r Record
	if len(b) < 40 {
		return bad(r, "short IPv6 header")
	}
	r.From = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	r.To = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
	r.Proto = b[6]
	left := int(binary.BigEndian.Uint16(b[4:6]))
	if left == 0 {
		left = 1 << 30
	}
	b = b[40:min(len(b), 40+left)]
	for range maxExtensions {
		size := 0
		switch r.Proto {
		case protoHopByHop, protoRouting, protoDstOptions:
			if len(b) >= 2 {
				size = 8 + int(b[1])*8
			}
		case protoFragment:
			size = 8
		case protoAH:
			if len(b) >= 2 {
				size = 8 + int(b[1])*4
			}
		default:
			return parseTransport(r, b, left)
		}
		if size == 0 || size > len(b) {
			return bad(r, "short IPv6 extension header")
		}
		if r.Proto == protoFragment {
			r.Fragment = true
			if binary.BigEndian.Uint16(b[2:4])&0xfff8 != 0 {
				r.Proto = b[0]
				return withMessage(r, b[8:])
			}
		}
		r.Proto, b, left = b[0], b[size:], left-size
	}
	return bad(r, "too many IPv6 extension headers")
}

// parseTransport reads the header after the IP headers. wire is the number of
// bytes that the packet had from there on, of which b holds at most as many.
func parseTransport(r Record, b []byte, wire int) Record {
	switch r.Proto {
	case protoTCP:
		return parseTCP(r, b, wire)
	case protoUDP:
		if len(b) < 8 {
			return bad(r, "short UDP header")
		}
		r = withPorts(r, b)
		return withMessage(r, b[8:])
	case protoICMP, protoICMPv6:
		if len(b) < 8 {
			return bad(r, "short ICMP header")
		}
		r.ICMPType, r.ICMPCode = b[0], b[1]
		return withMessage(r, b[8:])
	}
	return withMessage(r, b)
}

// parseTCP follows RFC 9293, section 3.1; the time stamp is RFC 7323's.
func parseTCP(r Record, b []byte, wire int) Record {
	if len(b) < 20 {
		return bad(r, "short TCP header")
	}
	r = withPorts(r, b)
	r.TCPSeq = binary.BigEndian.Uint32(b[4:8])
	r.TCPAck = binary.BigEndian.Uint32(b[8:12])
	r.TCPFlags = b[13]
	size := int(b[12]>>4) * 4
	if size < 20 || size > len(b) {
		return bad(r, "short TCP header")
	}
	r.TCPLen = max(0, wire-size)
	r.TCPTime = tcpTime(b[20:size])
	return withMessage(r, b[size:])
}

func tcpTime(options []byte) uint32 {
	for len(options) > 0 {
		switch kind := options[0]; {
		case kind == 0:
			return 0
		case kind == 1:
			options = options[1:]
			continue
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			return 0
		case kind == 8 && options[1] == 10:
			return binary.BigEndian.Uint32(options[2:6])
		}
		options = options[options[1]:]
	}
	return 0
}

func withPorts(r Record, b []byte) Record {
	r.From = netip.AddrPortFrom(r.From.Addr(), binary.BigEndian.Uint16(b[0:2]))
	r.To = netip.AddrPortFrom(r.To.Addr(), binary.BigEndian.Uint16(b[2:4]))
	return r
}

func withMessage(r Record, payload []byte) Record {
	if m, ok := findStamped(payload); ok {
		r.Stream, r.Seq, r.Sent = m.stream, m.seq, m.sent
	}
	return r
}
