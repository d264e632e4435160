package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Packets made by hand, with right checksums: connection tracking drops wrong ones.

// sum is the Internet checksum (RFC 1071).
func sum(parts ...[]byte) uint16 {
	var s uint32
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
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

// ip puts an IPv4 or IPv6 header before payload; next is the protocol of what follows.
func ip(src, dst netip.Addr, next byte, payload []byte) []byte {
	if src.Is4() {
		return ip4(src, dst, next, 1, 0, payload)
	}
	h := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	h = append(h, next, 64)
	return slices.Concat(h, src.AsSlice(), dst.AsSlice(), payload)
}

// ip4 is an IPv4 packet with the given identification and fragment field: flags and offset in 8 bytes.
func ip4(src, dst netip.Addr, next byte, id, fragment uint16, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, next
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[4:], id)
	binary.BigEndian.PutUint16(h[6:], fragment)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return append(h, payload...)
}

// flow is the two ends of a flow, in the direction of the packets it makes.
type flow struct {
	src, dst     netip.Addr
	sport, dport uint16
}

func (f flow) back() flow { return flow{f.dst, f.src, f.dport, f.sport} }

const marker = "lazaret probe"

func (f flow) segment(payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, f.sport)
	b = binary.BigEndian.AppendUint16(b, f.dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(b, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[6:], sum(pseudo(f.src, f.dst, unix.IPPROTO_UDP, len(b)), b))
	return b
}

func (f flow) udp() []byte { return ip(f.src, f.dst, unix.IPPROTO_UDP, f.segment(marker)) }

const (
	syn = 0x02
	ack = 0x10
)

// tcp is a segment of a connection that counts from sequence number 1000 both ways.
func (f flow) tcp(flags byte) []byte {
	return ip(f.src, f.dst, unix.IPPROTO_TCP, f.tcpSegment(flags))
}

func (f flow) tcpSegment(flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, f.sport)
	binary.BigEndian.PutUint16(b[2:], f.dport)
	binary.BigEndian.PutUint32(b[4:], 1000)
	if flags&ack != 0 {
		binary.BigEndian.PutUint32(b[8:], 1001)
	}
	if flags&syn == 0 {
		binary.BigEndian.PutUint32(b[4:], 1001)
	}
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65000)
	if flags&syn != 0 {
		b[12] = 6 << 4
		b = append(b, 2, 4, 0x05, 0xb4) // MSS 1460
	} else {
		b = append(b, marker...)
	}
	binary.BigEndian.PutUint16(b[16:], sum(pseudo(f.src, f.dst, unix.IPPROTO_TCP, len(b)), b))
	return b
}

// icmp is an ICMP or ICMPv6 message by family.
func (f flow) icmp(kind4, kind6, code byte, rest uint32, body []byte) []byte {
	kind, protocol := kind4, byte(unix.IPPROTO_ICMP)
	if f.src.Is6() {
		kind, protocol = kind6, unix.IPPROTO_ICMPV6
	}
	b := append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest), body...)
	if f.src.Is6() {
		binary.BigEndian.PutUint16(b[2:], sum(pseudo(f.src, f.dst, protocol, len(b)), b))
	} else {
		binary.BigEndian.PutUint16(b[2:], sum(b))
	}
	return ip(f.src, f.dst, protocol, b)
}

func (f flow) ping() []byte { return f.icmp(8, 128, 0, uint32(f.sport)<<16|1, []byte(marker)) }
func (f flow) pong() []byte { return f.icmp(0, 129, 0, uint32(f.dport)<<16|1, []byte(marker)) }

// tooBig is what a router says that could not forward quoted: fragmentation needed, or packet too big.
func (f flow) tooBig(quoted []byte) []byte {
	code := byte(0)
	if f.src.Is4() {
		code = 4
	}
	return f.icmp(3, 2, code, 1300, append(slices.Clone(quoted), marker...))
}

// refused is what a host says of a packet to a closed port.
func (f flow) refused(quoted []byte) []byte {
	code := byte(4)
	if f.src.Is4() {
		code = 3
	}
	return f.icmp(3, 1, code, 0, append(slices.Clone(quoted), marker...))
}

// fragments cuts a UDP datagram after size bytes of its UDP part; the marker is in the last piece.
func (f flow) fragments(size int) [][]byte {
	whole := f.segment("0123456789abcdef0123456789abcdef" + marker)
	if f.src.Is4() {
		return [][]byte{
			ip4(f.src, f.dst, unix.IPPROTO_UDP, f.sport, 0x2000, whole[:size]),
			ip4(f.src, f.dst, unix.IPPROTO_UDP, f.sport, uint16(size/8), whole[size:]),
		}
	}
	head := func(offset int, more uint16) []byte {
		h := binary.BigEndian.AppendUint16([]byte{unix.IPPROTO_UDP, 0}, uint16(offset)|more)
		return binary.BigEndian.AppendUint32(h, uint32(f.sport)<<16|uint32(f.dport))
	}
	return [][]byte{
		ip(f.src, f.dst, unix.IPPROTO_FRAGMENT, append(head(0, 1), whole[:size]...)),
		ip(f.src, f.dst, unix.IPPROTO_FRAGMENT, append(head(size, 0), whole[size:]...)),
	}
}

// extended puts an IPv6 extension header of the given type and data before a UDP datagram.
func (f flow) extended(kind byte, data [6]byte) []byte {
	h := append([]byte{unix.IPPROTO_UDP, 0}, data[:]...)
	return ip(f.src, f.dst, kind, append(h, f.segment(marker)...))
}
