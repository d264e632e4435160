package enroll

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	cmpmsg "lazaret/enroll/cmp"
	"lazaret/quarantine"
)

func TestSettingsFor(t *testing.T) {
	pools := newMemory().pools
	gateways := []cmpmsg.Gateway{{Name: "gw1", Tunnel: []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd00:10::1")}}}
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	home := cmpmsg.Network{Pool: "quarantine", Addresses: prefixes("10.10.0.8/32", "fd00:10::8/128"),
		Routes: prefixes("10.10.0.1/32", "192.0.2.10/32", "fd00:10::1/128")}
	full := cmpmsg.Network{Pool: "full", Addresses: prefixes("10.20.0.8/32", "fd00:20::8/128"),
		Routes: prefixes("10.0.0.0/8", "10.20.0.1/32", "fd00:20::1/128"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}
	fixed := full
	fixed.Addresses, fixed.Routes = home.Addresses, prefixes("10.0.0.0/8") // its gateway is that of quarantine
	for _, c := range []struct {
		name       string
		stage      quarantine.Stage
		pool       string
		addressing quarantine.Addressing
		want       cmpmsg.Network
	}{
		{"quarantined", quarantine.Quarantined, "quarantine", quarantine.Follow, cmpmsg.Network{}},
		{"pending", quarantine.Pending, "quarantine", quarantine.Follow, cmpmsg.Network{}},
		{"blocked, in a full pool by mistake", quarantine.Blocked, "full", quarantine.Follow, cmpmsg.Network{}},
		{"routed", quarantine.Routed, "full", quarantine.Follow, full},
		{"routed with one address", quarantine.Routed, "full", quarantine.Fixed, fixed},
		{"routed in a pool that is gone", quarantine.Routed, "gone", quarantine.Follow, cmpmsg.Network{}},
		{"routed in the quarantine pool by mistake", quarantine.Routed, "quarantine", quarantine.Follow, cmpmsg.Network{}},
		{"no stage", "", "full", quarantine.Follow, cmpmsg.Network{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := quarantine.Record{Device: quarantine.Device{ID: "d-1", Name: "laptop", Seat: 7, Stage: c.stage, Pool: c.pool}}
			got := SettingsFor(r, quarantine.Profile{Addressing: c.addressing}, pools, gateways, 0)
			want := cmpmsg.Settings{Version: 1, Device: "d-1", Name: "laptop", MTU: 1420, Quarantine: home, Full: c.want, Gateways: gateways}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if got := SettingsFor(quarantine.Record{}, quarantine.Profile{}, pools, gateways, 1380); got.MTU != 1380 || len(got.Quarantine.Addresses) != 0 {
		t.Errorf("without a seat: MTU %d, addresses %v", got.MTU, got.Quarantine.Addresses)
	}
	if len(pools["full"].Routes) != 1 || len(pools["quarantine"].Routes) != 0 {
		t.Error("the pools were changed")
	}
}
