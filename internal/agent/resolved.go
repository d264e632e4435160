package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/godbus/dbus/v5"
)

// errNoResolved reports a device without systemd-resolved.
var errNoResolved = errors.New("systemd-resolved does not run")

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager."
	busTime         = 5 * time.Second // of one order

	// Address families as the bus numbers them, which are Linux's.
	busINET, busINET6 = 2, 10
)

// resolved is systemd-resolved, told over the system bus which servers go with the
// tunnel's interface. It forgets them with the interface, or when told to
// (org.freedesktop.resolve1(5)). Each order has a connection of its own, so that a bus
// that was restarted is of no consequence.
type resolved struct{ link int32 }

func openResolved(ctx context.Context, device string) (*resolved, error) {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoResolved, err)
	}
	var runs bool
	err = bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&runs)
	err = errors.Join(err, bus.Close())
	if err != nil || !runs {
		return nil, errors.Join(errNoResolved, err)
	}
	link, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("finding interface %s: %w", device, err)
	}
	return &resolved{int32(link.Index)}, nil
}

// resolvedServer and resolvedDomain are shapes of the bus.
type resolvedServer struct {
	Family  int32
	Address []byte
}

type resolvedDomain struct {
	Name      string
	RouteOnly bool
}

// set makes the servers those of the interface, and the interface the one whose servers
// are asked for every name.
func (r *resolved) set(servers []netip.Addr) error {
	if len(servers) == 0 {
		return r.restore()
	}
	list := make([]resolvedServer, len(servers))
	for i, s := range servers {
		list[i] = resolvedServer{busINET6, s.AsSlice()}
		if s.Is4() {
			list[i].Family = busINET
		}
	}
	return r.call(order{"SetLinkDNS", list}, order{"SetLinkDomains", []resolvedDomain{{".", true}}}, order{"SetLinkDefaultRoute", true})
}

func (r *resolved) restore() error { return r.call(order{"RevertLink", nil}) }

// order is a method of the manager and what it takes beside the interface, nil for nothing.
type order struct {
	method string
	arg    any
}

// call gives the orders one after the other, over one connection, until one fails.
func (r *resolved) call(orders ...order) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), busTime) // also while the agent ends
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("telling systemd-resolved the DNS servers: %w", err)
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	manager := bus.Object(resolvedName, resolvedPath)
	for _, o := range orders {
		args := []any{r.link}
		if o.arg != nil {
			args = append(args, o.arg)
		}
		if err := manager.CallWithContext(ctx, resolvedManager+o.method, 0, args...).Err; err != nil {
			return fmt.Errorf("telling systemd-resolved the DNS servers (%s): %w", o.method, err)
		}
	}
	return nil
}
