package main

import (
	"context"
	"errors"
	"fmt"
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

const roleKeeper = "keeper"

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
