package leak

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"lazaret/internal/testnet"
)

// side says through which gateway a shot goes, and when.
type side int

const (
	real    side = iota // through the gateway, in the stage
	control             // through the control gateway
	before              // through the gateway, while the device was still routed
)

// shot is one sending of a probe, and what became of it.
type shot struct {
	probe  *Probe
	family int
	device *device
	side   side

	packets int      // that bear the message
	left    int      // packets seen to leave
	reached bool     // came out of the tunnel at the gateway
	leaks   []string // where it was seen
	own     bool     // all its packets bear the address that the device holds
}

// chunkPackets is how many packets one call injects, well below what an interface queues.
const chunkPackets = 48

// fire sends the probes from a device through one side, in this order.
func (r *run) fire(ctx context.Context, d *device, on side, probes []*Probe) error {
	var batch [][]byte
	flush := func(way Way) error {
		if len(batch) == 0 {
			return nil
		}
		err := r.site.send(ctx, d, on, way, batch)
		batch = nil
		r.pause(ctx)
		return err
	}
	last := Tunnel
	for _, p := range probes {
		for _, family := range []int{4, 6} {
			if p.Only != 0 && p.Only != family {
				continue
			}
			if way := p.way(); way != last || len(batch) >= chunkPackets {
				if err := flush(last); err != nil {
					return fmt.Errorf("sending %s in stage %q: %w", p.ID(family), d.stage, err)
				}
				last = way
			}
			batch = append(batch, r.shoot(p, family, d, on)...)
		}
	}
	return flush(last)
}

// shoot makes the packets of one shot and notes that they are to be looked for.
func (r *run) shoot(p *Probe, family int, d *device, on side) [][]byte {
	w := r.site.world(d, family, on)
	id := testnet.NewStream()
	packets := p.Make(w, Shot{stream: id, port: r.port[p], extra: r.extra()})
	s := &shot{probe: p, family: family, device: d, side: on, own: true}
	for _, b := range packets {
		if bytes.Contains(b, testnet.Message(id, 0)[:8]) { // the mark and the number
			s.packets++
		}
		if sourceOf(b) != w.Own {
			s.own = false
		}
	}
	r.shots[id] = s
	return packets
}

func sourceOf(b []byte) netip.Addr {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:16]))
	}
	return netip.AddrFrom16([16]byte(b[8:24]))
}

// extra is how many bytes a message is longer than it must be.
func (r *run) extra() int {
	if !r.Vary {
		return 0
	}
	return 8 * r.random.IntN(100)
}

// pause lets a random time pass in a long run.
func (r *run) pause(ctx context.Context) {
	if r.Vary {
		_ = sleepUntil(ctx, time.Now().Add(time.Duration(r.random.IntN(3000))*time.Microsecond)) // the next call notices the end
	}
}

// send injects packets where the way begins.
func (s *site) send(ctx context.Context, d *device, on side, way Way, packets [][]byte) error {
	gateway := s.net.Gateway
	if on == control {
		gateway = s.net.Control
	}
	to := func(network string) net.HardwareAddr { return s.macs[gateway.Name()+"/"+network] }
	switch way {
	case Clear:
		return d.host.InjectTo(ctx, "outer", to("outer"), packets...)
	case Management:
		return s.net.Management.InjectTo(ctx, "mgmt", to("mgmt"), packets...)
	case Intranet:
		return s.net.Intranet.InjectTo(ctx, "intra", to("intra"), packets...)
	}
	if on == control {
		return d.host.Inject(ctx, testnet.ControlDevice, packets...)
	}
	return d.host.Inject(ctx, d.iface, packets...)
}

// origin is the host and the interface where a way begins.
func (s *site) origin(d *device, on side, way Way) (host, device string) {
	switch way {
	case Clear:
		return d.host.Name(), "outer"
	case Management:
		return s.net.Management.Name(), "mgmt"
	case Intranet:
		return s.net.Intranet.Name(), "intra"
	}
	if on == control {
		return d.host.Name(), testnet.ControlDevice
	}
	return d.host.Name(), d.iface
}

// world is what the probes of a device are about.
func (s *site) world(d *device, family int, on side) World {
	pick := func(b testnet.Both) netip.Addr {
		if family == 4 {
			return b.V4
		}
		return b.V6
	}
	p := s.net.Plan
	w := World{
		Own: pick(d.quarantine), OwnFull: pick(d.full), Here: pick(p.Dev1),
		Victim: pick(s.victim.full), VictimQuarantine: pick(s.victim.quarantine), Neighbour: pick(s.neighbour.quarantine),
		Outside:    []netip.Addr{pick(p.GatewayOuter), pick(p.GatewayMgmt), pick(p.GatewayIntra)},
		Management: pick(p.Management), Intranet: pick(p.Intranet), Internet: pick(p.Outside),
	}
	flows := map[[2]bool]victimFlows{{true, false}: s.flow4, {false, false}: s.flow6, {true, true}: s.controlFlow4, {false, true}: s.controlFlow6}[[2]bool{family == 4, on == control}]
	w.Flow, w.Stream, w.Mapping, w.Mapped = flows.udp, flows.tcp, flows.mapping, flows.mapped
	w.OtherFlow, w.OtherStream = flows.guestUDP, flows.guestTCP
	other := s.devices[len(s.devices)-1]
	if other == d {
		other = s.devices[min(1, len(s.devices)-1)]
	}
	w.Routed, w.Confined = pick(s.guest.full), pick(other.quarantine)
	w.Nobody, w.NobodyFull, w.Nowhere = w.by("10.66.200.200", "fd66::c8c8"), w.by("10.67.200.200", "fd67::c8c8"), w.by("100.64.0.9", "2001:db8:dead::9")
	for _, name := range []string{"quarantine", "staff", "guests"} {
		for _, a := range s.pools[name].GatewayAddresses() {
			if a.Addr().Is4() == (family == 4) {
				w.Inside = append(w.Inside, a.Addr())
			}
		}
	}
	return w
}

// shuffled returns the probes in another order, grouped by way so that they go out in
// batches.
func shuffled(random *rand.Rand, probes []*Probe) []*Probe {
	list := append([]*Probe(nil), probes...)
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
