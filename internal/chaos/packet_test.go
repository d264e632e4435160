package chaos

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// tag is what a packet carries, so that whoever meets it knows what was decided when it
// was sent.
type tag struct {
	shot   uint16
	denied bool // nothing allowed it then
	reply  bool
	seq    uint64
}

const magic = 0x4c415a43484f5321

// tagSize is the bytes of a tag.
const tagSize = 24

func (t tag) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, magic)
	b = binary.BigEndian.AppendUint64(b, t.seq)
	b = binary.BigEndian.AppendUint16(b, t.shot)
	return append(b, flag(t.denied), flag(t.reply), 0, 0, 0, 0)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// headers are the least bytes before a tag, by protocol.
var headers = map[byte]int{unix.IPPROTO_UDP: 8, unix.IPPROTO_TCP: 20, unix.IPPROTO_ICMP: 8, unix.IPPROTO_ICMPV6: 8}

// parse reads what an end met; ok is false for what is none of ours, like the kernel's own
// neighbour discovery. An error that quotes one of ours is ours.
func parse(b []byte) (t tag, from, to netip.AddrPort, ok bool) {
	var proto byte
	var src, dst netip.Addr
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		proto, rest = b[9], b[int(b[0]&15)*4:]
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
	case len(b) >= 40 && b[0]>>4 == 6:
		proto, rest = b[6], b[40:]
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
	default:
		return t, from, to, false
	}
	head := headers[proto]
	if head == 0 || len(rest) < head+tagSize || binary.BigEndian.Uint64(rest[head:]) != magic {
		return t, from, to, false
	}
	m := rest[head:]
	t = tag{seq: binary.BigEndian.Uint64(m[8:]), shot: binary.BigEndian.Uint16(m[16:]), denied: m[18] == 1, reply: m[19] == 1}
	return t, netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:])), true
}

// packet makes a whole IP packet. icmp is an echo request, and tcp a first segment.
func packet(proto byte, from, to netip.AddrPort, t tag) []byte {
	var head []byte
	v6 := from.Addr().Is6()
	switch proto {
	case unix.IPPROTO_UDP:
		head = binary.BigEndian.AppendUint16(nil, from.Port())
		head = binary.BigEndian.AppendUint16(head, to.Port())
		head = binary.BigEndian.AppendUint16(head, 8+tagSize)
		head = append(head, 0, 0)
	case unix.IPPROTO_TCP:
		head = binary.BigEndian.AppendUint16(nil, from.Port())
		head = binary.BigEndian.AppendUint16(head, to.Port())
		head = binary.BigEndian.AppendUint32(head, uint32(t.seq))
		head = append(head, 0, 0, 0, 0, 5<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
	default:
		kind := byte(8)
		if proto = unix.IPPROTO_ICMP; v6 {
			kind, proto = 128, unix.IPPROTO_ICMPV6
		}
		head = []byte{kind, 0, 0, 0, byte(from.Port() >> 8), byte(from.Port()), 0, 1}
	}
	body := append(head, t.bytes()...)
	at := map[byte]int{unix.IPPROTO_UDP: 6, unix.IPPROTO_TCP: 16, unix.IPPROTO_ICMP: 2, unix.IPPROTO_ICMPV6: 2}[proto]
	pseudo := append(append(from.Addr().AsSlice(), to.Addr().AsSlice()...), 0, proto, byte(len(body)>>8), byte(len(body)))
	if proto == unix.IPPROTO_ICMP {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(body[at:], sum(append(pseudo, body...)))
	if v6 {
		ip := []byte{6 << 4, 0, 0, 0, byte(len(body) >> 8), byte(len(body)), proto, 64}
		ip = append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
		return append(ip, body...)
	}
	ip := []byte{4<<4 | 5, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, 64, proto, 0, 0}
	ip = append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	return append(ip, body...)
}

// sum is the Internet checksum (RFC 1071) of an even or odd number of bytes.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	if s == 0xffff { // zero would mean none to UDP
		return 0xffff
	}
	return ^uint16(s)
}
