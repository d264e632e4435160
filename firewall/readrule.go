package firewall

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// readRule turns a rule as the kernel tells it into bytes that compare and words that can
// be read. elements gives those of an anonymous set.
func readRule(expressions []map[uint16][]byte, comment []byte, elements func(string) []setElement) (FoundRule, error) {
	var r FoundRule
	w := words{elements: elements}
	for _, e := range expressions {
		o := object{0, e}
		name, data := o.text(unix.NFTA_EXPR_NAME), e[unix.NFTA_EXPR_DATA]
		inner, err := attributes(data)
		if err != nil {
			return r, err
		}
		switch name {
		case "counter":
			data = nil
		case "lookup":
			if set := (object{0, inner}).text(unix.NFTA_LOOKUP_SET); elements(set) != nil {
				data = append(object{0, inner}.chosen([]uint16{unix.NFTA_LOOKUP_SREG, unix.NFTA_LOOKUP_DREG, unix.NFTA_LOOKUP_FLAGS}),
					strings.Join(contentText(elements(set)), "")...)
			}
		}
		r.bytes = append(append(r.bytes, name...), 0)
		r.bytes = append(binary.BigEndian.AppendUint32(r.bytes, uint32(len(data))), data...)
		if alters(name, inner) {
			r.Alters = append(r.Alters, name)
		}
		w.add(name, inner)
	}
	r.bytes = append(r.bytes, comment...)
	if text := commentOf(comment); text != "" {
		w.say("comment " + strconv.Quote(text))
	}
	r.Text, r.Known, r.accepts = w.text(), !w.lost, w.accepts
	return r, nil
}

// commentOf finds the comment in a rule's user data: type, length and value, one after the
// other. Anybody may have written it, and the library's reader trusts the lengths.
func commentOf(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		if kind, value := data[0], data[2:2+int(data[1])]; kind == byte(userdata.TypeComment) {
			return strings.TrimRight(string(value), "\x00")
		}
		data = data[2+int(data[1]):]
	}
	return ""
}

// judging are the expressions that look at a packet, count it or end its way.
var judging = []string{
	"cmp", "bitwise", "byteorder", "counter", "immediate", "lookup", "range", "limit", "log", "quota", "reject", "fib",
	"numgen", "hash", "socket", "osf", "rt", "connlimit", "last", "xfrm", "tunnel",
}

// alters says whether an expression does more than judge.
func alters(name string, data map[uint16][]byte) bool {
	sets := func(source uint16) bool { _, ok := data[source]; return ok }
	switch name {
	case "meta":
		return sets(unix.NFTA_META_SREG)
	case "ct":
		return sets(unix.NFTA_CT_SREG)
	case "payload":
		return sets(unix.NFTA_PAYLOAD_SREG)
	case "exthdr":
		return sets(unix.NFTA_EXTHDR_SREG)
	}
	return !slices.Contains(judging, name)
}
