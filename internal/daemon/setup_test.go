package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/appliance/update"
	"lazaret/internal/making"
	"lazaret/pki"
)

// some draws from texts that are about right, a few of them wrong; none draws an empty list.
func some[T any](t *rapid.T, name string, most int, from ...T) []T {
	return rapid.SliceOfN(rapid.SampledFrom(from), 0, most).Draw(t, name)
}

// drawSetup draws setups around the border between what passes and what does not.
func drawSetup(t *rapid.T) appliance.Setup {
	long := strings.Repeat("a", 32)
	hosts := []string{"gw.example.com", "GW.Example.Com", "192.0.2.10", "2001:db8::10", "fe80::1%eth0", "0.0.0.0", "a_b.example.com", "gw", "1.2.3", "-a.example", "gw.example.com.", strings.Repeat("a", 64) + ".example", "ff02::1", "::ffff:192.0.2.1", "é.example", "a\tb"}
	ports := []string{":51820", ":0", ":65536", "", ":+1", ":051820"}
	var endpoints []string
	for _, h := range append(hosts, "[2001:db8::10]", "[gw.example.com]", "[192.0.2.1]") {
		for _, p := range ports {
			endpoints = append(endpoints, h+p)
		}
	}
	services := []string{" tcp/443", " tcp/443", " udp/5000-5999", " tcp", "", " icmp", " icmp/8", " tcp/1-65535", " tcp/0", " udp/9-8", " sctp/1", " tcp/443 x", " tcp/", "  tcp/443"}
	var management []string
	for _, h := range []string{"192.0.2.10", "192.0.2.10", "192.0.2.0/24", "192.0.2.1/24", "0.0.0.0/0", "2001:db8::1", "::/0", "10.66.1.1", "10.99.0.0/16", "fd66:6c61:7a61::5", "mdm.example.com", "MDM.example.com.", "mdm", "a_b.example.com", "1.2.3", "::ffff:192.0.2.1", "fe80::1%eth0", "::ffff:192.0.2.0/120", "mdm.example.1com"} {
		for _, s := range services {
			management = append(management, h+s)
		}
	}
	var networks []netip.Prefix
	for _, s := range []string{"10.66.0.0/16", "10.67.8.0/24", "10.99.0.0/16", "10.98.0.0/30", "10.98.0.0/31", "10.98.0.4/32", "fd99::/64", "fd98::/126", "fd98::/127", "0.0.0.0/0", "::/0", "127.0.0.0/8", "169.254.0.0/24", "224.0.0.0/4", "fe80::/64", "192.0.2.0/24", "2001:db8::/64"} {
		networks = append(networks, netip.MustParsePrefix(s))
	}
	networks = append(networks, netip.Prefix{}, netip.MustParsePrefix("10.9.0.1/16"), netip.MustParsePrefix("::ffff:10.0.0.0/120"))
	words := []string{"", "", "Example", "Müller & Söhne", " x", "x ", "a\nb", "a\u200bb", "a\u00a0b", strings.Repeat("é", 64), strings.Repeat("x", 65), "\xff", "\ufffd", `a"b\c`, "\x7f"}
	word := rapid.SampledFrom(words)
	s := appliance.Setup{
		Name:         rapid.SampledFrom([]string{"", "gw1", "GW", long, long + "a", "-a", "a-", "a.b", "é"}).Draw(t, "name"),
		Organization: word.Draw(t, "organization"), Administrator: word.Draw(t, "administrator"),
		EnrollNames: some(t, "enroll", 2, hosts...), Endpoints: some(t, "endpoints", 2, endpoints...), Management: some(t, "management", 2, management...),
		AdminNetworks: some(t, "admin", 2, networks...), Quarantine: some(t, "quarantine", 2, networks...), Full: some(t, "full", 2, networks...), Routes: some(t, "routes", 2, networks...),
		Masquerade: rapid.Bool().Draw(t, "masquerade"), TimeServers: some(t, "time", 2, hosts...),
		Proxy: rapid.SampledFrom([]string{"", "", "http://192.0.2.3:3128", "https://[2001:db8::3]:8080/", "http://proxy.example.com:3128", "http://192.0.2.3", "ftp://192.0.2.3:1", "http://u:p@192.0.2.3:1", "http://192.0.2.3:1/x", "http://[::ffff:1.2.3.4]:80", "http://0.0.0.0:1", "http://192.0.2.3:3128?x"}).Draw(t, "proxy"),
		Updates: appliance.Updates{
			Channel:   rapid.SampledFrom([]string{"", "https://updates.example.com/stable", "http://updates.example.com", "https://", "https://u@h.example.com", "https://h.example.com?x", "https://h.example.com/" + strings.Repeat("a", 500)}).Draw(t, "channel"),
			Automatic: rapid.Bool().Draw(t, "automatic"),
			Window:    rapid.SampledFrom([]string{"", "Sun 02:00-05:00", "Mon-Fri 02:00-05:00", "Mon,Mon 02:00-05:00", "Mon,Thu 23:00-01:00", "02:00-02:00", "24:00-01:00", "daily", "02:00-05:00"}).Draw(t, "window"),
		},
	}
	if rapid.Bool().Draw(t, "own network") {
		e := appliance.Ethernet{Link: appliance.Link{DHCP4: rapid.Bool().Draw(t, "dhcp4"), DHCP6: rapid.Bool().Draw(t, "dhcp6"), Addresses: some(t, "addresses", 2, append(networks, netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64"))...)}}
		s.Network = &appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{"eth0": e}}
	}
	return s
}

// repair takes out of a setup, field by field, what its check finds wrong, so that setups
// come out that pass, and hold as much of what was drawn as passes.
func repair(s appliance.Setup) appliance.Setup {
	good := appliance.Setup{EnrollNames: []string{"gw.example.com"}, Management: []string{"198.51.100.10 tcp/443"}}
	from, to := reflect.ValueOf(s), reflect.ValueOf(&good).Elem()
	for i := range from.NumField() {
		before := reflect.ValueOf(good).Field(i).Interface()
		to.Field(i).Set(from.Field(i))
		if good.Check() != nil {
			to.Field(i).Set(reflect.ValueOf(before))
		}
	}
	return good
}

// TestSetupThatPassesCanBeMade: what passes the check that a page and a command make before
// anything is sent is refused by nothing that makes a gateway: not the configuration, not the
// pools, not the certificates of its authorities and of its listeners, and not what keeps
// settings of updates afterwards.
func TestSetupThatPassesCanBeMade(t *testing.T) {
	at := placesIn(t.TempDir())
	passed := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		s := repair(drawSetup(t))
		if err := s.Check(); err != nil {
			t.Fatalf("a repaired setup does not pass: %v", err)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := appliance.ParseSetup(text)
		if err != nil {
			t.Fatalf("what passes as a value does not as a document: %v\n%s", err, text)
		}
		d, err := draftOf(making.Request{Claim: claim.Request{Setup: again}, Network: appliance.Automatic(), Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24")}}, at)
		if err != nil {
			refusal, _ := err.(*claim.Refusal)
			t.Fatalf("passes the check, and then: %v %+v\n%s", err, refusal, text)
		}
		if err := update.CheckSettings(s.Updates); err != nil {
			t.Fatal(err)
		}
		if err := certifiable(t.Context(), d); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for i := range reflect.TypeFor[appliance.Setup]().NumField() {
			if !reflect.ValueOf(s).Field(i).IsZero() {
				passed[reflect.TypeFor[appliance.Setup]().Field(i).Name] = true
			}
		}
	})
	// Of the few setups that -short draws, one field or another may be in none.
	if want := reflect.TypeFor[appliance.Setup]().NumField(); len(passed) != want && !testing.Short() {
		t.Errorf("only these were ever tried: %v", passed)
	}
}

// certifiable has certificates issued for all that a draft names.
func certifiable(ctx context.Context, d draft) error {
	h, err := pki.NewHierarchy(pki.HierarchyConfig{Organization: d.options.Organization})
	if err != nil {
		return fmt.Errorf("the organization: %w", err)
	}
	key, err := pki.GenerateKey()
	if err != nil {
		return err
	}
	if _, err := issueAdministrator(ctx, d.options, h, key.Public()); err != nil {
		return fmt.Errorf("the administrator: %w", err)
	}
	a, err := pki.New(pki.Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators})
	if err != nil {
		return err
	}
	r := pki.Request{Kind: pki.Server, PublicKey: key.Public(), CommonName: d.config.Name, NotAfter: time.Now().Add(time.Hour)}
	for _, n := range append(slices.Clone(d.config.Enroll.Names), d.config.API.Names...) {
		if ip, err := netip.ParseAddr(n); err == nil {
			r.IPs = append(r.IPs, ip)
		} else {
			r.DNSNames = append(r.DNSNames, strings.ToLower(n))
		}
	}
	if _, err := a.Issue(ctx, r); err != nil {
		return fmt.Errorf("the listeners: %w", err)
	}
	return nil
}
