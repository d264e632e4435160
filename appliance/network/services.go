package network

import "lazaret/appliance"

// Services are the entries of firewall.in and firewall.out that a gateway with this network
// needs for its own connection. DHCPv4 needs none: it goes by packet sockets, which the tables
// do not see, in both directions. Neighbour discovery and router advertisements the table
// always lets pass. A DHCPv6 server's answer is no answer to connection tracking, since the
// question goes to a group.
func Services(n appliance.Network) (in, out []string) {
	for _, l := range configuredLinks(n) {
		if l.DHCP6 {
			return []string{"udp/546 from fe80::/10"}, []string{"udp/547 to ff02::1:2"}
		}
	}
	return nil, nil
}

// Modules are the kernel's modules that a network needs beyond its cards' own.
func Modules(n appliance.Network) []string {
	var out []string
	if len(n.Bonds) > 0 {
		out = append(out, "bonding")
	}
	if len(n.VLANs) > 0 {
		out = append(out, "8021q")
	}
	return out
}
