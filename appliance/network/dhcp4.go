package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// asker4 speaks DHCPv4 on one link, by a packet socket that is open only while it asks: it
// needs no address, and the firewall's tables do not see it.
type asker4 struct {
	link     string
	mac      net.HardwareAddr
	hostname string
	limits   func() limits
}

// toClient lets through whole or first fragments of UDP to port 68, so that a busy link
// costs nothing.
var toClient = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nclient4.ClientPort, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

func (a *asker4) open() (net.PacketConn, error) {
	i, err := net.InterfaceByName(a.link)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(toClient)
	if err != nil {
		return nil, err
	}
	raw, err := packet.Listen(i, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	return nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: nclient4.ClientPort}), nil
}

// asking are the options that each question bears.
func (a *asker4) asking() []dhcpv4.Modifier {
	list := []dhcpv4.Modifier{
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionClasslessStaticRoute,
			dhcpv4.OptionNTPServers, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionIPAddressLeaseTime,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1472)),
	}
	if a.hostname != "" {
		list = append(list, dhcpv4.WithOption(dhcpv4.OptHostName(a.hostname)))
	}
	return list
}

// send sends m and returns the first answer of one of the kinds that good accepts.
func (a *asker4) send(ctx context.Context, conn net.PacketConn, m *dhcpv4.DHCPv4, good func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	var answer *dhcpv4.DHCPv4
	err := exchange(ctx, conn, nclient4.DefaultServers, m.ToBytes, func(b []byte) bool {
		r, err := parse4(b)
		if err != nil || r.OpCode != dhcpv4.OpcodeBootReply || r.TransactionID != m.TransactionID || !bytes.Equal(r.ClientHWAddr, a.mac) || !good(r) {
			return false
		}
		answer = r
		return true
	})
	if errors.Is(err, errSilent) {
		err = errors.New("no answer from DHCP")
	}
	return answer, err
}

func (a *asker4) acquire(ctx context.Context) (lease, error) {
	conn, err := a.open()
	if err != nil {
		return lease{}, err
	}
	defer conn.Close()
	m, err := dhcpv4.NewDiscovery(a.mac, a.asking()...)
	if err != nil {
		return lease{}, err
	}
	var wrong error // why offers were passed over
	offer, err := a.send(ctx, conn, m, func(r *dhcpv4.DHCPv4) bool {
		if r.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		_, bad := fromACK(r, a.limits())
		if bad != nil {
			wrong = bad
		}
		return bad == nil
	})
	if err != nil && wrong != nil && ctx.Err() == nil {
		return lease{}, wrong
	} else if err != nil {
		return lease{}, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, a.asking()...)
	if err != nil {
		return lease{}, err
	}
	return a.finish(ctx, conn, request, offer.ServerIdentifier())
}

func (a *asker4) extend(ctx context.Context, l lease, rebind bool) (lease, error) {
	conn, err := a.open()
	if err != nil {
		return lease{}, err
	}
	defer conn.Close()
	m, err := dhcpv4.NewRenewFromAck(l.four, a.asking()...)
	if err != nil {
		return lease{}, err
	}
	server := l.four.ServerIdentifier()
	if rebind {
		server = nil
	}
	return a.finish(ctx, conn, m, server)
}

// finish sends a request and reads the lease; a server of nil is any.
func (a *asker4) finish(ctx context.Context, conn net.PacketConn, m *dhcpv4.DHCPv4, server net.IP) (lease, error) {
	answer, err := a.send(ctx, conn, m, func(r *dhcpv4.DHCPv4) bool {
		t := r.MessageType()
		return (t == dhcpv4.MessageTypeAck || t == dhcpv4.MessageTypeNak) && (server == nil || r.ServerIdentifier().Equal(server))
	})
	if err != nil {
		return lease{}, err
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return lease{}, fmt.Errorf("asking DHCP: %w", errRefused)
	}
	return fromACK(answer, a.limits())
}
