package quarantine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"

	"lazaret/firewall"
)

// ErrSeat reports a seat that a pool has no address for.
var ErrSeat = errors.New("no address for this seat")

// gatewayOffset is the gateway's own place in every prefix; seat n is at n+1.
const gatewayOffset = 1

// Address returns the addresses of a seat in the pool: the zero Addr for a family the
// pool lacks, ErrSeat for seat zero and for one beyond the smaller prefix.
func (p Pool) Address(s Seat) (v4, v6 netip.Addr, err error) {
	if s == 0 || s > p.LastSeat() {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("%w: seat %d in pool %q, whose last is %d", ErrSeat, s, p.Name, p.LastSeat())
	}
	offset := uint64(s) + gatewayOffset
	return at(p.IPv4, offset), at(p.IPv6, offset), nil
}

// GatewayAddresses returns the gateway's own address in each prefix of the pool, with the
// prefix's length.
func (p Pool) GatewayAddresses() []netip.Prefix {
	var all []netip.Prefix
	for _, prefix := range p.prefixes() {
		all = append(all, netip.PrefixFrom(at(prefix, gatewayOffset), prefix.Bits()))
	}
	return all
}

// LastSeat is the highest seat that both families have an address for, zero for none. The
// last address of a prefix is left out, since in IPv4 it is the broadcast address.
func (p Pool) LastSeat() Seat {
	last := uint64(math.MaxUint32 - 1)
	prefixes := p.prefixes()
	for _, prefix := range prefixes {
		free := prefix.Addr().BitLen() - prefix.Bits()
		if free < 2 {
			return 0
		}
		if free <= 32 {
			last = min(last, uint64(1)<<free-3)
		}
	}
	if len(prefixes) == 0 {
		return 0
	}
	return Seat(last)
}

// prefixes returns the families the pool has.
func (p Pool) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, prefix := range []netip.Prefix{p.IPv4, p.IPv6} {
		if prefix.IsValid() {
			all = append(all, prefix)
		}
	}
	return all
}

// seatAt is the seat whose address in the pool a is; zero for none.
func (p Pool) seatAt(a netip.Addr) Seat {
	for _, prefix := range p.prefixes() {
		if !prefix.Contains(a) {
			continue
		}
		base, wide := prefix.Addr().As16(), a.As16()
		lo, borrow := bits.Sub64(binary.BigEndian.Uint64(wide[8:]), binary.BigEndian.Uint64(base[8:]), 0)
		hi, _ := bits.Sub64(binary.BigEndian.Uint64(wide[:8]), binary.BigEndian.Uint64(base[:8]), borrow)
		if hi == 0 && lo > gatewayOffset && lo-gatewayOffset <= uint64(p.LastSeat()) {
			return Seat(lo - gatewayOffset)
		}
	}
	return 0
}

// at is the address at an offset of a prefix; the zero Addr for the zero Prefix or an
// offset outside of it.
func at(prefix netip.Prefix, offset uint64) netip.Addr {
	if !prefix.IsValid() {
		return netip.Addr{}
	}
	base := prefix.Masked().Addr()
	wide := base.As16()
	hi, lo := binary.BigEndian.Uint64(wide[:8]), binary.BigEndian.Uint64(wide[8:])
	lo, carry := bits.Add64(lo, offset, 0)
	binary.BigEndian.PutUint64(wide[:8], hi+carry)
	binary.BigEndian.PutUint64(wide[8:], lo)
	addr := netip.AddrFrom16(wide)
	if base.Is4() {
		addr = addr.Unmap()
	}
	if !prefix.Contains(addr) {
		return netip.Addr{}
	}
	return addr
}

// Kernel is the pool as the firewall knows it. A quarantine pool always has mark zero.
func (p Pool) Kernel() firewall.Pool {
	k := firewall.Pool{Name: p.Name, Mark: p.Mark, IPv4: p.IPv4, IPv6: p.IPv6, Reach: p.Reach, Masquerade: p.Masquerade}
	if p.Quarantine {
		k.Mark = 0
	}
	if len(p.Named) > 0 && len(p.Reach) == 0 {
		k.Reach = nowhere
	}
	return k
}
