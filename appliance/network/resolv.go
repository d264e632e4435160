package network

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lazaret/appliance"
)

// maxResolvers is how many servers a resolver looks at (resolv.conf(5)).
const maxResolvers = 3

// names are the name servers and search domains in order: configured ones, those of DHCP, and
// those of routers.
func (m *Manager) names() (servers []string, search []string) {
	add := func(to *[]string, s string, most int) {
		if !slices.Contains(*to, s) && len(*to) < most {
			*to = append(*to, s)
		}
	}
	for _, l := range configuredLinks(m.net) {
		for _, a := range l.Nameservers.Addresses {
			add(&servers, a.String(), maxResolvers)
		}
		for _, s := range l.Nameservers.Search {
			add(&search, s, maxSearch)
		}
	}
	for _, l := range m.leases() {
		for _, a := range l.DNS {
			add(&servers, a.String(), maxResolvers)
		}
		for _, s := range l.Search {
			add(&search, s, maxSearch)
		}
	}
	for _, index := range slices.Sorted(maps.Keys(m.routers)) {
		r := m.routers[index]
		for _, a := range live(r.servers, netip.Addr.Compare) {
			s := a.String()
			if a.IsLinkLocalUnicast() {
				i, err := net.InterfaceByIndex(index)
				if err != nil {
					continue // it is gone
				}
				s += "%" + i.Name
			}
			add(&servers, s, maxResolvers)
		}
		for _, d := range live(r.domains, strings.Compare) {
			add(&search, d, maxSearch)
		}
	}
	return servers, search
}

// configuredLinks are all links of a network, by kind and name.
func configuredLinks(n appliance.Network) []appliance.Link {
	var out []appliance.Link
	for _, name := range slices.Sorted(maps.Keys(n.Ethernets)) {
		out = append(out, n.Ethernets[name].Link)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Bonds)) {
		out = append(out, n.Bonds[name].Link)
	}
	for _, name := range slices.Sorted(maps.Keys(n.VLANs)) {
		out = append(out, n.VLANs[name].Link)
	}
	return out
}

// writeResolv writes resolv.conf if it changed, by renaming, so that nobody reads half of it.
func (m *Manager) writeResolv() error {
	if m.config.Resolv == "" {
		return nil
	}
	servers, search := m.names()
	var b strings.Builder
	b.WriteString("# Written by the gateway: from its network's configuration, DHCP and routers.\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	b.WriteString("options timeout:2 attempts:3\n")
	if b.String() == m.resolv {
		return nil
	}
	if err := replace(m.config.Resolv, b.String()); err != nil {
		return fmt.Errorf("writing the name servers: %w", err)
	}
	m.resolv = b.String()
	m.announce()
	return nil
}

func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".resolv-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
