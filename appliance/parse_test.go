package appliance

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

const wholeNetwork = `network:
  version: 2
  ethernets:
    eth0:
      match: {macaddress: "52:54:00:12:34:56"}
      addresses: [192.0.2.10/24, "2001:db8::10/64"]
      routes:
        - {to: default, via: 192.0.2.1}
        - {to: 198.51.100.0/24, via: 192.0.2.2, metric: 50}
      nameservers: {addresses: [192.0.2.53], search: [example.com]}
      mtu: 1500
    eth1: {}
    eth2: {}
    rest:
      match: {name: "en*"}
      dhcp4: yes
      accept-ra: true
  bonds:
    bond0:
      interfaces: [eth1, eth2]
      parameters: {mode: 802.3ad, mii-monitor-interval: 50, lacp-rate: fast}
  vlans:
    office: {id: 12, link: bond0, dhcp4: true}
`

func TestParseNetwork(t *testing.T) {
	n, err := ParseNetwork([]byte(wholeNetwork))
	if err != nil {
		t.Fatal(err)
	}
	e := n.Ethernets["eth0"]
	if e.Match.MAC != "52:54:00:12:34:56" || !reflect.DeepEqual(e.Addresses, []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64")}) || e.MTU != 1500 {
		t.Errorf("eth0: %+v", e)
	}
	if r := e.Routes; len(r) != 2 || r[0] != (Route{To: "default", Via: netip.MustParseAddr("192.0.2.1")}) || r[1].Metric != 50 {
		t.Errorf("routes: %+v", r)
	}
	if rest := n.Ethernets["rest"]; !rest.DHCP4 || !rest.AcceptRA || rest.DHCP6 || rest.Match.Name != "en*" {
		t.Errorf("rest: %+v", rest)
	}
	if b := n.Bonds["bond0"]; b.Parameters.Mode != "802.3ad" || b.Parameters.Monitor != 50 || len(b.Interfaces) != 2 {
		t.Errorf("bond0: %+v", b)
	}
	if v := n.VLANs["office"]; v.ID != 12 || v.On != "bond0" || !v.DHCP4 {
		t.Errorf("office: %+v", v)
	}
	text, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseNetwork(text)
	if err != nil || !reflect.DeepEqual(again, n) {
		t.Errorf("written and read again: %v\n%s", err, text)
	}
}

// lines are the lines of an error's faults.
func faultLines(t *testing.T, err error) []int {
	t.Helper()
	var f Faults
	if !errors.As(err, &f) {
		t.Fatalf("%v is not Faults", err)
	}
	var lines []int
	for _, one := range f {
		lines = append(lines, one.Line)
	}
	return lines
}

// TestParseNetworkFaults: all faults at once, each with its line.
func TestParseNetworkFaults(t *testing.T) {
	_, err := ParseNetwork([]byte(`version: 2
ethernets:
  eth0:
    addresses:
      - 192.0.2.0/24
      - 192.0.2.300/24
    gateway4: 192.0.2.1
    mtu: 100
    dhcp4: perhaps
    routes:
      - {to: default}
      - {to: 198.51.100.0/24, via: "2001:db8::1"}
      - {to: default, via: 203.0.113.1}
  lz0: {dhcp4: true}
vlans:
  office: {id: 4095, link: eth7}
bonds:
  bond0: {interfaces: [eth9], parameters: {mode: fastest}}
bridges: {}
`))
	if got, want := faultLines(t, err), []int{5, 6, 7, 8, 9, 11, 12, 13, 14, 16, 16, 18, 18, 19}; !reflect.DeepEqual(got, want) {
		t.Errorf("faults on lines %v, want %v:\n%v", got, want, err)
	}
	if !strings.Contains(err.Error(), "gateway4 is not known: write a route to default") {
		t.Error(err)
	}
}

func TestParseNetworkRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"version 1":        "version: 1\nconfig:\n  - type: physical\n    name: eth0\n",
		"nested version 1": "network:\n  version: 1\n  config: []\n",
		"alias":            "version: 2\nethernets: {a: &x {dhcp4: true}, b: *x}\n",
		"two documents":    "version: 2\n---\nversion: 2\n",
		"list":             "- 1\n",
		"empty":            "",
		"tab":              "version: 2\n\tethernets: {}\n",
		"repeated key":     "version: 2\nethernets: {eth0: {mtu: 1500, mtu: 1400}}\n",
		"large":            "version: 2\n#" + strings.Repeat("x", maxDocument),
		"many":             "version: 2\nethernets: [" + strings.Repeat("[],", maxNodes) + "]\n",
		"small for IPv6":   "version: 2\nethernets: {eth0: {mtu: 1000, accept-ra: true}}\n",
		"bond member":      "version: 2\nethernets: {eth0: {dhcp4: true}}\nbonds: {b: {interfaces: [eth0]}}\n",
		"tunnel's name":    "version: 2\nethernets: {eth0: {}}\nvlans: {lz0: {id: 1, link: eth0}}\n",
		"path as name":     "version: 2\nethernets: {../../kernel: {}}\n",
	} {
		if n, err := ParseNetwork([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

// TestPrimary: a bond may name the card that it uses before others in the modes in which the
// kernel takes one (Linux, drivers/net/bonding/bond_options.c, BOND_OPT_PRIMARY), and no others.
func TestPrimary(t *testing.T) {
	takes := map[string]bool{"": true, "active-backup": true, "balance-tlb": true, "balance-alb": true, "802.3ad": false, "balance-xor": false, "balance-rr": false, "broadcast": false}
	for mode, want := range takes {
		parameters := "primary: one"
		if mode != "" {
			parameters += ", mode: " + mode
		}
		_, err := ParseNetwork([]byte("version: 2\nethernets: {one: {}, two: {}}\nbonds:\n  b: {interfaces: [one, two], parameters: {" + parameters + "}}\n"))
		if (err == nil) != want {
			t.Errorf("mode %q: %v", mode, err)
		}
	}
}

func TestAutomaticIsSound(t *testing.T) {
	if err := Automatic().Check(); err != nil {
		t.Error(err)
	}
}

const wholeSetup = `name: gw1
organization: Example
enroll_names: [gw.example.com, 192.0.2.10]
endpoints: ["gw.example.com:51820", "[2001:db8::10]:51820"]
management: ["192.0.2.20 tcp/443", "mdm.example.com tcp/443"]
admin_networks: [192.0.2.0/24]
quarantine: [10.99.0.0/16, "fd99::/64"]
full: [10.98.0.0/16]
masquerade: true
network: {version: 2, ethernets: {eth0: {dhcp4: true}}}
time_servers: [ntp.example.com]
proxy: http://192.0.2.3:3128
updates: {channel: "https://updates.example.com/stable", automatic: true, window: "Sun 02:00-05:00"}
`

func TestParseSetup(t *testing.T) {
	s, err := ParseSetup([]byte(wholeSetup))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "gw1" || len(s.EnrollNames) != 2 || s.Network == nil || !s.Network.Ethernets["eth0"].DHCP4 || !s.Masquerade || !s.Updates.Automatic || len(s.Quarantine) != 2 {
		t.Errorf("%+v", s)
	}
	j, err := ParseSetup([]byte(`{"name": "gw1", "enroll_names": ["gw.example.com"], "management": ["192.0.2.20 tcp\/443"], "network": null, "masquerade": true}`))
	if err != nil || !j.Masquerade || j.Network != nil || j.Management[0] != "192.0.2.20 tcp/443" {
		t.Errorf("JSON: %+v %v", j, err)
	}
}

func TestParseSetupFaults(t *testing.T) {
	_, err := ParseSetup([]byte(`name: GW
enroll_names:
  - "a b"
management:
  - 192.0.2.20 sctp/443
quarantine: [10.0.0.0/16, 10.1.0.0/16]
full: [10.0.0.0/8]
admin_networks: [192.0.2.1/24]
network:
  version: 2
  ethernets:
    eth0: {mtu: 5}
proxy: "http://user:secret@192.0.2.3"
updates: {channel: "http://example.com", window: "daily"}
shell: /bin/sh
`))
	if got, want := faultLines(t, err), []int{1, 3, 5, 6, 7, 7, 8, 12, 13, 14, 14, 15}; !reflect.DeepEqual(got, want) {
		t.Errorf("faults on lines %v, want %v:\n%v", got, want, err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Error("the password of a proxy is shown:", err)
	}
	if err := (Setup{}).Check(); err == nil || len(faultLines(t, err)) != 2 {
		t.Errorf("an empty setup: %v", err)
	}
	var code string
	if _, err := ReadSetup([]byte("claim_code: abc\n"), map[string]*string{"claim_code": &code}); err != nil || code != "abc" {
		t.Errorf("an incomplete setup: %q %v", code, err)
	}
}

// TestManagementBesideDevices: a management server has no address that a device may get.
func TestManagementBesideDevices(t *testing.T) {
	for text, sound := range map[string]bool{
		"quarantine: [10.1.0.0/16]\nfull: [10.2.0.0/16]\nmanagement: [192.0.2.20 tcp/443]":  true,
		"quarantine: [10.1.0.0/16]\nfull: [10.2.0.0/16]\nmanagement: [10.3.0.1 tcp/443]":    true,
		"quarantine: [10.1.0.0/16]\nfull: [10.2.0.0/16]\nmanagement: [10.1.0.9 tcp/443]":    false,
		"quarantine: [10.1.0.0/16]\nfull: [10.2.0.0/16]\nmanagement: [10.2.0.0/24 tcp/443]": false,
		"quarantine: [10.1.0.0/16]\nfull: [10.2.0.0/16]\nmanagement: [10.0.0.0/8 tcp/443]":  false,
		"management: [" + DefaultFull[0].Addr().Next().String() + " tcp/443]":               false,
	} {
		_, err := ParseSetup([]byte("enroll_names: [gw.example.com]\n" + text + "\n"))
		if (err == nil) != sound || err != nil && !strings.Contains(err.Error(), "is among devices' addresses") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add([]byte(wholeNetwork))
	f.Add([]byte("version: 2\nethernets: {a: &x {dhcp4: true}, b: *x}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := ParseNetwork(text)
		if err != nil {
			return
		}
		if err := n.Check(); err != nil {
			t.Fatalf("read and not sound: %v", err)
		}
		again, err := n.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseNetwork(again); err != nil {
			t.Fatalf("%v in\n%s", err, again)
		}
	})
}

func FuzzParseSetup(f *testing.F) {
	f.Add([]byte(wholeSetup))
	f.Add([]byte(`{"name": "gw1", "enroll_names": ["a"], "management": ["192.0.2.20"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSetup(text)
		if err == nil {
			if err := s.Check(); err != nil {
				t.Fatalf("read and not sound: %v", err)
			}
		}
	})
}
