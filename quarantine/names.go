package quarantine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"lazaret/firewall"
	"lazaret/internal/form"
)

const (
	// MaxNames is how many names a pool may list: each becomes rules that packets walk through.
	MaxNames = 32
	// MaxPinned is how many addresses one name opens at most.
	MaxPinned = 32
)

// ErrTooMany refuses an address of a name that opens MaxPinned others.
var ErrTooMany = fmt.Errorf("one too many: a name opens %d addresses at most", MaxPinned)

// NamedReach is one thing a pool may open by name: every address that the name resolves to
// and that may be pinned.
type NamedReach struct {
	Name     string // lower case, with a dot in it and none at the end
	Protocol firewall.Protocol
	From, Up uint16 // as in firewall.Reach
}

// Names are what names resolve to. What of it a pool opens is decided when a plan is made,
// by Pool.Refuses: whoever controls a name on the Internet must not open an intranet with it
// (DNS rebinding).
type Names struct {
	Addresses map[string][]netip.Addr // the most wanted first
	Gateway   []netip.Addr            // the gateway's own addresses outside of the tunnel, which no name opens
	Own       []netip.Prefix          // public networks that are the organization's own: opened like private ones
}

// notPublic are the prefixes that the IANA registries of special-purpose addresses do not
// call globally reachable (RFC 6890), as far as they lie among unicast addresses. What
// embeds an IPv4 address in a way of its own is refused whole: 6to4 (RFC 7526), Teredo in
// 2001::/23, and local NAT64 prefixes beyond 2000::/3.
var notPublic = prefixesOf(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
	"::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1",
)

// never are those of them that no pool can allow: this host, this link, and everybody.
var never = prefixesOf("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
	"::/96", "::ffff:0:0/96", "fe80::/10", "fec0::/10", "ff00::/8")

// translated is the well-known prefix of NAT64: the last four bytes are the IPv4 address
// that is really meant (RFC 6052).
var translated = netip.MustParsePrefix("64:ff9b::/96")

func prefixesOf(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		all[i] = netip.MustParsePrefix(s)
	}
	return all
}

func holding(list []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	for _, p := range list {
		if p.IsValid() && p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Refuses says why a name may not open an address for the pool, nil if it may. inside are
// the prefixes of all pools.
func (p Pool) Refuses(a netip.Addr, n Names, inside []netip.Prefix) error {
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
		return fmt.Errorf("%s is no plain address", a)
	}
	for _, meant := range append(embedded(a), a) {
		if bad, ok := holding(never, meant); ok {
			return fmt.Errorf("%s leads into %s, which no name opens", a, bad)
		}
		if bad, ok := holding(inside, meant); ok {
			return fmt.Errorf("%s leads to devices in %s", a, bad)
		}
		if slices.Contains(n.Gateway, meant) {
			return fmt.Errorf("%s leads to the gateway itself", a)
		}
	}
	if _, ok := holding(p.Allow, a); ok {
		return nil
	}
	if translated.Contains(a) {
		if err := p.Refuses(embedded(a)[0], n, inside); err != nil {
			return fmt.Errorf("%s stands for another: %w", a, err)
		}
		return nil
	}
	for _, meant := range append([]netip.Addr{a}, embedded(a)...) {
		if bad, ok := holding(slices.Concat(notPublic, n.Own), meant); ok {
			return fmt.Errorf("%s is not public: it leads into %s, which pool %q does not allow", a, bad, p.Name)
		}
	}
	return nil
}

// embedded are the IPv4 addresses that an IPv6 address may stand for.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	four := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case translated.Contains(a), b[0] == 0 && b[1] == 0x64 && b[2] == 0xff && b[3] == 0x9b: // RFC 6052, RFC 8215
		return []netip.Addr{four(12)}
	case b[0] == 0x20 && b[1] == 0x02: // 6to4, RFC 3056
		return []netip.Addr{four(2)}
	case b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0: // Teredo, RFC 4380: server, and client inverted
		client := binary.BigEndian.AppendUint32(nil, ^binary.BigEndian.Uint32(b[12:]))
		return []netip.Addr{four(4), netip.AddrFrom4([4]byte(client))}
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214
		return []netip.Addr{four(12)}
	}
	return nil
}

// Pinned are those addresses of a name that the pool opens, at most MaxPinned, sorted, and
// why the others are refused.
func (p Pool) Pinned(name string, n Names, inside []netip.Prefix) (pinned []netip.Addr, refused []error) {
	for _, a := range n.Addresses[name] {
		if err := p.Refuses(a, n, inside); err != nil {
			refused = append(refused, err)
		} else if slices.Contains(pinned, a) {
			continue
		} else if len(pinned) == MaxPinned {
			refused = append(refused, fmt.Errorf("%s is %w", a, ErrTooMany))
		} else {
			pinned = append(pinned, a)
		}
	}
	slices.SortFunc(pinned, netip.Addr.Compare)
	return pinned, refused
}

// resolve is the pool with its names spelled out as addresses.
func (n Names) resolve(p Pool, inside []netip.Prefix) Pool {
	if len(p.Named) == 0 {
		return p
	}
	p.Reach = slices.Clone(p.Reach)
	for _, named := range p.Named {
		pinned, _ := p.Pinned(named.Name, n, inside)
		for _, a := range pinned {
			r := firewall.Reach{To: netip.PrefixFrom(a, a.BitLen()), Protocol: named.Protocol, From: named.From, Up: named.Up}
			if !slices.Contains(p.Reach, r) {
				p.Reach = append(p.Reach, r)
			}
		}
	}
	return p
}

// Resolve spells out the names of all pools.
func (n Names) Resolve(pools map[string]Pool) map[string]Pool {
	inside := InsideOf(pools)
	out := make(map[string]Pool, len(pools))
	for name, p := range pools {
		out[name] = n.resolve(p, inside)
	}
	return out
}

// InsideOf are the prefixes of all pools: where devices are.
func InsideOf(pools map[string]Pool) []netip.Prefix {
	var inside []netip.Prefix
	for _, p := range pools {
		inside = append(inside, p.prefixes()...)
	}
	return inside
}

// nowhere is the reach of a full pool whose names do not resolve: the kernel takes an empty
// one for everything. RFC 6666 has its address discarded everywhere.
var nowhere = []firewall.Reach{{To: netip.MustParsePrefix("100::1/128"), Protocol: "icmp"}}

// checkNames validates what the pool says about names.
func (p Pool) checkNames() error {
	var faults []error
	if len(p.Named) > MaxNames {
		faults = append(faults, fmt.Errorf("%d names: a pool reaches %d at most", len(p.Named), MaxNames))
	}
	for _, named := range p.Named {
		if err := form.ReachName(named.Name); err != nil {
			faults = append(faults, err)
		}
		somewhere := firewall.Reach{To: nowhere[0].To, Protocol: named.Protocol, From: named.From, Up: named.Up}
		if err := checkReach(somewhere, p.Quarantine); err != nil {
			faults = append(faults, fmt.Errorf("reach %q: %w", named.Name, err))
		}
	}
	for _, allow := range p.Allow {
		if err := form.Network(allow); err != nil {
			faults = append(faults, fmt.Errorf("allow: %w", err))
		} else if allow.Bits() == 0 {
			faults = append(faults, fmt.Errorf("allow: %s would let every name open everything", allow))
		}
	}
	if p.Forward && p.Quarantine {
		faults = append(faults, errors.New("the quarantine pool's devices are told the names it reaches, and no others"))
	}
	return errors.Join(faults...)
}
