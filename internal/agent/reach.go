package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"lazaret/enroll/cmp"
)

// way is one way to reach a gateway: an address of one of its endpoints.
type way struct {
	Gateway  string // name
	Endpoint netip.AddrPort
}

// gatewayOf is the gateway of a way, or the first where the settings name it no more.
func gatewayOf(s cmp.Settings, w way) (cmp.Gateway, error) {
	if len(s.Gateways) == 0 {
		return cmp.Gateway{}, errors.New("the gateway named no gateway to connect to: enroll anew")
	}
	i := max(slices.IndexFunc(s.Gateways, func(g cmp.Gateway) bool { return g.Name == w.Gateway }), 0)
	return s.Gateways[i], nil
}

// ways looks all endpoints up, in the order in which the settings name them; those that
// this device has a route to come first.
func ways(ctx context.Context, gateways []cmp.Gateway) ([]way, error) {
	var near, far []way
	var faults []error
	for _, g := range gateways {
		for _, e := range g.Endpoints {
			addrs, err := lookup(ctx, e)
			if err != nil {
				faults = append(faults, err)
			}
			for _, a := range addrs {
				if routed(a) {
					near = append(near, way{g.Name, a})
				} else {
					far = append(far, way{g.Name, a})
				}
			}
		}
	}
	all := append(near, far...)
	if len(all) == 0 {
		return nil, fmt.Errorf("finding the gateway: %w", errors.Join(append(faults, errors.New("the enrollment names no endpoint that has an address"))...))
	}
	return all, nil
}

func lookup(ctx context.Context, endpoint string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap(), uint16(n))
	}
	return out, nil
}

// routed says whether the device knows a way to an address; nothing is sent.
func routed(to netip.AddrPort) bool {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// following is the way to try after the one that brought no answer.
func following(all []way, last way) way {
	return all[(slices.Index(all, last)+1)%len(all)]
}

// resolve looks the gateways up and takes the first way; where that is the one in use, and
// it brought no answer, the next.
func (a *Agent) resolve(ctx context.Context) error {
	a.mu.Lock()
	gateways, last, known := a.state.Settings.Gateways, a.via, a.ways
	a.mu.Unlock()
	all, err := ways(ctx, gateways)
	if err != nil && len(known) == 0 {
		return err
	}
	if err != nil { // names cannot be looked up now: go by what was found before
		a.log.Warn("looking gateways up", "err", err)
		all = known
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.via, a.ways = following(all, last), all
	if a.via != last && last != (way{}) {
		a.log.Info("trying another way to the gateway", "gateway", a.via.Gateway, "endpoint", a.via.Endpoint)
	}
	return nil
}
