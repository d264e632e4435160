package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"lazaret/internal/form"
)

// The bounds of freshness.
const (
	longestFreshness = 24 * time.Hour
	longestLife      = 7 * 24 * time.Hour
)

// faults collects what is wrong, each with its place.
type faults []error

func (f *faults) add(bad bool, format string, args ...any) {
	if bad {
		*f = append(*f, fmt.Errorf(format, args...))
	}
}

// Check reports every fault of r at once, joined; nil means that r can be written.
// The zero Ruleset is refused.
func (r Ruleset) Check() error {
	var f faults
	f.add(!validName(r.Table, 32), "table %q: want letters, digits and underscores", r.Table)
	f.add(!validName(r.Tunnel, 15) || r.Tunnel == "lo", "tunnel %q: want an interface name of letters, digits and underscores", r.Tunnel)
	f.add(r.ListenPort == 0, "listen port: missing")
	f.add(r.Freshness < shortest || r.Freshness > longestFreshness, "freshness %s: want %s to %s", r.Freshness, shortest, longestFreshness)
	f.add(r.QuarantineLife < shortest || r.QuarantineLife > longestLife, "quarantine life %s: want %s to %s", r.QuarantineLife, shortest, longestLife)
	f.add(r.Freshness%time.Millisecond != 0 || r.QuarantineLife%time.Millisecond != 0, "freshness: want whole milliseconds")
	r.checkPools(&f)
	r.checkGateway(&f)
	checkServices(&f, "outside", r.Outside)
	checkServices(&f, "inside", r.Inside)
	checkServices(&f, "out", r.Out)
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("ruleset: %w", errors.Join(f...))
}

// validName holds for names that stand in a rule without quotes, and in the kernel.
func validName(s string, most int) bool {
	if s == "" || len(s) > most || !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", rune(s[0])) {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// prefixes are p's one or two prefixes.
func (p Pool) prefixes() []netip.Prefix {
	var list []netip.Prefix
	for _, x := range []netip.Prefix{p.IPv4, p.IPv6} {
		if x.IsValid() {
			list = append(list, x)
		}
	}
	return list
}

func (r Ruleset) checkPools(f *faults) {
	names, marks := map[string]bool{}, map[Mark]bool{}
	var inside []netip.Prefix
	for _, p := range r.Pools {
		f.add(p.Name == "" || names[p.Name], "pool %q: want a name of its own", p.Name)
		f.add(marks[p.Mark], "pool %q: mark %d is another pool's", p.Name, p.Mark)
		names[p.Name], marks[p.Mark] = true, true
		f.add(len(p.prefixes()) == 0, "pool %q: want an IPv4 or an IPv6 prefix", p.Name)
		f.add(p.IPv4.IsValid() && !p.IPv4.Addr().Is4(), "pool %q: %s is no IPv4 prefix", p.Name, p.IPv4)
		f.add(p.IPv6.IsValid() && (!p.IPv6.Addr().Is6() || p.IPv6.Addr().Is4In6()), "pool %q: %s is no IPv6 prefix", p.Name, p.IPv6)
		for _, x := range p.prefixes() {
			err := CheckPrefix(x)
			f.add(err != nil, "pool %q: %w", p.Name, err)
			for _, y := range inside {
				f.add(x.Overlaps(y), "pool %q: %s overlaps %s", p.Name, x, y)
			}
			inside = append(inside, x)
		}
	}
	f.add(len(r.Pools) > 0 && !marks[0], "pools: one must be the quarantine pool, with mark zero")
	for _, p := range r.Pools {
		for _, x := range p.Reach {
			p.checkReach(f, x, inside)
		}
	}
}

// CheckPrefix says why devices cannot have the addresses of p; nil if they can.
func CheckPrefix(p netip.Prefix) error {
	if !masked(p) {
		return fmt.Errorf("%s: want %s", p, p.Masked())
	}
	return form.Hosts(p)
}

func masked(p netip.Prefix) bool { return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6() }

func (p Pool) checkReach(f *faults, x Reach, inside []netip.Prefix) {
	f.add(!masked(x.To), "pool %q: reach %s: want a prefix without host bits", p.Name, x.To)
	f.add(!validProtocol(x.Protocol) && x.Protocol != "", "pool %q: reach %s: unknown protocol %q", p.Name, x.To, x.Protocol)
	ports := x.Protocol == "tcp" || x.Protocol == "udp"
	f.add(!ports && (x.From != 0 || x.Up != 0), "pool %q: reach %s: ports need tcp or udp", p.Name, x.To)
	f.add(x.Up != 0 && (x.From == 0 || x.Up < x.From), "pool %q: reach %s: ports %d to %d", p.Name, x.To, x.From, x.Up)
	if p.Mark != 0 {
		return
	}
	f.add(x.Protocol == "", "quarantine pool %q: reach %s: want a protocol", p.Name, x.To)
	f.add(ports && x.From == 0, "quarantine pool %q: reach %s: want a port", p.Name, x.To)
	for _, y := range inside {
		f.add(x.To.IsValid() && x.To.Overlaps(y), "quarantine pool %q: reach %s overlaps pool prefix %s", p.Name, x.To, y)
	}
}

func (r Ruleset) checkGateway(f *faults) {
	seen := map[netip.Addr]bool{}
	for _, a := range r.Gateway {
		f.add(!a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified(), "gateway address %s: want a plain address", a)
		f.add(seen[a], "gateway address %s: given twice", a)
		seen[a] = true
		in := len(r.Pools) == 0
		for _, p := range r.Pools {
			in = in || p.IPv4.Contains(a) || p.IPv6.Contains(a)
		}
		f.add(!in, "gateway address %s: in no pool", a)
	}
}

func validProtocol(p Protocol) bool { return p == "tcp" || p == "udp" || p == "icmp" }

func checkServices(f *faults, where string, list []Service) {
	for _, s := range list {
		f.add(!validProtocol(s.Protocol), "%s service %s/%d: unknown protocol", where, s.Protocol, s.Port)
		f.add((s.Protocol == "icmp") != (s.Port == 0), "%s service %s/%d: want a port with tcp and udp, none with icmp", where, s.Protocol, s.Port)
		for _, p := range s.From {
			f.add(!masked(p), "%s service %s/%d: %s: want a prefix without host bits", where, s.Protocol, s.Port, p)
		}
	}
}
