package main

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

// TestPoolSetChangesWhatIsGiven: each flag changes its value, and none changes another.
func TestPoolSetChangesWhatIsGiven(t *testing.T) {
	prefix := netip.MustParsePrefix
	for flag, c := range map[string]struct {
		value string
		want  api.Pool
	}{
		"ipv4": {"10.5.0.0/16", api.Pool{IPv4: prefix("10.5.0.0/16")}}, "ipv6": {"fd05::/64", api.Pool{IPv6: prefix("fd05::/64")}},
		"reach": {"mdm.example.com tcp/443", api.Pool{Reach: []string{"mdm.example.com tcp/443"}}}, "route": {"10.0.0.0/8", api.Pool{Routes: []string{"10.0.0.0/8"}}},
		"dns": {"192.0.2.53", api.Pool{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}}, "allow": {"10.1.2.0/24", api.Pool{Allow: []netip.Prefix{prefix("10.1.2.0/24")}}},
		"masquerade": {"true", api.Pool{Masquerade: true}}, "forward": {"true", api.Pool{Forward: true}},
		"need-user": {"true", api.Pool{NeedUser: true}},
	} {
		var v poolFlags
		cmd := &cobra.Command{}
		v.define(cmd)
		if err := cmd.ParseFlags([]string{"--" + flag + "=" + c.value}); err != nil {
			t.Fatal(err)
		}
		change, err := v.change(cmd.Flags().Changed)
		if err != nil {
			t.Fatal(err)
		}
		var got api.Pool
		if change(&got); !reflect.DeepEqual(got, c.want) {
			t.Errorf("--%s: %+v", flag, got)
		}
		full := api.Pool{IPv4: prefix("10.6.0.0/16"), Reach: []string{"x"}, Forward: true, Masquerade: true}
		nothing, err := new(poolFlags).change(func(string) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		before := full
		if nothing(&full); !reflect.DeepEqual(full, before) {
			t.Errorf("no flag changed %+v", full)
		}
	}
	for _, bad := range []poolFlags{{v4: "x"}, {v6: "fd00::"}, {dns: []string{"ns.example.com"}}, {allow: []string{"10.1.2.3"}}} {
		if _, err := bad.change(func(string) bool { return true }); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
