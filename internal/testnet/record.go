package testnet

import "net/netip"

// Record is one packet as an interface carried it.
type Record struct {
	At       Stamp          `json:"at"`
	Device   string         `json:"device"`
	Out      bool           `json:"out"` // leaving this host
	Len      int            `json:"len"` // bytes, from the IP header on
	Proto    uint8          `json:"proto"`
	From     netip.AddrPort `json:"from"` // no port for what has none, and for later fragments
	To       netip.AddrPort `json:"to"`
	Fragment bool           `json:"fragment,omitempty"`
	ICMPType uint8          `json:"icmp_type,omitempty"`
	ICMPCode uint8          `json:"icmp_code,omitempty"`
	TCPFlags uint8          `json:"tcp_flags,omitempty"`
	TCPSeq   uint32         `json:"tcp_seq,omitempty"`
	TCPAck   uint32         `json:"tcp_ack,omitempty"`
	TCPLen   int            `json:"tcp_len,omitempty"`  // bytes of payload
	TCPTime  uint32         `json:"tcp_time,omitempty"` // the sender's time stamp option
	Stream   uint32         `json:"stream,omitempty"`   // of the first message in the payload; zero: no message
	Seq      uint64         `json:"seq,omitempty"`
	Sent     Stamp          `json:"sent,omitempty"`
	Bad      string         `json:"bad,omitempty"` // why it could not be read further
}

// Arrived returns those of the packets recorded where they were sent that are
// among those recorded further on. Messages are known by number and time, TCP
// segments by sequence number and the sender's time stamp, since segments are cut
// and merged on the way; what else there may be, by nothing but its addresses and
// type, so that it counts as arrived if anything alike has. Addresses must not be
// translated in between.
func Arrived(sent, further []Record) []Record {
	seen := make(map[flowKey][]Record)
	for _, r := range further {
		seen[r.flow()] = append(seen[r.flow()], r)
	}
	var out []Record
	for _, s := range sent {
		for _, r := range seen[s.flow()] {
			if s.sameAs(r) {
				out = append(out, s)
				break
			}
		}
	}
	return out
}

// Alike says whether r, recorded further on, is the packet s, or a part of it, whatever
// became of its addresses and ports on the way. A packet of TCP without a time stamp
// option, and one of another protocol without a message, is like no other.
func (s Record) Alike(r Record) bool {
	switch {
	case s.Proto != r.Proto:
		return false
	case s.Proto == protoTCP:
		return s.TCPTime != 0 && s.TCPTime == r.TCPTime && s.sameAs(r)
	default:
		return s.Stream != 0 && s.Stream == r.Stream && s.Seq == r.Seq && s.Sent == r.Sent
	}
}

// flowKey is what a packet and its copy further on have in common at the least.
type flowKey struct {
	proto    uint8
	from, to netip.AddrPort
	icmpType uint8
	sent     Stamp
	tcpTime  uint32
}

func (r Record) flow() flowKey {
	k := flowKey{proto: r.Proto, from: r.From, to: r.To, icmpType: r.ICMPType, tcpTime: r.TCPTime}
	if r.Proto != protoTCP {
		k.sent = r.Sent
	}
	return k
}

// sameAs says whether r, further on and of the same flow, is s or a part of it.
func (s Record) sameAs(r Record) bool {
	if s.Proto != protoTCP {
		return s.Stream == r.Stream && s.Seq == r.Seq
	}
	if s.TCPLen == 0 || r.TCPLen == 0 {
		return s.TCPLen == r.TCPLen && s.TCPSeq == r.TCPSeq && s.TCPAck == r.TCPAck && s.TCPFlags == r.TCPFlags
	}
	// Sequence numbers wrap around; what overlaps is within half their range.
	return int32(s.TCPSeq-r.TCPSeq)-int32(r.TCPLen) < 0 && int32(r.TCPSeq-s.TCPSeq)-int32(s.TCPLen) < 0
}
