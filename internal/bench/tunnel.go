package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/firewall"
	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

const (
	roleKeeper = "keeper"
	rolePump   = "pump"
	roleDrain  = "drain"
)

// keeperArgs says what a keeper is made of.
type keeperArgs struct {
	Device  tunnel.Key // of the one device that is there
	Key     string     // the gateway's own private key
	Devices int        // in the table
}

// keeper is a gateway's table and link in one process, without what decides about them.
// Its one real device has the seats 1 and 2, so that one of them can be cut while the
// other's flows stay.
type keeper struct {
	args  keeperArgs
	link  *tunnel.Link
	table *firewall.Table // nil: switched off
}

func seatAddress(pool string, seat quarantine.Seat) (netip.Addr, error) {
	a, _, err := moverPools()[pool].Address(seat)
	return a, err
}

// ownAddresses are those of the real device: of both seats in the full pool.
func ownAddresses() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, seat := range []quarantine.Seat{1, 2} {
		a, err := seatAddress(fullPool, seat)
		if err != nil {
			return nil, err
		}
		all = append(all, netip.PrefixFrom(a, 32))
	}
	return all, nil
}

// runKeeper is the role of a gateway's table and link.
func runKeeper(ctx context.Context, args []string) error {
	k := &keeper{}
	if err := arguments(args, &k.args); err != nil {
		return err
	}
	key, err := tunnel.ParsePrivateKey(k.args.Key)
	if err != nil {
		return err
	}
	k.link, err = tunnel.Open(ctx, tunnel.Config{Name: tunnelName, PrivateKey: key, ListenPort: tunnelPort})
	if err != nil {
		return err
	}
	defer k.link.Close()
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	if err := k.link.SetAddresses(moverGateway()); err != nil {
		return err
	}
	if err := k.link.SetPeer(tunnel.Peer{Key: k.args.Device, AllowedIPs: own}); err != nil {
		return err
	}
	defer func() {
		if k.table != nil {
			k.table.Close()
		}
	}()
	return obey(ctx, nil, k.obey)
}

// moverGateway are the gateway's own addresses in the pools of the moved devices, IPv4.
func moverGateway() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range moverPools() {
		all = append(all, p.GatewayAddresses()[0])
	}
	return all
}

func (k *keeper) obey(ctx context.Context, o order) (any, error) {
	switch o.Do {
	case "on":
		return nil, k.on()
	case "off":
		return nil, k.off()
	case "cut":
		return k.place(true)
	case "release":
		return k.place(false)
	case "tracked":
		return tracked()
	case "forget":
		return k.forget(ctx)
	case "delete":
		return k.delete()
	}
	return unknown(o)
}

// on makes the table, with the real device released.
func (k *keeper) on() error {
	e, err := elementsOf(k.args.Devices, false)
	if err != nil {
		return err
	}
	if k.table, err = openTable(); err != nil {
		return err
	}
	return k.table.Fill(rigRules(), e)
}

// off removes the table, and with it all connection tracking.
func (k *keeper) off() error {
	if k.table == nil {
		return errors.New("there is no table")
	}
	err := k.table.Close()
	k.table = nil
	return errors.Join(err, removeTable("lazaret"))
}

// place cuts or releases the first seat, as the data plane does: table first, then peer.
func (k *keeper) place(cut bool) (span, error) {
	own, err := ownAddresses()
	if err != nil {
		return span{}, err
	}
	quarantined, err := seatAddress("quarantine", 1)
	if err != nil {
		return span{}, err
	}
	c := firewall.Change{AddRouted: []firewall.Routed{{Addr: own[0].Addr(), Mark: 1, Until: firewall.After(time.Hour)}}}
	p := tunnel.Peer{Key: k.args.Device, AllowedIPs: append(own, netip.PrefixFrom(quarantined, 32))}
	if cut {
		c = firewall.Change{DelRouted: []netip.Addr{own[0].Addr()}}
		p.AllowedIPs = p.AllowedIPs[1:]
	}
	s := span{From: testnet.Now()}
	if err := k.table.Apply(c); err != nil {
		return s, err
	}
	err = k.link.SetPeer(p)
	s.To = testnet.Now()
	return s, err
}

// tracked is how many flows this namespace tracks.
func tracked() (int, error) { return readNumber("/proc/sys/net/netfilter/nf_conntrack_count") }

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading a number: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return n, nil
}

// forget deletes the tracked flows of the first seat with a filter in the kernel.
func (k *keeper) forget(ctx context.Context) (time.Duration, error) {
	own, err := ownAddresses()
	if err != nil {
		return 0, err
	}
	flows, err := firewall.OpenFlows(0)
	if err != nil {
		return 0, err
	}
	defer flows.Close()
	start := time.Now()
	err = flows.Forget(ctx, own[0].Addr())
	return time.Since(start), err
}

// delete lists all tracked flows and deletes those of the first seat one by one.
func (k *keeper) delete() (time.Duration, error) {
	own, err := ownAddresses()
	if err != nil {
		return 0, err
	}
	f := &netlink.ConntrackFilter{}
	if err := f.AddIP(netlink.ConntrackOrigSrcIP, own[0].Addr().AsSlice()); err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	return time.Since(start), err
}

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
	var with, without rates
	for r := range 2*s.rounds + 1 { // the first is for warming up
		for _, policy := range []bool{r%2 == 0, r%2 == 1} {
			if policy {
				if err := p.keeper.ask(ctx, order{Do: "on"}, nil); err != nil {
					return err
				}
			}
			rate, err := once()
			if err != nil {
				return err
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
					return err
				}
			}
		}
	}
	s.add(row{Name: fmt.Sprintf("tunnel throughput with the table of %d devices", n), Value: with.best(), Unit: "Gbit/s", Base: number(without.best()),
		Ratio: number(with.best() / without.best()), Bound: number(0.95), AtLeast: true,
		ComparedWith: fmt.Sprintf("without a table; one TCP connection, userspace WireGuard at both ends, mean of the best quarter of %d turns each", len(with))})
	s.add(row{Name: "tunnel throughput, median", Value: with.median(), Unit: "Gbit/s", Base: number(without.median()), Ratio: number(with.median() / without.median()),
		ComparedWith: "the same"})
	return nil
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
