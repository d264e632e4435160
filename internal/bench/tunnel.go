package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

const (
	rolePump  = "pump"
	roleDrain = "drain"
)

// passage is a lab with a keeper, a device behind its tunnel, and a server beyond.
type passage struct {
	net    *testnet.Net
	keeper *worker
	device netip.Addr // the first seat's address in the full pool
	second netip.Addr
}

func openPassage(ctx context.Context, s *session, devices int) (*passage, error) {
	pools := moverPools()
	n, err := testnet.Standard(ctx, testnet.Config{}, testnet.Params{Pools: []netip.Prefix{pools["quarantine"].IPv4, pools[fullPool].IPv4}})
	if err != nil {
		return nil, err
	}
	p := &passage{net: n}
	if err := p.start(ctx, devices); err != nil {
		n.Close()
		return nil, err
	}
	return p, nil
}

func (p *passage) start(ctx context.Context, devices int) error {
	device, err := tunnel.GeneratePrivateKey()
	if err != nil {
		return err
	}
	gateway, err := tunnel.GeneratePrivateKey()
	if err != nil {
		return err
	}
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	p.device, p.second = own[0].Addr(), own[1].Addr()
	if p.keeper, err = startWorker(ctx, p.net.Gateway, roleKeeper, false, keeperArgs{Device: device.Public(), Key: gateway.Text(), Devices: devices}, nil); err != nil {
		return err
	}
	if err := p.net.Gateway.Configure(ctx, testnet.NetConfig{Sysctls: map[string]string{"net/ipv4/ip_forward": "1"}}); err != nil {
		return err
	}
	to := netip.PrefixFrom(p.net.Plan.Intranet.V4, 32)
	if _, err := p.net.Dev1.WireGuard(ctx, testnet.WireGuardSpec{Device: "wg0", Key: device, Addrs: own, Peers: []tunnel.Peer{{
		Key: gateway.Public(), AllowedIPs: []netip.Prefix{to}, Endpoint: netip.AddrPortFrom(p.net.Plan.GatewayOuter.V4, tunnelPort), KeepAlive: time.Second,
	}}}); err != nil {
		return err
	}
	return p.net.Dev1.Configure(ctx, testnet.NetConfig{Routes: []testnet.Route{{To: to, Device: "wg0", From: p.device}}})
}

// warm is how long a connection runs before its bytes count.
const warm = 100 * time.Millisecond

func (s *session) pumpMillis() int {
	if s.quick {
		return 200
	}
	return 400
}

// measureTunnel compares the throughput of one TCP connection through the tunnel with the
// whole table and with none.
func measureTunnel(ctx context.Context, s *session) error {
	n := s.deviceCounts()[1]
	p, err := openPassage(ctx, s, n)
	if err != nil {
		return err
	}
	defer p.net.Close()
	at := netip.AddrPortFrom(p.net.Plan.Intranet.V4, sinkPort)
	drain, err := startWorker(ctx, p.net.Intranet, roleDrain, true, at, nil)
	if err != nil {
		return err
	}
	pump, err := startWorker(ctx, p.net.Dev1, rolePump, true, sendArgs{From: p.device, To: at}, nil)
	if err != nil {
		return err
	}
	once := func() (float64, error) {
		if err := pump.ask(ctx, order{Do: "pump", N: s.pumpMillis()}, nil); err != nil {
			return 0, err
		}
		var rate float64
		err := drain.ask(ctx, order{Do: "rate"}, &rate)
		return rate, err
	}
	with, without, err := p.turns(ctx, 2*s.rounds, once)
	if err != nil {
		return err
	}
	s.add(row{Name: fmt.Sprintf("tunnel throughput with the table of %d devices", n), Value: with.best(), Unit: "Gbit/s", Base: number(without.best()),
		Ratio: number(with.best() / without.best()), Bound: number(0.95), AtLeast: true,
		ComparedWith: fmt.Sprintf("without a table; one TCP connection, userspace WireGuard at both ends, mean of the best quarter of %d turns each", len(with))})
	s.add(row{Name: "tunnel throughput, median", Value: with.median(), Unit: "Gbit/s", Base: number(without.median()), Ratio: number(with.median() / without.median()),
		ComparedWith: "the same"})
	return nil
}

// turns measures with the table and without it, the one that is first changing each time.
func (p *passage) turns(ctx context.Context, n int, once func() (float64, error)) (with, without rates, err error) {
	for r := range n + 1 { // the first is for warming up
		for _, policy := range []bool{r%2 == 0, r%2 == 1} {
			if policy {
				if err := p.keeper.ask(ctx, order{Do: "on"}, nil); err != nil {
					return nil, nil, err
				}
			}
			rate, err := once()
			if err != nil {
				return nil, nil, err
			}
			switch {
			case r == 0:
			case policy:
				with = append(with, rate)
			default:
				without = append(without, rate)
			}
			if policy {
				if err := p.keeper.ask(ctx, order{Do: "off"}, nil); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	return with, without, nil
}

// runPump is the role of a device that sends as much as it can.
func runPump(ctx context.Context, args []string) error {
	var a sendArgs
	if err := arguments(args, &a); err != nil {
		return err
	}
	return obey(ctx, nil, func(ctx context.Context, o order) (any, error) {
		if o.Do != "pump" {
			return unknown(o)
		}
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.From, 0)), Timeout: 20 * time.Second}
		c, err := d.DialContext(ctx, "tcp", a.To.String())
		if err != nil {
			return nil, err
		}
		defer c.Close()
		b := make([]byte, 128<<10)
		for end := time.Now().Add(warm + time.Duration(o.N)*time.Millisecond); time.Now().Before(end); {
			if _, err := c.Write(b); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
}

// drain is who receives it.
type drain struct{ rate chan float64 }

// runDrain is the role of the server that receives and throws away.
func runDrain(ctx context.Context, args []string) error {
	var at netip.AddrPort
	if err := arguments(args, &at); err != nil {
		return err
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	defer l.Close()
	d := &drain{rate: make(chan float64, 1)}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.rate <- receive(c)
		}
	}()
	return obey(ctx, nil, func(ctx context.Context, o order) (any, error) {
		if o.Do != "rate" {
			return unknown(o)
		}
		select {
		case r := <-d.rate:
			if r == 0 {
				return nil, errors.New("the connection ended too early to count")
			}
			return r, nil
		case <-time.After(20 * time.Second):
			return nil, errors.New("no connection ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// receive reads until the end and returns the rate in Gbit/s of what came after warm.
func receive(c net.Conn) float64 {
	defer c.Close()
	b := make([]byte, 256<<10)
	var bytes int64
	start := time.Now()
	var from, last time.Time
	for {
		n, err := c.Read(b)
		now := time.Now()
		if n > 0 {
			switch {
			case now.Sub(start) < warm:
			case from.IsZero():
				from = now // this one's bytes came before
			default:
				bytes, last = bytes+int64(n), now
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) || last.IsZero() {
				return 0
			}
			return float64(bytes) * 8 / float64(last.Sub(from))
		}
	}
}
