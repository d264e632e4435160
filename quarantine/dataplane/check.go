package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// ErrRefused reports an order that the data plane does not take from anybody.
var ErrRefused = errors.New("the data plane refuses the order")

const (
	maxID        = 128     // bytes of a device's or a control plane's name
	maxAddresses = 4       // of one entry, of each kind
	maxEntries   = 1 << 20 // of one plan
	maxPools     = 1024    // of one plan
	maxFailed    = 1 << 12 // devices whose failed moves are remembered by name
)

// rules are the constant part of the table under one plan: the host's own, with the
// plan's pools and addresses.
type rules struct {
	firewall.Ruleset
	own []netip.Prefix
}

// underPlan joins host and plan. The control plane may describe pools, and nothing of
// the host: every gateway address stands in a pool.
func underPlan(host firewall.Ruleset, p quarantine.Plan) (rules, error) {
	r := rules{host, slices.Clone(p.Gateway)}
	if p.Control == "" || len(p.Control) > maxID {
		return r, fmt.Errorf("%w: the plan does not name its control plane", ErrRefused)
	}
	if len(p.Pools) == 0 || len(p.Pools) > maxPools {
		return r, fmt.Errorf("%w: the plan has %d pools, want 1 to %d", ErrRefused, len(p.Pools), maxPools)
	}
	r.Pools, r.Gateway = slices.Clone(p.Pools), nil
	for _, own := range p.Gateway {
		if !slices.ContainsFunc(p.Pools, func(pool firewall.Pool) bool {
			return own.IsValid() && (own.Masked() == pool.IPv4 || own.Masked() == pool.IPv6)
		}) {
			return r, fmt.Errorf("%w: gateway address %s is in no pool", ErrRefused, own)
		}
		r.Gateway = append(r.Gateway, own.Addr())
	}
	if err := r.Check(); err != nil {
		return r, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return r, nil
}

// check refuses an entry that makes no sense under the rules, whatever else is held.
func (r rules) check(e quarantine.Entry) error {
	fault := func(format string, a ...any) error {
		return fmt.Errorf("%w: device %.128q: %s", ErrRefused, e.Device, fmt.Sprintf(format, a...))
	}
	if e.Device == "" || len(e.Device) > maxID {
		return fault("the name has %d bytes", len(e.Device))
	}
	if e.Key.IsZero() {
		return nil
	}
	if !e.Key.Valid() || !e.Next.IsZero() && (!e.Next.Valid() || e.Next == e.Key) {
		return fault("keys %s and %s", e.Key, e.Next)
	}
	if len(e.Quarantined) > maxAddresses || len(e.Routed) > maxAddresses {
		return fault("more than %d addresses", maxAddresses)
	}
	for _, a := range slices.Concat(e.Quarantined, e.Routed) {
		if slices.Contains(r.Gateway, a) || !slices.ContainsFunc(r.Pools, func(p firewall.Pool) bool { return in(p, a) }) {
			return fault("address %s is no device's", a)
		}
	}
	if len(e.Routed) == 0 {
		return nil
	}
	if e.Mark == 0 || !slices.ContainsFunc(r.Pools, func(p firewall.Pool) bool { return p.Mark == e.Mark }) {
		return fault("no pool has mark %d", e.Mark)
	}
	if e.Until <= 0 {
		return fault("routing without an end")
	}
	return nil
}

func in(p firewall.Pool, a netip.Addr) bool { return p.IPv4.Contains(a) || p.IPv6.Contains(a) }
