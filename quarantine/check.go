package quarantine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"lazaret/firewall"
	"lazaret/internal/form"
)

// MaxPools is how many pools a gateway takes.
const MaxPools = 1024

// maxName is the longest name of a pool, in bytes.
const maxName = 40

// Check validates the pool by itself, for seats up to highest, the highest given out so
// far. It returns all faults at once.
func (p Pool) Check(highest Seat) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("pool %q: "+format, append([]any{p.Name}, args...)...))
	}
	if !plainName(p.Name) {
		fault("the name must be 1 to %d letters, digits, '-' or '_', starting with a letter", maxName)
	}
	if err := p.checkPrefixes(highest); err != nil {
		fault("%w", err)
	}
	if p.Quarantine && p.Mark != 0 {
		fault("the quarantine pool has no mark, not %d", p.Mark)
	}
	if p.Quarantine && p.NeedUser {
		fault("the quarantine pool asks for no user session")
	}
	for i, reach := range p.Reach {
		if err := checkReach(reach, p.Quarantine); err != nil {
			fault("reach %d: %w", i+1, err)
		}
	}
	if err := p.checkNames(); err != nil {
		fault("%w", err)
	}
	for _, route := range p.Routes {
		if err := form.Network(route); err != nil {
			fault("route: %w", err)
		}
	}
	for _, addr := range p.DNS {
		if !addr.IsValid() || addr.Is4In6() || addr.IsUnspecified() {
			fault("DNS server %s is not an address that can be asked", addr)
		}
	}
	return errors.Join(faults...)
}

func (p Pool) checkPrefixes(highest Seat) error {
	var faults []error
	if len(p.prefixes()) == 0 {
		return errors.New("needs an IPv4 prefix, an IPv6 prefix or both")
	}
	for _, family := range []struct {
		name   string
		prefix netip.Prefix
		v4     bool
	}{{"IPv4", p.IPv4, true}, {"IPv6", p.IPv6, false}} {
		if family.prefix == (netip.Prefix{}) {
			continue
		}
		switch err := form.Network(family.prefix); {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s prefix: %w", family.name, err))
		case family.prefix.Addr().Is4() != family.v4:
			faults = append(faults, fmt.Errorf("%s is not an %s prefix", family.prefix, family.name))
		default:
			if err := firewall.CheckPrefix(family.prefix); err != nil {
				faults = append(faults, fmt.Errorf("%s prefix: %w", family.name, err))
			}
		}
	}
	if last := p.LastSeat(); len(faults) == 0 && (last == 0 || last < highest) {
		faults = append(faults, fmt.Errorf("the prefixes have room for seats up to %d, and %d is needed: take a larger prefix", last, max(highest, 1)))
	}
	return errors.Join(faults...)
}

func checkReach(r firewall.Reach, quarantine bool) error {
	return form.Reach{To: r.To, Protocol: string(r.Protocol), From: r.From, Up: r.Up}.Check(quarantine)
}

// CheckPools validates all pools together, for seats up to highest: each by itself, keyed
// by its name, exactly one of them the quarantine pool, no two sharing addresses or marks,
// and no device reachable from quarantine.
func CheckPools(pools map[string]Pool, highest Seat) error {
	var faults []error
	var quarantine []string
	if len(pools) > MaxPools {
		return fmt.Errorf("there would be %d pools, and a gateway takes %d: delete a pool that no profile names, or let profiles share one", len(pools), MaxPools)
	}
	names := slices.Sorted(maps.Keys(pools))
	for i, name := range names {
		p := pools[name]
		if p.Name != name {
			faults = append(faults, fmt.Errorf("pool %q is filed under %q", p.Name, name))
		}
		if err := p.Check(highest); err != nil {
			faults = append(faults, err)
		}
		if p.Quarantine {
			quarantine = append(quarantine, name)
		}
		for _, other := range names[i+1:] {
			faults = append(faults, checkPair(p, pools[other])...)
		}
	}
	if len(quarantine) != 1 {
		faults = append(faults, fmt.Errorf("want exactly one quarantine pool, have %d %q", len(quarantine), quarantine))
	} else {
		faults = append(faults, checkApart(pools[quarantine[0]], pools)...)
	}
	return errors.Join(faults...)
}

func checkPair(a, b Pool) []error {
	var faults []error
	for _, x := range a.prefixes() {
		for _, y := range b.prefixes() {
			if x.Overlaps(y) {
				faults = append(faults, fmt.Errorf("pools %q and %q share addresses: %s and %s overlap", a.Name, b.Name, x, y))
			}
		}
	}
	if a.Mark != 0 && a.Mark == b.Mark {
		faults = append(faults, fmt.Errorf("pools %q and %q share mark %d", a.Name, b.Name, a.Mark))
	}
	return faults
}

// checkApart refuses a quarantine pool that reaches other devices.
func checkApart(q Pool, pools map[string]Pool) []error {
	var faults []error
	for _, reach := range q.Reach {
		for _, name := range slices.Sorted(maps.Keys(pools)) {
			for _, prefix := range pools[name].prefixes() {
				if reach.To.IsValid() && reach.To.Overlaps(prefix) {
					faults = append(faults, fmt.Errorf("quarantine reaches %s, which holds devices of pool %q", reach.To, name))
				}
			}
		}
	}
	return faults
}

// plainName reports whether s can name a pool anywhere: in a URL, a log line, a chain.
func plainName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '_') {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}
