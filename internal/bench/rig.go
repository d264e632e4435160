package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/quarantine"
)

const roleRig = "rig"

// A rig is a gateway in one network namespace, with a link that stands in for the tunnel
// and a link to the outside. Frames are put into their far ends, which are in the same
// namespace and have no addresses; the gateway's answers go to neighbours that nobody is.
const (
	nearTunnel, farTunnel   = tunnelName, "device0"
	nearOutside, farOutside = "outside0", "world0"
)

var (
	tunnelSide  = netip.MustParsePrefix("10.255.255.1/30")
	tunnelNext  = netip.MustParseAddr("10.255.255.2")
	outsideSide = netip.MustParsePrefix("192.0.2.1/24")
	nobody      = net.HardwareAddr{2, 0, 0, 0, 0, 9}

	routedTarget      = netip.MustParseAddrPort("192.0.2.20:9000")
	quarantinedTarget = netip.MustParseAddrPort("192.0.2.10:443")
)

// rigArgs says what a rig is.
type rigArgs struct {
	Rules   string // name of a ruleset, see rulesets; empty: none, not even connection tracking
	Devices int
	Senders int  // how many of them, drawn at random, send
	Idle    bool // has the links only, for a data plane beside it
}

// rig is the state of the role.
type rig struct {
	args  rigArgs
	rules rules
	paths map[string]*path
	pace  *pacer
	moves int // so far
}

// path is a way for packets through the gateway.
type path struct {
	wire   *wire
	frames *frames
	out    string // the interface that packets leave by
}

// runRig is the role of a rig.
func runRig(ctx context.Context, args []string) error {
	r := &rig{paths: make(map[string]*path)}
	if err := arguments(args, &r.args); err != nil {
		return err
	}
	if err := connectRig(); err != nil {
		return err
	}
	defer r.close()
	if !r.args.Idle {
		if err := r.open(); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // one thread sends
	return obey(ctx, nil, r.obey)
}

// connectRig makes the links.
func connectRig() error {
	for _, pair := range [][2]string{{nearTunnel, farTunnel}, {nearOutside, farOutside}} {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = pair[0]
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: pair[1]}); err != nil {
			return fmt.Errorf("making link %s: %w", pair[0], err)
		}
		for _, name := range pair {
			// IPv6's own packets would be counted; where there is no IPv6 there are none.
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				return fmt.Errorf("setting %s up: %w", name, err)
			}
		}
	}
	err := errors.Join(
		addressRig(nearTunnel, tunnelSide, tunnelNext),
		addressRig(nearOutside, outsideSide, routedTarget.Addr(), quarantinedTarget.Addr()))
	if err != nil {
		return err
	}
	for _, name := range []string{"quarantine", fullPool} {
		p := moverPools()[name].IPv4
		to := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
		// A data plane beside the rig has the same prefixes on its own link, and a better metric.
		if err := netlink.RouteAdd(&netlink.Route{Dst: to, Gw: tunnelNext.AsSlice(), Priority: 9999}); err != nil {
			return fmt.Errorf("adding a route to %s: %w", p, err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("switching forwarding on: %w", err)
	}
	return nil
}

// addressRig gives an interface its address, and neighbours that need not be asked for.
func addressRig(name string, own netip.Prefix, neighbours ...netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	ip := &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), 32)}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("adding %s to %s: %w", own, name, err)
	}
	for _, a := range neighbours {
		n := &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: nobody}
		if err := netlink.NeighAdd(n); err != nil {
			return fmt.Errorf("adding neighbour %s of %s: %w", a, name, err)
		}
	}
	return nil
}

// open loads the ruleset, prepares packets of every device, and sees each of them through.
func (r *rig) open() error {
	if err := r.use(r.args.Rules); err != nil {
		return err
	}
	for _, name := range []string{"udp_timeout", "udp_timeout_stream"} {
		// Flows must outlast the run. Where this may not be written, each turn refreshes them.
		_ = os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_"+name, []byte("3600"), 0)
	}
	for _, x := range []struct {
		name, pool string
		to         netip.AddrPort
	}{{"routed", fullPool, routedTarget}, {"quarantined", "quarantine", quarantinedTarget}} {
		flows, err := flowsOf(x.pool, r.senders(), x.to)
		if err != nil {
			return err
		}
		if err := r.prepare(x.name, flows, "up", "down"); err != nil {
			return err
		}
	}
	return nil
}

