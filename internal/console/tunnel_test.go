package console

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"testing"

	diff "github.com/google/go-cmp/cmp"

	"lazaret/enroll"
	"lazaret/enroll/cmp"
	"lazaret/firewall"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// TestTunnelForAStockApp: what a WireGuard app on a device in quarantine needs, now and
// once it is released, worked out by hand.
func TestTunnelForAStockApp(t *testing.T) {
	l := newLab(t)
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	pools := map[string]quarantine.Pool{
		"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.66.0.0/16"), IPv6: netip.MustParsePrefix("fd66::/64"),
			Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 443}},
			DNS:   []netip.Addr{netip.MustParseAddr("10.66.0.1")}},
		"full": {Name: "full", IPv4: netip.MustParsePrefix("10.67.0.0/16"), Mark: 1,
			Routes: prefixes("10.0.0.0/8", "fd00::/8"), DNS: []netip.Addr{netip.MustParseAddr("10.10.0.53")}},
	}
	profile := quarantine.Profile{Name: "default", Pool: "full"}
	gateway := cmp.Gateway{Name: "gw", WireGuard: "gateway's key", Endpoints: []string{"gw.example.com:51820", "[2001:db8::1]:51820"},
		Tunnel: []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")}}
	l.cfg.Settings = func(_ context.Context, d quarantine.Record) (cmp.Settings, error) {
		return enroll.SettingsFor(d, profile, pools, []cmp.Gateway{gateway}, 1380), nil
	}
	ask := func(device string) (api.Tunnel, int) {
		var out api.Tunnel
		a := l.ask(l.API(), who{cert: l.admin}, "GET", "/api/v1/devices/"+device+"/tunnel", "")
		if a.Code == http.StatusOK {
			if err := json.Unmarshal(a.Body.Bytes(), &out); err != nil {
				t.Fatal(err)
			}
		}
		return out, a.Code
	}
	peer := api.TunnelPeer{Key: "gateway's key", Endpoint: "gw.example.com:51820", KeepAlive: 25}
	quarantined, full, both := peer, peer, peer
	quarantined.AllowedIPs = prefixes("10.66.0.1/32", "192.0.2.10/32", "fd66::1/128")
	full.AllowedIPs = prefixes("10.66.0.1/32", "192.0.2.10/32", "10.0.0.0/8", "10.67.0.1/32") // the pool has no IPv6 address
	want := api.Tunnel{Device: "dev1", Name: "alice-laptop", Key: l.gate.records[0].Key.String(), Addressing: "follow", Configurations: []api.TunnelConfiguration{
		{Name: "quarantine", Addresses: prefixes("10.66.0.2/32", "fd66::2/128"), DNS: pools["quarantine"].DNS, MTU: 1380, Peer: quarantined},
		{Name: "full", Addresses: prefixes("10.67.0.2/32"), DNS: pools["full"].DNS, MTU: 1380, Peer: full},
	}}
	same := diff.Comparer(func(a, b netip.Prefix) bool { return a == b })
	sameAddr := diff.Comparer(func(a, b netip.Addr) bool { return a == b })
	got, _ := ask("alice-laptop")
	if d := diff.Diff(want, got, same, sameAddr); d != "" {
		t.Error("follow:", d)
	}

	profile.Addressing = quarantine.Fixed
	l.cfg.Organization.Profiles = newTable(map[string]quarantine.Profile{"default": profile})
	both.AllowedIPs = prefixes("10.66.0.1/32", "192.0.2.10/32", "fd66::1/128", "10.0.0.0/8", "fd00::/8")
	want.Addressing = "fixed"
	want.Configurations = []api.TunnelConfiguration{{Name: "fixed", Addresses: prefixes("10.66.0.2/32", "fd66::2/128"),
		DNS: append(pools["full"].DNS, pools["quarantine"].DNS...), MTU: 1380, Peer: both}}
	got, _ = ask("dev1")
	if d := diff.Diff(want, got, same, sameAddr); d != "" {
		t.Error("fixed:", d)
	}

	l.gate.records[1].Stage = quarantine.Revoked
	if _, code := ask("dev2"); code != http.StatusConflict {
		t.Errorf("a revoked device: %d", code)
	}
	gateway.Endpoints = nil
	if _, code := ask("dev1"); code != http.StatusServiceUnavailable {
		t.Errorf("a gateway whose tunnel never was up: %d", code)
	}
	if _, code := ask("nobody"); code != http.StatusNotFound {
		t.Errorf("no such device: %d", code)
	}
}
