package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// words puts expressions into nft's words. It follows what register 1 holds; a comparison
// or a lookup then says it. What it does not know whole, it marks as lost.
type words struct {
	elements func(string) []setElement
	list     []string
	lost     bool

	load    string // what the register holds, in words
	kind    string // how its values are written
	length  int    // bytes loaded
	given   []byte // by the rule itself, in place of a load
	mask    []byte // that they were put under
	low     []byte // of a range whose upper end follows
	family  byte
	l4      byte
	accepts bool
	implied []implied
}

func (w *words) say(s string) { w.list = append(w.list, s) }

// implied is a protocol that is said only if nothing that follows says it too.
type implied struct {
	text string
	at   int // where in the list it would stand
}

func (w *words) imply(text string) { w.implied = append(w.implied, implied{text, len(w.list)}) }

// text is the whole rule.
func (w *words) text() string {
	for _, x := range slices.Backward(w.implied) {
		w.list = slices.Insert(w.list, x.at, x.text)
	}
	w.implied = nil
	return strings.Join(w.list, " ")
}

func (w *words) forget(what string) { w.lost = true; w.say("(" + what + ")") }

func (w *words) add(name string, data map[uint16][]byte) {
	o := object{0, data}
	switch name {
	case "meta":
		w.meta(o)
	case "ct":
		w.tracked(o)
	case "payload":
		w.payload(o)
	case "bitwise":
		mask, err := attributes(data[unix.NFTA_BITWISE_MASK])
		xor, err2 := attributes(data[unix.NFTA_BITWISE_XOR])
		w.mask = mask[unix.NFTA_DATA_VALUE]
		w.lost = w.lost || err != nil || err2 != nil || strings.Trim(string(xor[unix.NFTA_DATA_VALUE]), "\x00") != ""
	case "cmp":
		value, err := attributes(data[unix.NFTA_CMP_DATA])
		if err != nil || o.number(unix.NFTA_CMP_SREG) != unix.NFT_REG_1 {
			w.forget(name)
			return
		}
		w.compare(o.number(unix.NFTA_CMP_OP), value[unix.NFTA_DATA_VALUE])
	case "lookup":
		w.lookup(o)
	case "immediate":
		w.verdict(o)
	case "limit":
		w.limit(o)
	case "counter":
		w.say("counter packets 0 bytes 0")
	case "masq":
		w.say("masquerade")
		w.lost = w.lost || len(data) > 0
	default:
		w.forget(name)
	}
}

// loads notes what the register holds.
func (w *words) loads(o object, target uint16, load, kind string) {
	w.load, w.kind, w.mask, w.low, w.given = load, kind, nil, nil, nil
	if load == "" || o.number(target) != unix.NFT_REG_1 {
		w.forget("load")
	}
}

func (w *words) meta(o object) {
	if _, sets := o.attrs[unix.NFTA_META_SREG]; sets && len(w.given) == 4 &&
		o.number(unix.NFTA_META_SREG) == unix.NFT_REG_1 && o.number(unix.NFTA_META_KEY) == unix.NFT_META_MARK {
		w.say("meta mark set " + markText(Mark(binary.NativeEndian.Uint32(w.given))))
		return
	}
	x := map[uint32][2]string{
		unix.NFT_META_IIFNAME: {"iifname", "name"}, unix.NFT_META_OIFNAME: {"oifname", "name"}, unix.NFT_META_NFPROTO: {"meta nfproto", "family"},
		unix.NFT_META_L4PROTO: {"meta l4proto", "l4"}, unix.NFT_META_MARK: {"meta mark", "mark"},
	}[o.number(unix.NFTA_META_KEY)]
	w.loads(o, unix.NFTA_META_DREG, x[0], x[1])
}

func (w *words) tracked(o object) {
	if _, sets := o.attrs[unix.NFTA_CT_SREG]; sets {
		if w.kind != "mark" || w.given != nil || o.number(unix.NFTA_CT_KEY) != unix.NFT_CT_MARK || o.number(unix.NFTA_CT_SREG) != unix.NFT_REG_1 {
			w.forget("ct set")
			return
		}
		w.say("ct mark set " + w.load)
		return
	}
	x := map[uint32][2]string{
		unix.NFT_CT_STATE: {"ct state", "state"}, unix.NFT_CT_DIRECTION: {"ct direction", "direction"}, unix.NFT_CT_PROTOCOL: {"ct protocol", "protocol"},
		unix.NFT_CT_PROTO_DST: {"proto-dst", "port"}, uint32(expr.CtKeyDSTIP): {"ip daddr", "address"}, uint32(expr.CtKeyDSTIP6): {"ip6 daddr", "address"},
		unix.NFT_CT_MARK: {"ct mark", "mark"}, unix.NFT_CT_STATUS: {"ct status", "status"},
	}[o.number(unix.NFTA_CT_KEY)]
	if d, ok := o.attrs[unix.NFTA_CT_DIRECTION]; ok && len(d) == 1 {
		if x[0] != "" {
			x[0] = "ct " + directions[d[0]] + " " + x[0]
		}
		w.length = 16
		if x[1] == "address" {
			w.resolve(unix.NFT_PAYLOAD_NETWORK_HEADER)
		}
	}
	w.loads(o, unix.NFTA_CT_DREG, x[0], x[1])
}

