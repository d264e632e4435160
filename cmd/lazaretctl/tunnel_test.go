package main

import (
	"net/netip"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

// TestConfigurationFilesAreWgQuicks: two files, in the words of wg-quick(8).
func TestConfigurationFilesAreWgQuicks(t *testing.T) {
	p := netip.MustParsePrefix
	tunnel := api.Tunnel{Name: "alice-laptop", Key: "PUBLIC", Configurations: []api.TunnelConfiguration{
		{Name: "quarantine", Addresses: []netip.Prefix{p("10.66.0.2/32"), p("fd66::2/128")}, MTU: 1420,
			Peer: api.TunnelPeer{Key: "GATEWAY", Endpoint: "gw.example.com:51820", AllowedIPs: []netip.Prefix{p("192.0.2.10/32"), p("fd66::1/128")}, KeepAlive: 25}},
		{Name: "full", Addresses: []netip.Prefix{p("10.67.0.2/32")}, DNS: []netip.Addr{netip.MustParseAddr("10.10.0.53")}, MTU: 1420,
			Peer: api.TunnelPeer{Key: "GATEWAY", Endpoint: "gw.example.com:51820", AllowedIPs: []netip.Prefix{p("10.0.0.0/8")}, KeepAlive: 25}},
	}}
	const want = `# alice-laptop, quarantine
[Interface]
# the device's own, to which belongs the public key
# PUBLIC
PrivateKey = PRIVATE KEY OF THE DEVICE
Address = 10.66.0.2/32, fd66::2/128
MTU = 1420

[Peer]
PublicKey = GATEWAY
Endpoint = gw.example.com:51820
AllowedIPs = 192.0.2.10/32, fd66::1/128
PersistentKeepalive = 25

# alice-laptop, full
[Interface]
# the device's own, to which belongs the public key
# PUBLIC
PrivateKey = PRIVATE KEY OF THE DEVICE
Address = 10.67.0.2/32
DNS = 10.10.0.53
MTU = 1420

[Peer]
PublicKey = GATEWAY
Endpoint = gw.example.com:51820
AllowedIPs = 10.0.0.0/8
PersistentKeepalive = 25
`
	var got strings.Builder
	showTunnel(&got, tunnel)
	if got.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", got.String(), want)
	}
}
