package network

import (
	_ "github.com/insomniacslk/dhcp/dhcpv4/nclient4" // leases
	_ "github.com/insomniacslk/dhcp/dhcpv6"
)