func (w *words) payload(o object) {
	base, offset, length := o.number(unix.NFTA_PAYLOAD_BASE), o.number(unix.NFTA_PAYLOAD_OFFSET), o.number(unix.NFTA_PAYLOAD_LEN)
	load, kind := "", ""
	v4 := w.family == unix.NFPROTO_IPV4
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && w.family != 0:
		size, first := uint32(16), uint32(8)
		if v4 {
			size, first = 4, 12
		}
		kind = "address"
		switch {
		case offset == first && length <= size:
			load = header(w.family) + " saddr"
		case offset == first+size && length <= size:
			load = header(w.family) + " daddr"
		case offset == 7 && length == 1 && !v4:
			load, kind = "ip6 hoplimit", "number"
		}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && length == 2 && (w.l4 == unix.IPPROTO_TCP || w.l4 == unix.IPPROTO_UDP):
		load, kind = map[uint32]string{0: "sport", 2: "dport"}[offset], "port"
		if load != "" {
			load = l4Names[w.l4] + " " + load
		}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && length == 1 && offset == 0 && (w.l4 == unix.IPPROTO_ICMP || w.l4 == unix.IPPROTO_ICMPV6):
		load, kind = map[byte]string{unix.IPPROTO_ICMP: "icmp type", unix.IPPROTO_ICMPV6: "icmpv6 type"}[w.l4], "message"
	}
	w.resolve(base)
	w.length = int(length)
	w.loads(o, unix.NFTA_PAYLOAD_DREG, load, kind)
}

// resolve drops the protocols that the next words say by themselves.
func (w *words) resolve(base uint32) {
	w.implied = slices.DeleteFunc(w.implied, func(x implied) bool {
		network := base == unix.NFT_PAYLOAD_NETWORK_HEADER || w.l4 == unix.IPPROTO_ICMP || w.l4 == unix.IPPROTO_ICMPV6
		return strings.HasPrefix(x.text, "meta nfproto") && network || strings.HasPrefix(x.text, "meta l4proto") && base == unix.NFT_PAYLOAD_TRANSPORT_HEADER
	})
}

var l4Names = map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "ipv6-icmp"}

func (w *words) compare(op uint32, value []byte) {
	negated := map[uint32]string{unix.NFT_CMP_EQ: "", unix.NFT_CMP_NEQ: "!= "}
	not, plain := negated[op]
	switch {
	case w.kind == "state" && op == unix.NFT_CMP_NEQ && strings.Trim(string(value), "\x00") == "":
		w.state()
	case w.kind == "status" && op == unix.NFT_CMP_NEQ && strings.Trim(string(value), "\x00") == "" && string(w.mask) == string(native(translatedStatus)):
		w.say("ct status dnat")
	case op == unix.NFT_CMP_GTE && w.kind == "port":
		w.low = value
	case op == unix.NFT_CMP_LTE && w.low != nil:
		w.say(w.load + " " + w.value(w.low) + "-" + w.value(value))
	case !plain:
		w.forget("cmp")
	case w.kind == "family" && op == unix.NFT_CMP_EQ && len(value) == 1:
		w.family = value[0]
		w.imply("meta nfproto " + w.value(value))
	case w.kind == "l4" && op == unix.NFT_CMP_EQ && len(value) == 1:
		w.l4 = value[0]
		w.imply("meta l4proto " + w.value(value))
	default:
		w.say(w.load + " " + not + w.value(value))
	}
}

// state says the bits of the mask.
func (w *words) state() {
	var names []string
	bits := uint32(0)
	if len(w.mask) == 4 {
		bits = binary.NativeEndian.Uint32(w.mask)
	}
	for _, s := range []struct {
		bit  uint32
		name string
	}{{expr.CtStateBitINVALID, "invalid"}, {expr.CtStateBitESTABLISHED, "established"}, {expr.CtStateBitRELATED, "related"}, {expr.CtStateBitNEW, "new"}, {expr.CtStateBitUNTRACKED, "untracked"}} {
		if bits&s.bit != 0 {
			names = append(names, s.name)
			bits &^= s.bit
		}
	}
	w.say("ct state " + strings.Join(names, ","))
	w.lost = w.lost || bits != 0 || len(names) == 0
}

// value writes what the register is compared with.
func (w *words) value(b []byte) string {
	text := ""
	switch {
	case w.kind == "name" && len(b) == unix.IFNAMSIZ:
		text = strconv.Quote(strings.TrimRight(string(b), "\x00"))
	case w.kind == "family" && len(b) == 1:
		text = map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[b[0]]
	case (w.kind == "l4" || w.kind == "protocol") && len(b) == 1:
		text = l4Names[b[0]]
	case w.kind == "mark" && len(b) == 4:
		text = markText(Mark(binary.NativeEndian.Uint32(b)))
	case w.kind == "port" && len(b) == 2:
		text = strconv.Itoa(int(binary.BigEndian.Uint16(b)))
	case w.kind == "number" && len(b) == 1:
		text = strconv.Itoa(int(b[0]))
	case w.kind == "direction" && len(b) == 1:
		text = directions[b[0]]
	case w.kind == "message" && len(b) == 1:
		text = w.message(b[0])
	case w.kind == "address":
		text = w.network(b)
	}
	if text == "" || w.mask != nil && w.kind != "address" {
		w.lost = true
		return fmt.Sprintf("%#x", b)
	}
	return text
}

