package network

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// TestBuilt: bonds and VLANs are made, changed and removed; those of others stay.
func TestBuilt(t *testing.T) {
	if !inside(t) {
		return
	}
	makes(t)
	o := newOther(t)
	for _, n := range []string{"1", "2", "3"} {
		o.cable(t, "eth"+n, "peer"+n)
	}
	others := foreign(t)
	m, _ := manage(t)
	t.Run("Idle", func(t *testing.T) { builtIdle(t, m) })
	t.Run("Bond", func(t *testing.T) { builtBond(t, m) })
	t.Run("Modes", func(t *testing.T) { builtModes(t, m) })
	t.Run("Removed", func(t *testing.T) {
		check(t, m.Set(t.Context(), parsed(t, "ethernets: {eth1: {addresses: [192.0.2.10/24]}}")))
		contains(t, witness(t, "address", "show", "dev", "eth1"), "inet 192.0.2.10/24")
		lacks(t, witness(t, "link", "show"), "bond0", "office")
	})
	t.Run("Foreign", func(t *testing.T) {
		err := m.Set(t.Context(), parsed(t, "ethernets: {eth1: {}}\nvlans: {theirs: {id: 5, link: eth1}}"))
		if err == nil || !strings.Contains(err.Error(), "another link of that name") {
			t.Errorf("taking the name of another's link: %v", err)
		}
		for name, was := range others {
			if index(t, name) != was {
				t.Errorf("another's link %s was made anew", name)
			}
		}
		contains(t, witness(t, "-d", "link", "show", "theirs"), "theirs@eth3", "vlan protocol 802.1Q id 99")
	})
}

// makes skips t unless the kernel has bonds and VLANs.
func makes(t *testing.T) {
	t.Helper()
	bond := netlink.NewLinkBond(netlink.NewLinkAttrs())
	bond.Name = "probe"
	for _, l := range []netlink.Link{bond, &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "probe2"}, VlanId: 1}} {
		if bond.Index != 0 {
			l.Attrs().ParentIndex = bond.Index
		}
		if err := netlink.LinkAdd(l); errors.Is(err, unix.EOPNOTSUPP) {
			testneed.Kernel(t, "has no links of kind "+l.Type()+" (modprobe bonding 8021q)")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	check(t, netlink.LinkDel(bond)) // and what is on it
}

// foreign makes a bond and a VLAN on eth3 that are not the manager's, and returns their indexes.
func foreign(t *testing.T) map[string]int {
	t.Helper()
	bond := netlink.NewLinkBond(netlink.NewLinkAttrs())
	bond.Name = "bond7"
	check(t, netlink.LinkAdd(bond))
	check(t, netlink.LinkSetUp(bond))
	check(t, netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "theirs", ParentIndex: index(t, "eth3")}, VlanId: 99, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}))
	return map[string]int{"bond7": index(t, "bond7"), "theirs": index(t, "theirs")}
}

func index(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	return l.Attrs().Index
}

func lacks(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, bad := range lines {
		if strings.Contains(text, bad) {
			t.Errorf("%q in\n%s", bad, text)
		}
	}
}

// builtIdle: the bond that the kernel's module makes by itself goes, whatever ours is called.
func builtIdle(t *testing.T, m *Manager) {
	idle := netlink.NewLinkBond(netlink.NewLinkAttrs())
	idle.Name = idleBond
	err := netlink.LinkAdd(idle)
	if there := errors.Is(err, unix.EEXIST); there != testneed.Guest() {
		t.Fatalf("where the module was loaded it made %s, and nowhere else: %v", idleBond, err)
	}
	var loaded []string
	m.mu.Lock()
	m.config.Load = func(module string) error { loaded = append(loaded, module); return nil }
	m.mu.Unlock()
	check(t, m.Set(t.Context(), parsed(t, "ethernets: {eth1: {}}\nbonds: {uplink: {interfaces: [eth1]}}\nvlans: {office: {id: 12, link: uplink}}")))
	if !slices.Equal(loaded, []string{"bonding", "8021q"}) {
		t.Errorf("loaded %v", loaded)
	}
	text := witness(t, "link", "show")
	contains(t, text, "uplink", "office@uplink")
	lacks(t, text, idleBond)
}

