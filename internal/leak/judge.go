package leak

import (
	"context"
	"fmt"
	"slices"

	"lazaret/internal/testnet"
)

// settle waits until all that was sent has been looked at, and checks that no capture
// missed a packet.
func (s *site) settle(ctx context.Context) error {
	for _, c := range s.caps {
		st, err := c.capture.Stat(ctx)
		if err != nil {
			return err
		}
		if st.Dropped > 0 {
			return fmt.Errorf("the capture on %s missed %d packets, so that nothing can be judged", c.host, st.Dropped)
		}
	}
	return nil
}

// note is the rule of the whole suite: what a packet seen there means.
func (s *site) note(x *shot, host string, p testnet.Record) {
	from, by := s.origin(x.device, x.side, x.probe.way())
	gateway, tunnel := s.net.Gateway.Name(), link
	if x.side == control {
		gateway, tunnel = s.net.Control.Name(), testnet.ControlDevice
	}
	where := ""
	switch {
	case host != gateway && (host == s.net.Gateway.Name() || host == s.net.Control.Name()):
	case host == from && p.Device == by && p.Out:
		x.left++
	case host == gateway && p.Device == "input":
		where = "taken in by the gateway"
	case host == gateway && p.Out && p.Device == tunnel && x.probe.way() == Tunnel && s.answers(x, p):
		where = "answered by the gateway"
	case host == gateway && p.Out:
		where = "sent on by the gateway to " + p.Device
	case host == gateway && p.Device == tunnel:
		x.reached = true
	case p.Out || p.Device == by && x.probe.way() != Tunnel: // neighbours of the sender's own network see it, too
	case host == gateway:
	default:
		where = "arrived at " + host + ", " + p.Device
	}
	if where != "" && !slices.Contains(x.leaks, where) {
		x.leaks = append(x.leaks, where)
	}
}

// answers reports whether a packet goes back to the one who shot.
func (s *site) answers(x *shot, p testnet.Record) bool {
	return slices.Contains(x.device.addresses(), p.To.Addr())
}

// fence sends a message from every device that may speak to the management server, and
// one through the control, and waits until they arrived: what was sent before them was
// decided on by then. It shows as well that the tunnels work.
func (s *site) fence(ctx context.Context) error {
	type mark struct {
		id uint32
		at *testnet.Capture
		of string
	}
	var marks []mark
	fire := func(h *testnet.Host, device string, e ends, at *testnet.Capture) error {
		m := mark{testnet.NewStream(), at, device}
		marks = append(marks, m)
		return h.Inject(ctx, device, e.udp(testnet.Message(m.id, 0)))
	}
	for _, family := range []int{4, 6} {
		for _, d := range s.all() {
			if w := s.world(d, family, real); s.mayFence(d) {
				if err := fire(d.host, d.iface, ends{w.Own, w.Management, fencePort, allowedUDP}, s.at(s.net.Management)); err != nil {
					return err
				}
			}
		}
		w := s.world(s.devices[0], family, control)
		for _, to := range []*testnet.Host{s.net.Management, s.net.Intranet} {
			dst := w.Management
			if to == s.net.Intranet {
				dst = w.Intranet
			}
			if err := fire(s.net.Dev1, testnet.ControlDevice, ends{w.Own, dst, fencePort, allowedUDP}, s.at(to)); err != nil {
				return err
			}
		}
	}
	for _, m := range marks {
		if _, err := m.at.Await(ctx, func(p testnet.Record) bool { return p.Stream == m.id && !p.Out }); err != nil {
			return fmt.Errorf("waiting for an allowed message of %s: %w", m.of, err)
		}
	}
	return nil
}

// fencePort is the source port of fences.
const fencePort = 19999

// mayFence reports whether the device reaches the management server now.
func (s *site) mayFence(d *device) bool {
	switch d.stage {
	case Blocked, Revoked:
		return d.cut == 0
	}
	return d.stage.peer()
}
