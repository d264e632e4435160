package testnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pinger is one ICMP echo conversation.
type pinger struct {
	conn  net.PacketConn
	to    netip.Addr
	id    int
	proto int // for icmp.ParseMessage
	echo  icmp.Type
	reply icmp.Type
	size  int
}

// probeICMP sends echo requests from a raw socket, as the hosts' agents may.
func probeICMP(ctx context.Context, s ProbeSpec) ProbeResult {
	r := ProbeResult{ID: newStream(), At: Now()}
	p := pinger{to: s.To.Addr(), id: int(r.ID >> 16), proto: protoICMPv6, echo: ipv6.ICMPTypeEchoRequest, reply: ipv6.ICMPTypeEchoReply, size: s.Size}
	network := "ip6:ipv6-icmp"
	if p.to.Is4() {
		network = "ip4:icmp"
		p.proto, p.echo, p.reply = protoICMP, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	}
	from := ""
	if s.From.IsValid() {
		from = s.From.String()
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return controlSocket(c, s.Device, false) }}
	conn, err := lc.ListenPacket(ctx, network, from)
	if err != nil {
		return r.failed(NotSent, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	p.conn = conn
	r.Local = netip.AddrPortFrom(s.From, 0)
	return r.ask(ctx, s, func(n int) error { return p.send(r.ID, n) }, func() ProbeResult { return p.receive(r) })
}

func (p pinger) send(stream uint32, n int) error {
	m := stamped{kind: kindProbe, stream: stream, seq: uint64(n), sent: Now(), size: uint32(p.size)}
	b, err := (&icmp.Message{Type: p.echo, Body: &icmp.Echo{ID: p.id, Seq: n, Data: m.bytes()}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("encoding an echo request: %w", err)
	}
	_, err = p.conn.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice()})
	return err
}

// receive reads until the echo comes back, or an error that quotes the request.
func (p pinger) receive(r ProbeResult) ProbeResult {
	b := make([]byte, maxStamped)
	for {
		n, peer, err := p.conn.ReadFrom(b)
		if err != nil {
			return r.failed(Silent, err)
		}
		m, err := icmp.ParseMessage(p.proto, b[:n])
		if err != nil {
			continue // not ours to judge
		}
		switch body := m.Body.(type) {
		case *icmp.Echo:
			if m.Type != p.reply || body.ID != p.id || peer.String() != p.to.String() {
				continue
			}
			if got := r.answered(body.Data); got.Outcome == Echoed {
				return got
			}
		case *icmp.DstUnreach:
			if rec, ok := parsePacket(body.Data); ok && rec.Stream == r.ID {
				return r.failed(Unreachable, fmt.Errorf("%s says: unreachable, code %d", peer, m.Code))
			}
		}
	}
}
