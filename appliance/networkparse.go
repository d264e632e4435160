package appliance

import "errors"

// ParseNetwork reads network-config version 2 (netplan), also below a key "network", and
// checks it. The error is of type Faults and lists everything that is wrong.
func ParseNetwork(text []byte) (Network, error) {
	return Network{}, errors.ErrUnsupported
}

// Check says what is wrong with a network; the error is of type Faults, without lines.
func (n Network) Check() error { return errors.ErrUnsupported }

// Automatic is the network of a machine that was told nothing: every card asks DHCP and
// listens to routers.
func Automatic() Network {
	return Network{Version: 2, Ethernets: map[string]Ethernet{
		"cards": {Match: Match{Name: "*"}, Link: Link{DHCP4: true, DHCP6: true, AcceptRA: true}},
	}}
}
