package enroll

import (
	"lazaret/enroll/cmp"
	"lazaret/quarantine"
)

// DefaultMTU leaves room for WireGuard's header in IPv6 over a link of 1500.
const DefaultMTU = 1420

// SettingsFor is what a device is told of its network. The full network is there only
// while the device is routed. An MTU of zero is DefaultMTU.
func SettingsFor(r quarantine.Record, p quarantine.Profile, pools map[string]quarantine.Pool, gateways []cmp.Gateway, mtu int) cmp.Settings {
	return cmp.Settings{}
}
