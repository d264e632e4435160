package dataplane

import (
	"fmt"
	"net/netip"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// mirror is what the data plane enforces, by device, so that nothing need be read
// back from the kernel. It has no lock of its own.
type mirror struct {
	held      map[quarantine.ID]held
	keys      map[tunnel.Key]quarantine.ID
	addresses map[netip.Addr]quarantine.ID
	rotating  map[tunnel.Key]quarantine.ID // next keys that have not shaken hands yet
}

func newMirror(size int) *mirror {
	return &mirror{
		held:      make(map[quarantine.ID]held, size),
		keys:      make(map[tunnel.Key]quarantine.ID, size),
		addresses: make(map[netip.Addr]quarantine.ID, 2*size),
		rotating:  make(map[tunnel.Key]quarantine.ID),
	}
}

// clash returns quarantine.ErrConflict when h has a key or an address of another device.
func (m *mirror) clash(h held) error {
	for _, k := range []tunnel.Key{h.Key, h.Next} {
		if owner, taken := m.keys[k]; taken && owner != h.Device && !k.IsZero() {
			return fmt.Errorf("key %s is device %s's: %w", k, owner, quarantine.ErrConflict)
		}
	}
	for _, a := range h.addresses() {
		if owner, taken := m.addresses[a]; taken && owner != h.Device {
			return fmt.Errorf("address %s is device %s's: %w", a, owner, quarantine.ErrConflict)
		}
	}
	return nil
}

// put makes h the state of its device.
func (m *mirror) put(h held) {
	old := m.held[h.Device]
	for _, p := range old.peers() {
		delete(m.keys, p.Key)
		delete(m.rotating, p.Key)
	}
	for _, a := range old.addresses() {
		delete(m.addresses, a)
	}
	m.held[h.Device] = h
	for _, p := range h.peers() {
		m.keys[p.Key] = h.Device
	}
	for _, a := range h.addresses() {
		m.addresses[a] = h.Device
	}
	if !h.Key.IsZero() && !h.Next.IsZero() && !h.moved {
		m.rotating[h.Next] = h.Device
	}
}

// elements is all that the table should hold at now.
func (m *mirror) elements(now firewall.Deadline) firewall.Elements {
	var out firewall.Elements
	for _, h := range m.held {
		h = h.lapse(now)
		out.Quarantined = append(out.Quarantined, h.Quarantined...)
		for _, a := range h.Routed {
			out.Routed = append(out.Routed, firewall.Routed{Addr: a, Mark: h.Mark, Until: h.Until})
		}
	}
	return out
}

// peers is all that the tunnel should hold.
func (m *mirror) peers() []tunnel.Peer {
	out := make([]tunnel.Peer, 0, len(m.keys))
	for _, h := range m.held {
		out = append(out, h.peers()...)
	}
	return out
}

// advance brings every deadline nearer by d nanoseconds, for time that passed while
// the clock of deadlines stood still.
func (m *mirror) advance(d firewall.Deadline) {
	for id, h := range m.held {
		if len(h.Routed) > 0 {
			h.Until -= d
			m.held[id] = h
		}
	}
}
