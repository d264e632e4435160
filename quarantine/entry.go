package quarantine

import (
	"fmt"
	"net/netip"
	"slices"
)

// EntryFor is what the data plane must hold of a device that stands at p. It is pure. A
// stage without a peer, and an error, give an Entry without Key, which removes the device;
// a lease with less than a second left gives one that is not routed.
func EntryFor(f Facts, p Placement, now Instant) (Entry, error) {
	r := f.Record
	e := Entry{Device: r.ID, Revision: r.Revision, Tighten: r.Tighten}
	if p.Stage.freedom() == 0 {
		return e, nil
	}
	if r.Key.IsZero() {
		return e, fmt.Errorf("making the entry of device %s: it has no WireGuard key", r.ID)
	}
	quarantined, err := addresses(f.Pools, f.quarantinePool(), r.Seat)
	if err != nil {
		return e, fmt.Errorf("making the entry of device %s: %w", r.ID, err)
	}
	full := e
	full.Key, full.Next, full.Quarantined = r.Key, r.Next, quarantined
	if p.Stage != Routed {
		return full, nil
	}
	until := now.Deadline(p.Until)
	pool := f.Pools[p.Pool]
	if until == 0 || pool.Quarantine || pool.Mark == 0 {
		return full, nil
	}
	switch f.Profile.Addressing {
	case Follow:
		full.Routed, err = addresses(f.Pools, p.Pool, r.Seat)
		if err != nil {
			return full, fmt.Errorf("making the entry of device %s: %w", r.ID, err)
		}
	case Fixed: // in the families that the pool has, like everybody else in it
		full.Routed = slices.DeleteFunc(slices.Clone(quarantined), func(a netip.Addr) bool {
			return a.Is4() && !pool.IPv4.IsValid() || a.Is6() && !pool.IPv6.IsValid()
		})
		if len(full.Routed) == 0 {
			full.Routed = nil
			return full, nil
		}
	default:
		return full, fmt.Errorf("making the entry of device %s: unknown addressing %q", r.ID, f.Profile.Addressing)
	}
	full.Mark, full.Until = pool.Mark, until
	return full, nil
}

// addresses returns the seat's addresses in the named pool, one of each family it has.
func addresses(pools map[string]Pool, name string, seat Seat) ([]netip.Addr, error) {
	pool, ok := pools[name]
	if !ok {
		return nil, fmt.Errorf("pool %q does not exist", name)
	}
	v4, v6, err := pool.Address(seat)
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all, nil
}
