package testnet

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

type injectRequest struct {
	Device  string   `json:"device"`
	To      []byte   `json:"to,omitempty"` // link address of the next hop
	Packets [][]byte `json:"packets"`
}

// Inject sends whole IP packets out of an interface as they are, past the host's
// own routing and firewall: forged sources, fragments, ICMP errors about flows that
// are somebody else's. The interface must be one without link addresses, like a
// tunnel.
func (h *Host) Inject(ctx context.Context, device string, packets ...[]byte) error {
	if err := h.agent.call(ctx, opInject, injectRequest{Device: device, Packets: packets}, nil); err != nil {
		return fmt.Errorf("injecting into %s on %s: %w", device, h.name, err)
	}
	return nil
}

// InjectTo is Inject for an interface with link addresses: it sends the packets to the
// neighbour of that link address. One that begins with neither version of IP is sent as
// an ARP message.
func (h *Host) InjectTo(ctx context.Context, device string, to net.HardwareAddr, packets ...[]byte) error {
	if err := h.agent.call(ctx, opInject, injectRequest{Device: device, To: to, Packets: packets}, nil); err != nil {
		return fmt.Errorf("injecting into %s on %s: %w", device, h.name, err)
	}
	return nil
}

// LinkAddress returns the link address of an interface.
func (h *Host) LinkAddress(ctx context.Context, device string) (net.HardwareAddr, error) {
	var a []byte
	if err := h.agent.call(ctx, opLinkAddress, device, &a); err != nil {
		return nil, fmt.Errorf("asking for the link address of %s on %s: %w", device, h.name, err)
	}
	return a, nil
}

func linkAddress(device string) (any, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	return []byte(i.HardwareAddr), nil
}

func inject(r injectRequest) error {
	i, err := net.InterfaceByName(r.Device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	defer unix.Close(fd)
	for _, p := range r.Packets {
		if len(p) == 0 {
			return fmt.Errorf("an empty packet")
		}
		var protocol uint16 = unix.ETH_P_IP
		switch p[0] >> 4 {
		case 6:
			protocol = unix.ETH_P_IPV6
		case 0:
			protocol = unix.ETH_P_ARP
		}
		to := &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: protocol<<8 | protocol>>8, Halen: uint8(min(len(r.To), 8))}
		copy(to.Addr[:], r.To)
		if err := unix.Sendto(fd, p, 0, to); err != nil {
			return fmt.Errorf("sending %d bytes: %w", len(p), err)
		}
	}
	return nil
}
