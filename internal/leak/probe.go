package leak

import (
	"net/netip"

	"lazaret/internal/testnet"
)

// Way is where a probe's packets come from.
type Way string

const (
	Tunnel     Way = "tunnel"     // out of the device, through its tunnel
	Clear      Way = "clear"      // out of the device, past its tunnel, to the gateway's outer side
	Management Way = "management" // from the management server towards the device
	Intranet   Way = "intranet"   // from the intranet towards the device
)

// Probe is one attack. It is the same for every stage; what differs is the World.
type Probe struct {
	Group string // kind of attack
	Name  string
	Way   Way // zero: Tunnel
	Only  int // 4 or 6: has no meaning in the other family
	// Make returns the packets, in order. Each bears the shot's message somewhere, save
	// those of which one other does.
	Make func(World, Shot) [][]byte
	// Note says what is special about its control, and why.
	Note string
}

// ID names a probe in one family.
func (p Probe) ID(family int) string {
	return p.Group + "/" + p.Name + "/" + map[int]string{4: "ipv4", 6: "ipv6"}[family]
}

func (p Probe) way() Way {
	if p.Way == "" {
		return Tunnel
	}
	return p.Way
}

// World is the addresses that one family's probes of one device are about.
type World struct {
	Own, OwnFull netip.Addr // the device's in quarantine, and in its full pool
	Here         netip.Addr // the device's outside of any tunnel

	Victim, VictimQuarantine netip.Addr // another device, routed at all times
	Neighbour                netip.Addr // another one, in quarantine at all times
	Nobody, NobodyFull       netip.Addr // pool addresses of no device

	// Routed and Confined are further devices, whose addresses are forged: one that is
	// routed, with open flows, and one in quarantine. The control takes them from dev1.
	Routed, Confined       netip.Addr
	OtherFlow, OtherStream ends // Routed's

	Inside  []netip.Addr // the gateway's, in the tunnel
	Outside []netip.Addr // the gateway's, on its other networks

	Management, Intranet, Internet netip.Addr
	Nowhere                        netip.Addr // where no route leads

	// Flow is an open UDP flow of another device's, and Stream one over TCP, as the device
	// opened them; through the control they are that device's flows there.
	Flow, Stream ends
	// Mapping is the outside end of a masqueraded flow of another device's, and what it
	// goes to.
	Mapping, Mapped netip.AddrPort
}

func (w World) v6() bool { return w.Own.Is6() }

// by picks an address by family.
func (w World) by(v4, v6 string) netip.Addr {
	if w.v6() {
		return netip.MustParseAddr(v6)
	}
	return netip.MustParseAddr(v4)
}

// Shot is what tells one sending of a probe from all others.
type Shot struct {
	stream uint32
	port   uint16 // source port, the same in all rounds, so that flows are continued
	extra  int    // bytes of payload beyond the message
}

// msg is a message, with what is needed to make the shot as long as it is to be.
func (s Shot) msg() []byte {
	return append(testnet.Message(s.stream, 0), make([]byte, s.extra)...)
}

// to is a flow from the device to a port of dst.
func (w World) to(s Shot, dst netip.Addr, port uint16) ends {
	return ends{w.Own, dst, s.port, port}
}

// from is a flow to port of the device's.
func (w World) from(src netip.Addr, sport uint16, to netip.Addr, port uint16) ends {
	return ends{src, to, sport, port}
}

// target is a destination by name.
type target struct {
	name string
	at   func(World) netip.Addr
}

// forbidden are the destinations that no stage but routed reaches, and the devices that
// none does.
var forbidden = []target{
	{"routed device", func(w World) netip.Addr { return w.Victim }},
	{"routed device in quarantine", func(w World) netip.Addr { return w.VictimQuarantine }},
	{"quarantined device", func(w World) netip.Addr { return w.Neighbour }},
	{"intranet", func(w World) netip.Addr { return w.Intranet }},
	{"internet", func(w World) netip.Addr { return w.Internet }},
}

// own are the gateway's addresses by name.
func own() []target {
	var list []target
	for i, name := range []string{"inner, quarantine", "inner, staff", "inner, guests"} {
		list = append(list, target{name, func(w World) netip.Addr { return w.Inside[i] }})
	}
	for i, name := range []string{"outer", "management side", "intranet side"} {
		list = append(list, target{name, func(w World) netip.Addr { return w.Outside[i] }})
	}
	return list
}
