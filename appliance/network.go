package appliance

import "net/netip"

// Network is how the machine is connected, in the terms and with the keys of
// network-config version 2 (netplan), of which it is the part a gateway needs. The zero
// Network is a machine that is connected to nothing; Automatic is what one does without.
type Network struct {
	Version   int                 `yaml:"version" json:"version"` // 2
	Ethernets map[string]Ethernet `yaml:"ethernets,omitempty" json:"ethernets,omitempty"`
	Bonds     map[string]Bond     `yaml:"bonds,omitempty" json:"bonds,omitempty"`
	VLANs     map[string]VLAN     `yaml:"vlans,omitempty" json:"vlans,omitempty"`
}

// Link is what all kinds of link share.
type Link struct {
	DHCP4       bool           `yaml:"dhcp4,omitempty" json:"dhcp4,omitempty"`
	DHCP6       bool           `yaml:"dhcp6,omitempty" json:"dhcp6,omitempty"`
	AcceptRA    bool           `yaml:"accept-ra,omitempty" json:"accept-ra,omitempty"` // addresses and routes of router advertisements (RFC 4861, 4862)
	Addresses   []netip.Prefix `yaml:"addresses,omitempty" json:"addresses,omitempty"` // host address with prefix length
	Routes      []Route        `yaml:"routes,omitempty" json:"routes,omitempty"`
	Nameservers Nameservers    `yaml:"nameservers,omitempty" json:"nameservers,omitzero"`
	MTU         int            `yaml:"mtu,omitempty" json:"mtu,omitempty"` // bytes; 0: the kernel's or the network's
}

// Ethernet is a card. Its key in Network is the card's name unless Match says which.
type Ethernet struct {
	Match Match `yaml:"match,omitempty" json:"match,omitzero"`
	Link  `yaml:",inline"`
}

// Match picks a card by what stays the same: its hardware address, or its name.
type Match struct {
	MAC  string `yaml:"macaddress,omitempty" json:"macaddress,omitempty"`
	Name string `yaml:"name,omitempty" json:"name,omitempty"` // may end in *: all such cards that no other entry names; the first alone with addresses, routes or links on it
}

// Bond is several cards as one link.
type Bond struct {
	Interfaces []string       `yaml:"interfaces" json:"interfaces"`
	Parameters BondParameters `yaml:"parameters,omitempty" json:"parameters,omitzero"`
	Link       `yaml:",inline"`
}

// BondParameters are the kernel's, by their netplan names.
type BondParameters struct {
	Mode     string `yaml:"mode,omitempty" json:"mode,omitempty"`                                 // active-backup (default), 802.3ad, balance-xor, balance-rr, broadcast, balance-tlb, balance-alb
	Monitor  int    `yaml:"mii-monitor-interval,omitempty" json:"mii-monitor-interval,omitempty"` // milliseconds; 0: 100
	Primary  string `yaml:"primary,omitempty" json:"primary,omitempty"`
	LACPRate string `yaml:"lacp-rate,omitempty" json:"lacp-rate,omitempty"` // slow or fast
}

// VLAN is an 802.1Q link on another.
type VLAN struct {
	ID   int    `yaml:"id" json:"id"` // 1 to 4094
	On   string `yaml:"link" json:"link"`
	Link `yaml:",inline"`
}

// Route is one static route.
type Route struct {
	To     string     `yaml:"to" json:"to"` // a prefix or "default"
	Via    netip.Addr `yaml:"via,omitempty" json:"via,omitzero"`
	Metric int        `yaml:"metric,omitempty" json:"metric,omitempty"`
}

// Nameservers are asked in order.
type Nameservers struct {
	Addresses []netip.Addr `yaml:"addresses,omitempty" json:"addresses,omitempty"`
	Search    []string     `yaml:"search,omitempty" json:"search,omitempty"`
}