func (w *words) message(n byte) string {
	for _, list := range []map[byte][]message{echoRequest, echoReply, narrowErrors, allErrors, {unix.NFPROTO_IPV6: neighboursIn}, {unix.NFPROTO_IPV6: neighboursOut}, {unix.NFPROTO_IPV6: groupQuery}} {
		for _, m := range list[map[byte]byte{unix.IPPROTO_ICMP: unix.NFPROTO_IPV4, unix.IPPROTO_ICMPV6: unix.NFPROTO_IPV6}[w.l4]] {
			if m.number == n {
				return m.name
			}
		}
	}
	return ""
}

// network writes an address or the part of one that was loaded, as a prefix.
func (w *words) network(b []byte) string {
	size, bits := 16, len(b)*8
	if w.family == unix.NFPROTO_IPV4 {
		size = 4
	}
	if len(b) > size || w.family == 0 {
		return ""
	}
	if w.mask != nil {
		bits = 0
		for bits < len(w.mask)*8 && w.mask[bits/8]&(0x80>>(bits%8)) != 0 {
			bits++
		}
		for i := bits; i < len(w.mask)*8; i++ {
			if w.mask[i/8]&(0x80>>(i%8)) != 0 {
				return "" // no prefix
			}
		}
	}
	a, ok := netip.AddrFromSlice(append(append([]byte(nil), b...), make([]byte, size-len(b))...))
	if !ok {
		return ""
	}
	return prefixText(netip.PrefixFrom(a, bits))
}

func (w *words) lookup(o object) {
	set := o.text(unix.NFTA_LOOKUP_SET)
	_, mapped := o.attrs[unix.NFTA_LOOKUP_DREG]
	flags := o.number(unix.NFTA_LOOKUP_FLAGS)
	if mapped || flags > unix.NFT_LOOKUP_F_INV || o.number(unix.NFTA_LOOKUP_SREG) != unix.NFT_REG_1 || w.mask != nil {
		w.forget(w.load + " looked up in @" + set)
		return
	}
	elements := w.elements(set)
	not := ""
	if flags != 0 {
		not = "!= "
	}
	if elements == nil {
		w.say(w.load + " " + not + "@" + set)
		return
	}
	names := make([]string, len(elements))
	slices.SortFunc(elements, func(a, b setElement) int { return bytes.Compare(a.key, b.key) })
	for i, e := range elements {
		names[i] = w.value(e.key)
	}
	w.say(w.load + " " + not + "{ " + strings.Join(names, ", ") + " }")
}

func (w *words) verdict(o object) {
	data, err := attributes(o.attrs[unix.NFTA_IMMEDIATE_DATA])
	if value := data[unix.NFTA_DATA_VALUE]; err == nil && len(value) == 4 && o.number(unix.NFTA_IMMEDIATE_DREG) == unix.NFT_REG_1 {
		w.loads(o, unix.NFTA_IMMEDIATE_DREG, "a number", "")
		w.given = value
		return
	}
	if err != nil || o.number(unix.NFTA_IMMEDIATE_DREG) != unix.NFT_REG_VERDICT {
		w.accepts = true // who knows
		w.forget("immediate")
		return
	}
	v, err := attributes(data[unix.NFTA_DATA_VERDICT])
	code := int32(object{0, v}.number(unix.NFTA_VERDICT_CODE))
	word := map[int32]string{0: "drop", 1: "accept", unix.NFT_RETURN: "return", unix.NFT_GOTO: "goto", unix.NFT_JUMP: "jump", unix.NFT_CONTINUE: "continue"}[code]
	if err != nil || word == "" {
		w.accepts = true
		w.forget("verdict")
		return
	}
	chain := object{0, v}.text(unix.NFTA_VERDICT_CHAIN)
	w.accepts = w.accepts || code == 1 || chain == rememberChain
	if chain != "" {
		word += " " + chain
	}
	w.say(word)
}

func (w *words) limit(o object) {
	rate, unit := o.attrs[unix.NFTA_LIMIT_RATE], o.attrs[unix.NFTA_LIMIT_UNIT]
	if len(rate) != 8 || len(unit) != 8 || binary.BigEndian.Uint64(unit) != 1 || o.number(unix.NFTA_LIMIT_FLAGS) != 0 ||
		o.number(unix.NFTA_LIMIT_TYPE) != unix.NFT_LIMIT_PKTS || o.number(unix.NFTA_LIMIT_BURST) != 5 {
		w.forget("limit")
		return
	}
	w.say(fmt.Sprintf("limit rate %d/second", binary.BigEndian.Uint64(rate)))
}
