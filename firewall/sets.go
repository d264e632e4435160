package firewall

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// routedDefault is the life of a routed element that was written without one, which
// the writer cannot do: the set's default is the last guard against a permanent one.
const routedDefault = time.Minute

// kind is the type of a set's keys.
type kind string

const (
	name4  kind = "ipv4_addr"
	name6  kind = "ipv6_addr"
	family kind = "nf_proto"
	mark   kind = "mark"
)

// set is a set or a map. Its constant contents, if any, are in one of the lists.
type set struct {
	name     string
	key      kind
	data     string // "", "mark" or "verdict"
	timeout  time.Duration
	prefixes []netip.Prefix // interval set
	verdicts []verdict      // verdict map
	interval bool
}

// verdict is an element of a verdict map, whose key is a mark or, in an interval map, a prefix.
type verdict struct {
	mark   Mark
	prefix netip.Prefix
	chain  string
}

// A routed device's address stands in one of two: in the set of its family if it is an address
// of the pool that it is routed in, which its prefix then tells, and else in the map of the
// others, with that pool's mark. Most stand in the set, which costs a packet less.

func routedSet(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "routed4"
	}
	return "routed6"
}

// fixedMap holds the others: the quarantine addresses of devices that keep one address. Every
// packet of a quarantined device is looked up in it too, and it is small where agents follow
// the pools.
func fixedMap(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "fixed4"
	}
	return "fixed6"
}

// prefix is p's of a family; the zero Prefix for none.
func (p Pool) prefix(family byte) netip.Prefix {
	if family == unix.NFPROTO_IPV4 {
		return p.IPv4
	}
	return p.IPv6
}

// home is the quarantine pool's prefix of a family; the zero Prefix for none.
func (r Ruleset) home(family byte) netip.Prefix { return r.quarantine().prefix(family) }

// routedIn names the set or map that x stands in.
func (r Ruleset) routedIn(x Routed) string { return routedIn(r.full(), x) }

func routedIn(full []Pool, x Routed) string {
	f := familyOf(x.Addr)
	for _, p := range full {
		if p.Mark == x.Mark && p.prefix(f).Contains(x.Addr) {
			return routedSet(f)
		}
	}
	return fixedMap(f)
}

// routedMaybe names all that a routed address may stand in, whatever its mark.
func (r Ruleset) routedMaybe(a netip.Addr) []string {
	f := familyOf(a)
	if r.home(f).Contains(a) {
		return []string{fixedMap(f)} // no mark names the quarantine pool
	}
	return []string{routedSet(f), fixedMap(f)}
}

func quarantinedSet(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "quarantined4"
	}
	return "quarantined6"
}

func insideSet(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "inside4"
	}
	return "inside6"
}

// poolMap leads from a prefix to the pool's chain.
func poolMap(direction string, family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "pools_" + direction + "4"
	}
	return "pools_" + direction + "6"
}

func (r Ruleset) sets() []set {
	list := []set{
		{name: "alive", key: family, timeout: r.QuarantineLife},
		{name: "fresh", key: family, timeout: r.Freshness},
		{name: "routed4", key: name4, timeout: routedDefault},
		{name: "routed6", key: name6, timeout: routedDefault},
		{name: "fixed4", key: name4, data: "mark", timeout: routedDefault},
		{name: "fixed6", key: name6, data: "mark", timeout: routedDefault},
		{name: "verified", key: mark, timeout: r.Freshness},
		{name: "generation", key: family, data: "mark", timeout: r.Freshness},
		{name: "quarantined4", key: name4},
		{name: "quarantined6", key: name6},
		{name: "inside4", key: name4, interval: true, prefixes: r.inside(unix.NFPROTO_IPV4)},
		{name: "inside6", key: name6, interval: true, prefixes: r.inside(unix.NFPROTO_IPV6)},
	}
	for _, direction := range []string{"up", "down"} {
		var byMark []verdict
		for _, p := range r.full() {
			byMark = append(byMark, verdict{mark: p.Mark, chain: p.chain(direction)})
		}
		list = append(list, set{name: "pools_" + direction, key: mark, data: "verdict", verdicts: byMark})
		for _, f := range families {
			key := map[byte]kind{unix.NFPROTO_IPV4: name4, unix.NFPROTO_IPV6: name6}[f]
			list = append(list, set{name: poolMap(direction, f), key: key, data: "verdict", interval: true, verdicts: r.byPrefix(f, direction)})
		}
	}
	return list
}

// byPrefix are the full pools of a family, as verdicts.
func (r Ruleset) byPrefix(family byte, direction string) []verdict {
	var list []verdict
	for _, p := range r.full() {
		if x := p.prefix(family); x.IsValid() {
			list = append(list, verdict{prefix: x, chain: p.chain(direction)})
		}
	}
	return list
}

// inside are the prefixes of all pools, of one family.
func (r Ruleset) inside(family byte) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range r.Pools {
		for _, x := range p.prefixes() {
			if familyOf(x.Addr()) == family {
				list = append(list, x)
			}
		}
	}
	return list
}