// use loads a ruleset and then removes the one before, so that what is tracked stays tracked.
func (r *rig) use(name string) error {
	load, ok := rulesets[name]
	if !ok {
		return fmt.Errorf("no ruleset %q", name)
	}
	next, err := load(r.args.Devices)
	if err != nil {
		return fmt.Errorf("loading ruleset %q: %w", name, err)
	}
	if r.rules != nil {
		err = r.rules.close()
	}
	r.rules = next
	return err
}

// senders are the devices that send, the same in every rig.
func (r *rig) senders() []int {
	return rand.New(rand.NewPCG(2, 2)).Perm(r.args.Devices)[:min(r.args.Senders, r.args.Devices)]
}

// flowsOf are flows of these devices, one each.
func flowsOf(pool string, devices []int, to netip.AddrPort) ([]flow, error) {
	flows := make([]flow, len(devices))
	for i, d := range devices {
		a, _, err := moverPools()[pool].Address(quarantine.Seat(d + 1))
		if err != nil {
			return nil, err
		}
		flows[i] = flow{netip.AddrPortFrom(a, 5000), to}
	}
	return flows, nil
}

// prepare makes the paths of these flows: up, and down for the answers.
func (r *rig) prepare(name string, flows []flow, directions ...string) error {
	for _, direction := range directions {
		far, near, out := farTunnel, nearTunnel, nearOutside
		if direction == "down" {
			far, near, out = farOutside, nearOutside, nearTunnel
			for i, f := range flows {
				flows[i] = f.back()
			}
		}
		i, err := net.InterfaceByName(near)
		if err != nil {
			return fmt.Errorf("finding %s: %w", near, err)
		}
		w, err := openWire(far, 0)
		if err != nil {
			return err
		}
		p := &path{wire: w, frames: newFrames(nobody, i.HardwareAddr, flows), out: out}
		r.paths[name+" "+direction] = p
		if _, err := p.time(len(flows)); err != nil { // makes the flows known
			return fmt.Errorf("%s %s: %w", name, direction, err)
		}
	}
	return nil
}

func (r *rig) close() {
	if r.rules != nil {
		_ = r.rules.close() // the namespace ends with its processes
	}
	for _, p := range r.paths {
		p.wire.Close()
	}
}

// drained is how long packets may be on their way through one machine.
const drained = 2 * time.Second

// time sends n packets and returns how long that took until the last one had left the
// gateway. One that does not is an error: a lost packet costs nothing.
func (p *path) time(n int) (time.Duration, error) {
	before, err := left(p.out)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := p.wire.send(p.frames, n); err != nil {
		return 0, err
	}
	took := time.Since(start)
	for {
		now, err := left(p.out)
		if err != nil {
			return 0, err
		}
		if now-before >= uint64(n) {
			return took, nil
		}
		if took = time.Since(start); took > drained+time.Duration(n)*time.Millisecond {
			return 0, fmt.Errorf("%d of %d packets passed", now-before, n)
		}
	}
}

// left is how many packets left by an interface.
func left(name string) (uint64, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("counting packets of %s: %w", name, err)
	}
	return l.Attrs().Statistics.TxPackets, nil
}

func (r *rig) obey(ctx context.Context, o order) (any, error) {
	switch o.Do {
	case "move":
		return r.move(o.N)
	case "pace":
		return nil, r.startPace(ctx, o.N)
	case "paced":
		return r.stopPace()
	}
	if name, ok := strings.CutPrefix(o.Do, "use "); ok {
		return nil, r.use(name)
	}
	p, ok := r.paths[o.Do]
	if !ok {
		return unknown(o)
	}
	return p.slices(o.N)
}

// slice is how many packets are timed at once: few enough that some slices meet nobody else
// on the processor.
const slice = 2500

// slices sends n packets and returns how long one took in each slice.
func (p *path) slices(n int) (samples, error) {
	var took samples
	for ; n > 0; n -= slice {
		count := min(n, slice)
		d, err := p.time(count)
		if err != nil {
			return nil, err
		}
		took = append(took, d/time.Duration(count))
	}
	return took, nil
}

// move times n single changes of placement, of another device each pair: there and back,
// so that afterwards every packet passes again.
func (r *rig) move(n int) (samples, error) {
	var took samples
	for i := range 2 * ((n + 1) / 2) {
		if i%2 == 0 {
			r.moves++
		}
		start := time.Now()
		if err := r.rules.move(r.moves*7%r.args.Devices, i%2 == 0); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}
