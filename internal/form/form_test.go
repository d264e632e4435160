package form

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// TestTexts: each form at both sides of its border.
func TestTexts(t *testing.T) {
	gateway := func(s string) bool { return GatewayName(s) }
	host := func(s string) bool { return Host(s) == nil }
	endpoint := func(s string) bool { return Endpoint(s) == nil }
	proxy := func(s string) bool { _, err := Proxy(s); return err == nil }
	common := func(s string) bool { return Common(s) == nil }
	managed := func(s string) bool { r, err := ParseReach(s); return err == nil && r.Check(true) == nil }
	reach := func(s string) bool { r, err := ParseReach(s); return err == nil && r.Check(false) == nil }
	for name, c := range map[string]struct {
		is        func(string) bool
		good, bad []string
	}{
		"gateway":  {gateway, []string{"gw1", "a", strings.Repeat("a", 32), "a-b"}, []string{"", "GW", "-a", "a-", "a.b", "a_b", strings.Repeat("a", 33), "gw\n"}},
		"host":     {host, []string{"gw", "gw.example.com", "GW.example.com", "192.0.2.1", "2001:db8::1", strings.Repeat("a", 63)}, []string{"", "a b", "a_b", "-a", "a.", "1.2.3", "0.0.0.0", "::", "ff02::1", "fe80::1%eth0", strings.Repeat("a", 64), strings.Repeat("a.", 127), "gw:443"}},
		"endpoint": {endpoint, []string{"gw.example.com:51820", "192.0.2.1:1", "[2001:db8::1]:65535"}, []string{"", "gw", "gw:0", "gw:65536", "gw:x", "2001:db8::1:51820", "a b:1", ":1"}},
		"proxy":    {proxy, []string{"http://192.0.2.3:3128", "https://[2001:db8::3]:1/"}, []string{"", "192.0.2.3:3128", "http://proxy:3128", "http://192.0.2.3", "http://u:p@192.0.2.3:1", "http://192.0.2.3:1/x", "http://192.0.2.3:1?x", "ftp://192.0.2.3:1", "http://0.0.0.0:1"}},
		"common":   {common, []string{"a", "Müller & Söhne", strings.Repeat("é", 64)}, []string{"", " a", "a ", "a\nb", "a\u200bb", "\xff", strings.Repeat("a", 65)}},
		"managed":  {managed, []string{"192.0.2.10 tcp/443", "192.0.2.0/24 udp/1-2", "2001:db8::1 icmp", "MDM.example.com. tcp/443"}, []string{"", "192.0.2.10", "192.0.2.10 tcp", "192.0.2.10 tcp/1-65535", "0.0.0.0/0 tcp/443", "192.0.2.1/24 tcp/1", "mdm tcp/443", "mdm.example.com", "a.b tcp/2-1", "a.b sctp/1", "a.b icmp/1", "a.b tcp/1 x", "fe80::1%eth0 tcp/1", "::ffff:192.0.2.1 tcp/1"}},
		"reach":    {reach, []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/8 tcp", "a.b"}, []string{"a", "10.0.0.1/8", "::ffff:10.0.0.0/104"}},
	} {
		for _, s := range c.good {
			if !c.is(s) {
				t.Errorf("%s: %q is refused", name, s)
			}
		}
		for _, s := range c.bad {
			if c.is(s) {
				t.Errorf("%s: %q passes", name, s)
			}
		}
	}
}

// TestProxyKeepsSecrets: an error about a proxy tells nobody the password in it.
func TestProxyKeepsSecrets(t *testing.T) {
	for _, s := range []string{"http://user:secret@192.0.2.3:1", "http://user:secret@\x7f", "secret://u:secret@x"} {
		if _, err := Proxy(s); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestNetworks: pools have networks that hosts can be in, with room for one device.
func TestNetworks(t *testing.T) {
	for s, want := range map[string]bool{"10.0.0.0/8": true, "10.0.0.0/30": true, "fd00::/126": true, "10.0.0.0/31": false, "fd00::/127": false,
		"127.0.0.0/8": false, "0.0.0.0/0": false, "240.0.0.0/4": false, "fe80::/64": false, "::/0": false, "10.0.0.1/8": false} {
		p := netip.MustParsePrefix(s)
		if got := Hosts(p) == nil && Room(p) == nil; got != want {
			t.Errorf("%s passes: %v", s, got)
		}
	}
	if Hosts(netip.Prefix{}) == nil || Network(netip.Prefix{}) == nil {
		t.Error("no network passes for one")
	}
}

// TestOtherLetters: whoever writes a name as people read it learns how the DNS knows it.
func TestOtherLetters(t *testing.T) {
	for name, err := range map[string]error{
		"host": Host("bücher.example"), "endpoint": Endpoint("例え.example:51820"), "reach": ReachName("bücher.example"),
		"pool": func() error { _, err := ParseReach("Bücher.example tcp/443"); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "xn--") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, good := range []string{"xn--bcher-kva.example", "gw.example.com"} {
		if err := errors.Join(Host(good), ReachName(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"a b", "a_b!", "gw.example.com…", "\xff\xfc"} { // no names in any letters
		if err := Host(bad); err == nil || strings.Contains(err.Error(), "xn--") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
