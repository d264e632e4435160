package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is one rule in both its forms: the words nft prints, and the expressions the
// kernel runs. Every method below adds the same thing to both.
type rule struct {
	words   []string
	exprs   []expr.Any
	sets    []*anonymous
	comment string
	family  byte // NFPROTO the rule is already bound to, zero for none
	l4      byte // transport the rule is already bound to
}

// anonymous is a set that belongs to one rule; the writer fills in lookup.SetID.
type anonymous struct {
	set    nftables.Set
	keys   [][]byte
	lookup *expr.Lookup
}

type side string

const (
	source      side = "saddr"
	destination side = "daddr"
)

func (r *rule) say(words string, exprs ...expr.Any) *rule {
	if words != "" {
		r.words = append(r.words, words)
	}
	r.exprs = append(r.exprs, exprs...)
	return r
}

func (r *rule) text() string {
	words := strings.Join(r.words, " ")
	if r.comment != "" {
		words += " comment " + strconv.Quote(r.comment)
	}
	return words
}

func (r *rule) note(comment string) *rule { r.comment = comment; return r }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func (r *rule) iif(name string) *rule {
	return r.say("iifname "+strconv.Quote(name), &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(interfaceName(name)))
}

func (r *rule) notIif(name string) *rule {
	return r.say("iifname != "+strconv.Quote(name), &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: interfaceName(name)})
}

func (r *rule) oif(name string) *rule {
	return r.say("oifname "+strconv.Quote(name), &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, equal(interfaceName(name)))
}

// while requires freshness: the packet's family to stand in a freshness set, where both
// families stand or none. One byte is read and hashed sooner than an interface's name.
func (r *rule) while(set string) *rule {
	return r.say("meta nfproto @"+set, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: set})
}

// bind makes the rule one of IPv4 or IPv6 only. nft does not print it: it follows
// from what comes next.
func (r *rule) bind(family byte) *rule {
	if r.family == family {
		return r
	}
	r.family = family
	return r.say("", &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{family}))
}

func (r *rule) bindL4(protocol byte) *rule {
	if r.l4 == protocol {
		return r
	}
	r.l4 = protocol
	return r.say("", &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{protocol}))
}

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

func header(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "ip"
	}
	return "ip6"
}

// address loads the packet's address of one side into register 1.
func (r *rule) address(s side, family byte, length uint32) expr.Any {
	offset := map[byte]uint32{unix.NFPROTO_IPV4: 12, unix.NFPROTO_IPV6: 8}[family]
	size := map[byte]uint32{unix.NFPROTO_IPV4: 4, unix.NFPROTO_IPV6: 16}[family]
	if s == destination {
		offset += size
	}
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: min(length, size)}
}

// addr matches the packet's own address against a prefix.
func (r *rule) addr(s side, p netip.Prefix) *rule {
	f := familyOf(p.Addr())
	if p.Bits() == 0 {
		if r.family != f && r.l4 != unix.IPPROTO_ICMP && r.l4 != unix.IPPROTO_ICMPV6 {
			r.words = append(r.words, "meta nfproto "+map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[f])
		}
		return r.bind(f)
	}
	match, length := prefix(p)
	r.bind(f).say(header(f)+" "+string(s)+" "+prefixText(p), r.address(s, f, length))
	return r.say("", match...)
}

// prefix compares register 1 with a prefix, of which the first length bytes were
// loaded: only those that count where it ends at a byte, as nft does it.
func prefix(p netip.Prefix) (match []expr.Any, length uint32) {
	data := p.Masked().Addr().AsSlice()
	if p.Bits()%8 == 0 {
		length = uint32(p.Bits()) / 8
		return []expr.Any{equal(data[:length])}, length
	}
	length = uint32(len(data))
	mask := make([]byte, length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
		equal(data),
	}, length
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.Masked().String()
}

func (r *rule) addrIn(s side, family byte, set string) *rule {
	return r.bind(family).say(header(family)+" "+string(s)+" @"+set,
		r.address(s, family, 16), &expr.Lookup{SourceRegister: 1, SetName: set})
}

// routed looks up the address of one side in a map of routed ones and sets the packet's
// mark to what it finds; if it finds nothing, the rule ends there. Marks stand in the
// map in network order, since the library cannot tell nft otherwise, which would then
// print them reversed.
func (r *rule) routed(s side, family byte, name string) *rule {
	return r.bind(family).say("meta mark set "+header(family)+" "+string(s)+" map @"+name,
		r.address(s, family, 16),
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: name},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderNtoh, Len: 4, Size: 4},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
}

// byMark goes where the packet's mark says, or nowhere.
func (r *rule) byMark(verdicts string) *rule {
	return r.say("meta mark vmap @"+verdicts, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: verdicts})
}

// byPrefix goes where the address of one side leads in an interval map, or nowhere.
func (r *rule) byPrefix(s side, family byte, verdicts string) *rule {
	return r.bind(family).say(header(family)+" "+string(s)+" vmap @"+verdicts, r.address(s, family, 16),
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: verdicts})
}

// unmark takes the packet's mark back.
func (r *rule) unmark() *rule {
	return r.say("meta mark set "+markText(0), &expr.Immediate{Register: 1, Data: native(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
}

func (r *rule) mark(m Mark) *rule {
	return r.say("meta mark "+markText(m), &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, equal(native(m)))
}

func markText(m Mark) string { return fmt.Sprintf("0x%08x", uint32(m)) }

func native(m Mark) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(m)) }

// port matches a port range of the packet itself.
func (r *rule) port(p Protocol, from, up uint16) *rule {
	l4 := transport(p, 0)
	r.bindL4(l4).say(string(p)+" dport "+portText(from, up),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	return r.say("", portRange(from, up)...)
}

func (r *rule) sourcePort(p Protocol, port uint16) *rule {
	r.bindL4(transport(p, 0)).say(string(p)+" sport "+portText(port, port),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2})
	return r.say("", portRange(port, port)...)
}

func portText(from, up uint16) string {
	if from == up {
		return strconv.Itoa(int(from))
	}
	return fmt.Sprintf("%d-%d", from, up)
}

func portRange(from, up uint16) []expr.Any {
	lo, hi := binary.BigEndian.AppendUint16(nil, from), binary.BigEndian.AppendUint16(nil, up)
	if from == up {
		return []expr.Any{equal(lo)}
	}
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: lo}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: hi}}
}

// transport is the IP protocol number of p in a family.
func transport(p Protocol, family byte) byte {
	switch {
	case p == "tcp":
		return unix.IPPROTO_TCP
	case p == "udp":
		return unix.IPPROTO_UDP
	case p == "icmp" && family == unix.NFPROTO_IPV4:
		return unix.IPPROTO_ICMP
	case p == "icmp":
		return unix.IPPROTO_ICMPV6
	default:
		return 0
	}
}

// l4proto requires a transport, in words.
func (r *rule) l4proto(p Protocol) *rule {
	r.words = append(r.words, "meta l4proto "+string(p))
	return r.bindL4(transport(p, 0))
}
