package quarantine

import (
	"errors"
	"net/netip"

	"lazaret/firewall"
)

// Address returns the addresses of a seat in the pool; the zero Addr for a family the pool lacks.
func (p Pool) Address(s Seat) (v4, v6 netip.Addr, err error) {
	return v4, v6, errors.ErrUnsupported
}

// GatewayAddresses returns the gateway's own address in each prefix, with the prefix's length.
func (p Pool) GatewayAddresses() []netip.Prefix { return nil }

// LastSeat is the highest seat both prefixes have room for; zero for none.
func (p Pool) LastSeat() Seat { return 0 }

// Check validates a pool for seats up to highest (the highest given out so far).
func (p Pool) Check(highest Seat) error { return errors.ErrUnsupported }

// Kernel is the pool as the firewall knows it.
func (p Pool) Kernel() firewall.Pool { return firewall.Pool{} }

// CheckPools validates all pools together, for seats up to highest.
func CheckPools(pools map[string]Pool, highest Seat) error { return errors.ErrUnsupported }
