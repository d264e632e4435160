package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// errNoResolved reports a device without systemd-resolved.
var errNoResolved = errors.New("systemd-resolved does not run")

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager."
	busTime         = 5 * time.Second // of one call
)

// resolved is systemd-resolved, told over the system bus which servers go with the
// tunnel's interface. It forgets them with the interface, or when told to
// (org.freedesktop.resolve1(5)).
type resolved struct {
	bus  *dbus.Conn
	link int32
}

func openResolved(ctx context.Context, device string) (*resolved, error) {
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoResolved, err)
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	var runs bool
	err = bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&runs)
	if err != nil || !runs {
		return nil, errors.Join(errNoResolved, err, bus.Close())
	}
	link, err := net.InterfaceByName(device)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("finding interface %s: %w", device, err), bus.Close())
	}
	return &resolved{bus, int32(link.Index)}, nil
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
		return r.call("RevertLink")
	}
	list := make([]resolvedServer, len(servers))
	for i, s := range servers {
		list[i] = resolvedServer{unix.AF_INET6, s.AsSlice()}
		if s.Is4() {
			list[i].Family = unix.AF_INET
		}
	}
	if err := r.call("SetLinkDNS", list); err != nil {
		return err
	}
	if err := r.call("SetLinkDomains", []resolvedDomain{{".", true}}); err != nil {
		return err
	}
	return r.call("SetLinkDefaultRoute", true)
}

func (r *resolved) call(method string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTime) // also while the agent ends
	defer cancel()
	manager := r.bus.Object(resolvedName, resolvedPath)
	if err := manager.CallWithContext(ctx, resolvedManager+method, 0, append([]any{r.link}, args...)...).Err; err != nil {
		return fmt.Errorf("telling systemd-resolved the DNS servers (%s): %w", method, err)
	}
	return nil
}

func (r *resolved) restore() error {
	return errors.Join(r.call("RevertLink"), r.bus.Close())
}
