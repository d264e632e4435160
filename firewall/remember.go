package firewall

import "github.com/google/nftables/expr"

// A verdict is remembered in the flow's connection tracking mark: the number of the
// generation in which it was given. While @verified holds that number, nothing was taken
// from any device since, so that the placement would be found again as it was, and packets
// of the flow need not look for it. What Table does about that number is told at memory.
//
// What is remembered is that of the device's own packets in the direction of the flow: its
// address was placed, and may have what the flow was opened to. Answers need no more than that.

// remembered lets a packet of such a flow pass: one of the side that opened it on the way up,
// an answer on the way down. ICMP errors are related, never established: they count by
// themselves, since the mark that they have is that of the flow they quote.
func remembered(d byte) *rule {
	return new(rule).state("established").direction(d).markIn("ct", false).accept()
}

// recall reads the generation into the packet's own mark, before the packet is placed: it is
// the one in whose sets the packet is then looked up, or an older one. Read afterwards, it
// could be newer than the placement. A look-up that was held up while a transaction ended may
// already see what the next one prepares; so what is read counts only if it is in force.
func recall() []*rule {
	return []*rule{new(rule).generation(), new(rule).markIn("meta", true).unmark()}
}

// rememberChain ends with accept, so that whoever goes there accepts.
const rememberChain = "remember"

// remember ends the way up of a packet that may pass. Whose destination was translated, by
// another table, is not remembered: its answers are asked for more than it was.
func remember() []*rule {
	return []*rule{
		new(rule).translated().accept(),
		new(rule).state("established").direction(original).markIn("meta", false).store().unmark(),
		new(rule).accept(),
	}
}

// markIn asks whether the mark of the packet ("meta") or of its flow ("ct") is in @verified;
// otherwise, whether it is not.
func (r *rule) markIn(of string, otherwise bool) *rule {
	words := of + " mark @verified"
	if otherwise {
		words = of + " mark != @verified"
	}
	var load expr.Any = &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}
	if of == "ct" {
		load = &expr.Ct{Key: expr.CtKeyMARK, Register: 1}
	}
	return r.say(words, load, &expr.Lookup{SourceRegister: 1, SetName: "verified", Invert: otherwise})
}

// generation sets the packet's mark to the generation; without one, the rule ends there.
func (r *rule) generation() *rule {
	return r.say("meta mark set meta nfproto map @generation", &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: "generation"},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderNtoh, Len: 4, Size: 4},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
}

// store sets the flow's mark to the packet's.
func (r *rule) store() *rule {
	return r.say("ct mark set meta mark", &expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
}

// translatedStatus is the kernel's IPS_DST_NAT.
const translatedStatus = 1 << 5

// translated matches flows whose destination was translated.
func (r *rule) translated() *rule {
	return r.say("ct status dnat", &expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(translatedStatus), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}
