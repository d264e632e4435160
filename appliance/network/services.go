package network

import "lazaret/appliance"

// Services are the entries of firewall.in and firewall.out that a gateway with this
// network needs for its own connection. DHCPv4 needs none: it goes by packet sockets, which
// the tables do not see.
func Services(n appliance.Network) (in, out []string) { return nil, nil }
