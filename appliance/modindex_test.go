package appliance

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const smallIndex = `lazaret-modules 1 6.12.1-test
builtin virtio_pci
module virtio_net kernel/drivers/net/virtio_net.ko.xz
needs net_failover
alias virtio:d00000001v*
module net_failover kernel/net/core/net_failover.ko.xz
needs failover
module failover kernel/net/core/failover.ko.xz
module wireguard kernel/drivers/net/wireguard/wireguard.ko.xz
needs libchacha udp_tunnel
wants crypto_soft absent
alias rtnl-link-wireguard
module libchacha kernel/libchacha.ko.xz
module udp_tunnel kernel/udp_tunnel.ko.xz
module crypto_soft kernel/crypto-soft.ko.xz
module usbhid kernel/usbhid.ko.xz
alias usb:v*p*d*dc*dsc*dp*ic03isc*ip*in*
alias usb:v1234p[0-9A-C]*d0[!5]*
`

func TestModuleIndexFindsAndOrders(t *testing.T) {
	x, err := ParseModuleIndex(strings.NewReader(smallIndex))
	if err != nil {
		t.Fatal(err)
	}
	for alias, want := range map[string][]string{
		"virtio:d00000001v00001AF4\n": {"virtio_net"},
		"virtio:d00000002v00001AF4":   nil,
		"rtnl-link-wireguard":         {"wireguard"},
		"rtnl_link_wireguard":         {"wireguard"},
		"wireguard":                   {"wireguard"},
		"crypto-soft":                 {"crypto_soft"},
		"usb:v0627p0001d0000dc00dsc00dp00ic03isc01ip01in00": {"usbhid"},
		"usb:v0627p0001d0000dc00dsc00dp00ic08isc01ip01in00": nil,
		"usb:v1234pA001d0400":                               {"usbhid"},
		"usb:v1234pA001d0500":                               nil,
		"usb:v1234pF001d0400":                               nil,
		"virtio_pci":                                        nil, // built in
		"":                                                  nil,
	} {
		if got := x.Find(alias); !slices.Equal(got, want) {
			t.Errorf("Find(%q) = %v, want %v", alias, got, want)
		}
	}
	for name, want := range map[string]string{
		"virtio-net": "kernel/net/core/failover.ko.xz kernel/net/core/net_failover.ko.xz kernel/drivers/net/virtio_net.ko.xz",
		"wireguard":  "kernel/libchacha.ko.xz kernel/udp_tunnel.ko.xz kernel/crypto-soft.ko.xz kernel/drivers/net/wireguard/wireguard.ko.xz",
		"virtio_pci": "",
		"nothing":    "",
	} {
		if got := strings.Join(x.Needs(name), " "); got != want {
			t.Errorf("Needs(%q) = %q, want %q", name, got, want)
		}
	}
	if !x.Builtin("virtio-pci") || x.Builtin("virtio_net") {
		t.Error("what is compiled in is not told from what is not")
	}
	again, err := ParseModuleIndex(strings.NewReader(x.Text()))
	if err != nil || again.Text() != x.Text() {
		t.Errorf("the text form does not survive: %v", err)
	}
}

// TestModuleNeedsEachOther: modules that need each other are loaded once each, and not
// forever.
func TestModuleNeedsEachOther(t *testing.T) {
	x, err := ParseModuleIndex(strings.NewReader("lazaret-modules 1 r\nmodule a a.ko\nneeds b\nmodule b b.ko\nneeds a\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := x.Needs("a"); !slices.Equal(got, []string{"b.ko", "a.ko"}) {
		t.Error(got)
	}
}

func TestModuleIndexRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"other version":   "lazaret-modules 2 r\n",
		"no release":      "lazaret-modules 1 \n",
		"unknown":         "lazaret-modules 1 r\nrun a\n",
		"misplaced":       "lazaret-modules 1 r\nalias a\n",
		"twice":           "lazaret-modules 1 r\nmodule a a.ko\nmodule a b.ko\n",
		"need not there":  "lazaret-modules 1 r\nmodule a a.ko\nneeds b\n",
		"leads elsewhere": "lazaret-modules 1 r\nmodule a ../../data/a.ko\n",
		"no path":         "lazaret-modules 1 r\nmodule a\n",
		"line too long":   "lazaret-modules 1 r\nmodule a " + strings.Repeat("a", maxModuleLine) + "\n",
		"too many":        "lazaret-modules 1 r\nmodule a a\n" + strings.Repeat("alias b\n", maxModuleLines),
	} {
		if _, err := ParseModuleIndex(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestGlobsAsShells holds our matching to path/filepath's where the two agree by
// definition: without slashes and backslashes, and with ^ for !.
func TestGlobsAsShells(t *testing.T) {
	patterns := []string{"", "a", "*", "a*", "*a", "a*b", "a**b", "?", "a?c", "[abc]", "[a-c]x", "[^a]b", "*[0-9]", "a*b*c", "**", "v*p[0-9A-C]*d*", "*:*"}
	texts := []string{"", "a", "b", "ab", "abc", "aXXb", "aXbYc", "c", "cx", "dx", "bb", "v1pCd2", "v1pDd2", "x9", "a:b", "aab", "abb"}
	for _, p := range patterns {
		for _, s := range texts {
			want, err := filepath.Match(p, s)
			if err != nil {
				t.Fatal(err)
			}
			if got := globs(p, s); got != want {
				t.Errorf("globs(%q, %q) = %v, want %v", p, s, got, want)
			}
		}
	}
	if !globs("[!a]", "b") || globs("[!a]", "a") || !globs("[a", "[a") || !globs(`\*`, "*") || globs(`\*`, "a") {
		t.Error("brackets or backslashes are not as fnmatch has them")
	}
	if globs(strings.Repeat("*a", 40)+"b", strings.Repeat("a", 4000)) { // would take forever by backtracking
		t.Error("matched")
	}
}

func FuzzModuleIndex(f *testing.F) {
	f.Add(smallIndex, "usb:v1234pA001d0400")
	f.Add("lazaret-modules 1 r\nmodule a a.ko\nalias [\nalias *?[a-]\n", "a")
	f.Fuzz(func(t *testing.T, text, alias string) {
		x, err := ParseModuleIndex(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, name := range x.Find(alias) {
			paths := x.Needs(name)
			if len(paths) == 0 {
				t.Fatalf("%s serves %q and has no file", name, alias)
			}
			for _, p := range paths {
				if strings.Contains("/"+p+"/", "/../") {
					t.Fatalf("path %q leads elsewhere", p)
				}
			}
		}
		again, err := ParseModuleIndex(strings.NewReader(x.Text()))
		if err != nil || again.Text() != x.Text() {
			t.Fatalf("the text form does not survive: %v", err)
		}
	})
}
