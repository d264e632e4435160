package network

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// asker6 speaks DHCPv6 on one link, from its link-local address.
type asker6 struct {
	link   string
	mac    net.HardwareAddr
	limits func() limits
}

var allServers = net.ParseIP("ff02::1:2")

// duid is made of the hardware address alone: the same after each start, with nothing kept.
func (a *asker6) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: a.mac}
}

func (a *asker6) bounds() limits {
	l := a.limits()
	copy(l.iaid[:], a.mac[max(len(a.mac)-4, 0):])
	return l
}

func (a *asker6) open() (net.PacketConn, error) {
	i, err := net.InterfaceByName(a.link)
	if err != nil {
		return nil, err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	for _, x := range addrs {
		if n, ok := x.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
			return net.ListenUDP("udp6", &net.UDPAddr{IP: n.IP, Port: dhcpv6.DefaultClientPort, Zone: a.link})
		}
	}
	return nil, errors.New("no link-local address yet")
}

func (a *asker6) send(ctx context.Context, conn net.PacketConn, m *dhcpv6.Message, good func(*dhcpv6.Message) bool) error {
	to := &net.UDPAddr{IP: allServers, Port: dhcpv6.DefaultServerPort, Zone: a.link}
	err := exchange(ctx, conn, to, m.ToBytes, func(b []byte) bool {
		r, err := parse6(b)
		if err != nil || r.TransactionID != m.TransactionID {
			return false
		}
		id := r.Options.ClientID()
		return id != nil && id.Equal(a.duid()) && good(r)
	})
	if errors.Is(err, errSilent) {
		return errors.New("no answer from DHCPv6")
	}
	return err
}

var want6 = dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionNTPServer)

func (a *asker6) acquire(ctx context.Context) (lease, error) {
	conn, err := a.open()
	if err != nil {
		return lease{}, err
	}
	defer conn.Close()
	m, err := dhcpv6.NewSolicit(a.mac, dhcpv6.WithClientID(a.duid()), want6)
	if err != nil {
		return lease{}, err
	}
	var offer *dhcpv6.Message
	err = a.send(ctx, conn, m, func(r *dhcpv6.Message) bool {
		if r.MessageType != dhcpv6.MessageTypeAdvertise {
			return false
		}
		if _, bad := fromReply(r, a.bounds()); bad != nil {
			return false
		}
		offer = r
		return true
	})
	if err != nil {
		return lease{}, err
	}
	request, err := dhcpv6.NewRequestFromAdvertise(offer, want6)
	if err != nil {
		return lease{}, err
	}
	return a.finish(ctx, conn, request)
}

func (a *asker6) extend(ctx context.Context, l lease, rebind bool) (lease, error) {
	conn, err := a.open()
	if err != nil {
		return lease{}, err
	}
	defer conn.Close()
	m, err := dhcpv6.NewMessage()
	if err != nil {
		return lease{}, err
	}
	m.MessageType = dhcpv6.MessageTypeRenew
	m.AddOption(dhcpv6.OptClientID(a.duid()))
	if rebind {
		m.MessageType = dhcpv6.MessageTypeRebind
	} else {
		m.AddOption(dhcpv6.OptServerID(l.six.Options.ServerID()))
	}
	m.AddOption(dhcpv6.OptElapsedTime(0))
	m.AddOption(&dhcpv6.OptIANA{IaId: a.bounds().iaid, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
		&dhcpv6.OptIAAddress{IPv6Addr: l.sixAddress},
	}}})
	want6(m)
	return a.finish(ctx, conn, m)
}

func (a *asker6) finish(ctx context.Context, conn net.PacketConn, m *dhcpv6.Message) (lease, error) {
	var answer *dhcpv6.Message
	err := a.send(ctx, conn, m, func(r *dhcpv6.Message) bool {
		answer = r
		return r.MessageType == dhcpv6.MessageTypeReply
	})
	if err != nil {
		return lease{}, fmt.Errorf("asking: %w", err)
	}
	return fromReply(answer, a.bounds())
}