const built = `ethernets: {eth1: {}, eth2: {}}
bonds:
  bond0: {interfaces: [eth1, eth2], parameters: {mode: active-backup, primary: eth2}, addresses: [192.0.2.10/24]}
vlans:
  office: {id: 12, link: bond0, addresses: [198.51.100.10/24]}
`

// builtBond makes a VLAN on a bond, and changes both as far as they can be without being made
// anew.
func builtBond(t *testing.T, m *Manager) {
	set := func(text string) { t.Helper(); check(t, m.Set(t.Context(), parsed(t, text))) }
	set(built)
	await(t, m, "both have carrier", func() bool { return link(m, "office").Up && link(m, "bond0").Up })
	contains(t, witness(t, "-d", "link", "show", "bond0"), "mode active-backup", "miimon 100", "primary eth2")
	contains(t, witness(t, "-d", "link", "show", "office"), "vlan protocol 802.1Q id 12", "office@bond0")
	contains(t, witness(t, "address", "show", "dev", "office"), "inet 198.51.100.10/24")
	contains(t, witness(t, "link", "show", "eth1"), "master bond0")
	bond, vlan := index(t, "bond0"), index(t, "office")
	quiet(t, m, func() { set(built) })
	if index(t, "office") != vlan {
		t.Error("the VLAN was made anew without need")
	}
	set(strings.Replace(built, "id: 12", "id: 13", 1))
	contains(t, witness(t, "-d", "link", "show", "office"), "id 13")
	set(strings.Replace(built, ", primary: eth2", "", 1))
	lacks(t, witness(t, "-d", "link", "show", "bond0"), "primary eth2")
	left := strings.NewReplacer("eth2: {}", "eth2: {addresses: [203.0.113.10/24]}", "[eth1, eth2]", "[eth1]", ", primary: eth2", "")
	set(left.Replace(built))
	lacks(t, witness(t, "link", "show", "eth2"), "master")
	contains(t, witness(t, "address", "show", "dev", "eth2"), "inet 203.0.113.10/24")
	set(built)
	contains(t, witness(t, "link", "show", "eth2"), "master bond0")
	contains(t, witness(t, "-d", "link", "show", "bond0"), "primary eth2")
	lacks(t, witness(t, "address", "show", "dev", "eth2"), "203.0.113.10")
	if index(t, "bond0") != bond {
		t.Error("the bond was made anew without need")
	}
}

// builtModes has the bond go through all that a bond can be.
func builtModes(t *testing.T, m *Manager) {
	for _, c := range []struct{ parameters, want string }{
		{"mode: balance-rr", "mode balance-rr"}, {"mode: balance-xor", "mode balance-xor"}, {"mode: broadcast", "mode broadcast"},
		{"mode: balance-tlb, primary: eth1", "primary eth1"}, {"mode: balance-alb", "mode balance-alb"},
		{"mode: 802.3ad, lacp-rate: fast", "lacp_rate fast"}, {"mode: 802.3ad", "lacp_rate slow"},
		{"mode: 802.3ad, mii-monitor-interval: 250", "miimon 250"}, {"mode: active-backup", "mode active-backup"},
	} {
		check(t, m.Set(t.Context(), parsed(t, strings.Replace(strings.Split(built, "vlans:")[0], "mode: active-backup, primary: eth2", c.parameters, 1))))
		contains(t, witness(t, "-d", "address", "show", "dev", "bond0"), c.want, "inet 192.0.2.10/24")
		contains(t, witness(t, "link", "show", "master", "bond0"), "eth1", "eth2")
	}
	if _, err := netlink.LinkByName("office"); err == nil {
		t.Error("the VLAN is still there")
	}
}
