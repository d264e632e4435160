package testnet

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

type injectRequest struct {
	Device  string   `json:"device"`
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
		if p[0]>>4 == 6 {
			protocol = unix.ETH_P_IPV6
		}
		to := &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: protocol<<8 | protocol>>8}
		if err := unix.Sendto(fd, p, 0, to); err != nil {
			return fmt.Errorf("sending %d bytes: %w", len(p), err)
		}
	}
	return nil
}
