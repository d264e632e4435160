package resolver

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// SystemFile lists the servers that this host asks.
const SystemFile = "/etc/resolv.conf"

// maxServers bounds how many are asked.
const maxServers = 3

// Servers returns the configured ones, or else what a file in the form of resolv.conf says
// at the moment of asking.
func Servers(configured []netip.AddrPort, file string) func() ([]netip.AddrPort, error) {
	if len(configured) > 0 {
		return func() ([]netip.AddrPort, error) { return configured, nil }
	}
	return func() ([]netip.AddrPort, error) {
		c, err := dns.ClientConfigFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("finding a server to ask: %w", err)
		}
		var all []netip.AddrPort
		for _, text := range c.Servers {
			a, err := netip.ParseAddr(text)
			if err == nil && len(all) < maxServers {
				all = append(all, netip.AddrPortFrom(a.Unmap(), 53))
			}
		}
		if len(all) == 0 {
			return nil, errors.New("finding a server to ask: " + file + " names none")
		}
		return all, nil
	}
}
