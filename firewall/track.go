package firewall

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A tracked packet's direction: of the side that opened the flow, or of the other.
const (
	original byte = 0
	reply    byte = 1
)

var directions = map[byte]string{original: "original", reply: "reply"}

// state matches the connection tracking state; several are given as "established,related".
func (r *rule) state(names string) *rule {
	bits := uint32(0)
	for _, name := range strings.Split(names, ",") {
		bits |= map[string]uint32{
			"invalid": expr.CtStateBitINVALID, "established": expr.CtStateBitESTABLISHED, "related": expr.CtStateBitRELATED,
		}[name]
	}
	return r.say("ct state "+names, &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}

func (r *rule) direction(d byte) *rule {
	return r.say("ct direction "+directions[d], &expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equal([]byte{d}))
}

// originally matches the flow's original tuple, as the device opened it: for an ICMP
// error, the flow that it quotes.
func (r *rule) originally(to netip.Prefix) *rule {
	f := familyOf(to.Addr())
	r.bind(f)
	if to.Bits() == 0 {
		return r
	}
	key := expr.CtKeyDSTIP
	if f == unix.NFPROTO_IPV6 {
		key = expr.CtKeyDSTIP6
	}
	match, _ := prefix(to)
	r.say("ct original "+header(f)+" daddr "+prefixText(to), &expr.Ct{Key: key, Register: 1, Direction: uint32(original)})
	return r.say("", match...)
}

func (r *rule) originalPort(from, up uint16) *rule {
	r.say("ct original proto-dst "+portText(from, up), &expr.Ct{Key: expr.CtKeyPROTODST, Register: 1, Direction: uint32(original)})
	return r.say("", portRange(from, up)...)
}

// flowProtocol matches the flow's protocol, which for an ICMP error is that of the
// quoted packet.
func (r *rule) flowProtocol(p Protocol, family byte) *rule {
	name := string(p)
	if p == "icmp" && family == unix.NFPROTO_IPV6 {
		name = "ipv6-icmp"
	}
	return r.say("ct protocol "+name, &expr.Ct{Key: expr.CtKeyPROTOCOL, Register: 1}, equal([]byte{transport(p, family)}))
}

// message is an ICMP type in one family.
type message struct {
	number byte
	name   string
}

// Types by family, each list in order of number, as nft prints a set.
var (
	echoRequest = map[byte][]message{unix.NFPROTO_IPV4: {{8, "echo-request"}}, unix.NFPROTO_IPV6: {{128, "echo-request"}}}
	echoReply   = map[byte][]message{unix.NFPROTO_IPV4: {{0, "echo-reply"}}, unix.NFPROTO_IPV6: {{129, "echo-reply"}}}

	// narrowErrors are the errors without which path MTU discovery and refused
	// connections hang.
	narrowErrors = map[byte][]message{
		unix.NFPROTO_IPV4: {{3, "destination-unreachable"}},
		unix.NFPROTO_IPV6: {{1, "destination-unreachable"}, {2, "packet-too-big"}},
	}
	allErrors = map[byte][]message{
		unix.NFPROTO_IPV4: {{3, "destination-unreachable"}, {11, "time-exceeded"}, {12, "parameter-problem"}},
		unix.NFPROTO_IPV6: {{1, "destination-unreachable"}, {2, "packet-too-big"}, {3, "time-exceeded"}, {4, "parameter-problem"}},
	}
	neighboursIn  = []message{{134, "nd-router-advert"}, {135, "nd-neighbor-solicit"}, {136, "nd-neighbor-advert"}}
	neighboursOut = []message{{133, "nd-router-solicit"}, {135, "nd-neighbor-solicit"}, {136, "nd-neighbor-advert"}, {143, "mld2-listener-report"}}
	groupQuery    = []message{{130, "mld-listener-query"}}
)

// icmp matches ICMP types of one family.
func (r *rule) icmp(family byte, types []message) *rule {
	word, kind, l4 := "icmp", nftables.TypeICMPType, byte(unix.IPPROTO_ICMP)
	if family == unix.NFPROTO_IPV6 {
		word, kind, l4 = "icmpv6", nftables.TypeICMP6Type, unix.IPPROTO_ICMPV6
	}
	r.bind(family).bindL4(l4)
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}
	if len(types) == 1 {
		return r.say(word+" type "+types[0].name, load, equal([]byte{types[0].number}))
	}
	names, keys := make([]string, len(types)), make([][]byte, len(types))
	for i, m := range types {
		names[i], keys[i] = m.name, []byte{m.number}
	}
	lookup := &expr.Lookup{SourceRegister: 1}
	r.sets = append(r.sets, &anonymous{set: nftables.Set{Anonymous: true, Constant: true, KeyType: kind}, keys: keys, lookup: lookup})
	return r.say(word+" type { "+strings.Join(names, ", ")+" }", load, lookup)
}

// ownHop requires hop limit 255: the packet was made on this very link (RFC 4861, section 3.1).
func (r *rule) ownHop() *rule {
	return r.say("ip6 hoplimit 255", &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1}, equal([]byte{255}))
}

// options matches IPv4 packets with options, source routes among them, of which nothing that
// a device needs makes use (RFC 7126).
func (r *rule) options() *rule {
	return r.bind(unix.NFPROTO_IPV4).say("ip hdrlength > 5",
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x0f}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{5}})
}

// routingHeader matches IPv6 packets that name further hops (RFC 8200, section 4.4).
func (r *rule) routingHeader() *rule {
	return r.bind(unix.NFPROTO_IPV6).say("exthdr rt exists",
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_ROUTING, Len: 1, Op: expr.ExthdrOpIpv6, Flags: unix.NFT_EXTHDR_F_PRESENT}, equal([]byte{1}))
}

// clamp lowers the segment size a new TCP connection announces to what the route
// carries, in both directions (RFC 4459, section 3.2).
func (r *rule) clamp() *rule {
	return r.bindL4(unix.IPPROTO_TCP).say("tcp flags syn / syn,rst tcp option maxseg size set rt mtu",
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{6}, Xor: []byte{0}}, equal([]byte{2}),
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt})
}

// limit lets the rule go on for 20 packets a second.
func (r *rule) limit() *rule {
	return r.say("limit rate 20/second", &expr.Limit{Type: expr.LimitTypePkts, Rate: 20, Unit: expr.LimitTimeSecond, Burst: 5})
}

func (r *rule) count() *rule {
	return r.say("counter packets 0 bytes 0", &expr.Counter{})
}

func (r *rule) accept() *rule { return r.say("accept", &expr.Verdict{Kind: expr.VerdictAccept}) }
func (r *rule) drop() *rule   { return r.say("drop", &expr.Verdict{Kind: expr.VerdictDrop}) }
func (r *rule) masquerade() *rule {
	return r.say("masquerade", &expr.Masq{})
}

// enter goes to another chain and does not come back.
func (r *rule) enter(chain string) *rule {
	return r.say("goto "+chain, &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

// call goes to another chain and comes back from its end.
func (r *rule) call(chain string) *rule {
	return r.say("jump "+chain, &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}
