package firewall

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// inspect reads the kernel of this process's own namespace.
func inspect(t *testing.T) Found {
	t.Helper()
	f, err := Inspect()
	must(t, err)
	return f
}

// TestInspectReadsWhatWasWritten: every golden ruleset is found again as it was written,
// no different from itself and different from every other; and the words for what it lets
// pass are nft's.
func TestInspectReadsWhatWasWritten(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table := open(t)
	for _, g := range goldens() {
		must(t, table.Fill(g.ruleset, g.elements))
		f := inspect(t)
		k, ok := f.Table("lazaret")
		if !ok || !k.Owned() || !k.Persistent() || k.Dormant() {
			t.Fatalf("%s: found %v as %+v", g.name, ok, k)
		}
		for _, other := range goldens() {
			list, err := f.Differences(other.ruleset)
			must(t, err)
			if (len(list) == 0) != (other.name == g.name) {
				t.Errorf("%s compared with %s: %q", g.name, other.name, list)
			}
		}
		inWords(t, g, k)
		if held, ok := table.Held(); !ok || held.Text(Elements{}) != g.ruleset.Text(Elements{}) {
			t.Errorf("%s: what is held is not what was filled", g.name)
		}
	}
	must(t, table.Close())
	if k, _ := inspect(t).Table("lazaret"); k.Owned() {
		t.Error("a table that nobody owns is found owned")
	}
}

// inWords compares the kernel's rules with the layout's, as text.
func inWords(t *testing.T, g golden, k FoundTable) {
	t.Helper()
	known := 0
	for _, c := range g.ruleset.layout().chains {
		found, _ := k.Chain(c.name)
		if len(found.Rules) != len(c.rules) {
			t.Fatalf("%s, %s: %d rules, want %d", g.name, c.name, len(found.Rules), len(c.rules))
		}
		for i, r := range c.rules {
			x := found.Rules[i]
			if x.Known {
				known++
				if diff := cmp.Diff(r.text(), x.Text); diff != "" {
					t.Errorf("%s, %s, rule %d: %s", g.name, c.name, i+1, diff)
				}
			} else if strings.HasSuffix(r.text(), "accept") {
				t.Errorf("%s, %s, rule %d is not understood: %s, is %s", g.name, c.name, i+1, x.Text, r.text())
			}
		}
	}
	if known == 0 {
		t.Errorf("%s: no rule was understood", g.name)
	}
}

// TestInspectFindsEveryChange makes one change at a time to a table like ours, from
// outside, and wants it found. The table has no owner, or nft could not change it.
func TestInspectFindsEveryChange(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	r := fullRuleset()
	for change, want := range map[string]string{
		"add rule inet lazaret input tcp dport 4444 accept":                                                    "chain input has a rule",
		"insert rule inet lazaret services tcp dport 4444 accept":                                              "chain services",
		"add chain inet lazaret more":                                                                          "chain more should not be there",
		"add chain inet lazaret more { type nat hook prerouting priority -100; }":                              "chain more should not be there",
		"chain inet lazaret input { policy accept; }":                                                          "chain input is type filter hook input priority 0 policy accept",
		"flush chain inet lazaret quarantine_down":                                                             "chain quarantine_down lacks rule 1",
		"add set inet lazaret more { type ipv4_addr; }":                                                        "set more should not be there",
		"add element inet lazaret inside4 { 172.16.0.0/12 }":                                                   "set inside4 holds other elements",
		"add element inet lazaret pools_up { 0x63 : goto services }":                                           "set pools_up holds other elements",
		"delete element inet lazaret pools_down { 1 }":                                                         "set pools_down holds other elements",
		"add element inet lazaret quarantined4 { 10.99.0.77 }":                                                 "",
		"add rule inet lazaret pool_7_up ip daddr 10.0.0.1 counter packets 5 bytes 6 accept comment \"admin\"": "chain pool_7_up has a rule",
	} {
		table := open(t)
		must(t, table.Adopt(r))
		must(t, table.Close())
		nft(t, strings.Fields(change)...)
		list, err := inspect(t).Differences(r)
		must(t, err)
		found := slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) })
		if want == "" && len(list) > 0 || want != "" && !found {
			t.Errorf("%s: found %q, want %q", change, list, want)
		}
	}
	if list, err := (Found{}).Differences(r); err != nil || len(list) != 1 {
		t.Errorf("without a table: %q, %v", list, err)
	}
}

// TestInspectSeesOthers: tables, hooks and what their rules do, in every family that
// can get around this package's.
func TestInspectSeesOthers(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	nft(t, "add table ip other; add chain ip other pre { type nat hook prerouting priority -100; policy accept; };"+
		"add rule ip other pre tcp dport 80 redirect to :8080; add chain ip other plain;"+
		"add table netdev early; add chain netdev early in { type filter hook ingress device lo priority 0; };"+
		"add rule netdev early in fwd to lo; add table inet marks; add chain inet marks c { type route hook output priority 0; };"+
		"add rule inet marks c tcp dport 1 accept; add rule inet marks c meta mark set 1; add rule inet marks c tcp dport 2 ct mark set 7; add rule inet marks c notrack;"+
		"add ct helper ip other ftp { type \"ftp\" protocol tcp; };")
	f := inspect(t)
	got := map[string]string{}
	for _, x := range f.Tables {
		for _, c := range x.Chains {
			text := c.Hook
			for _, r := range c.Rules {
				text += " " + strings.Join(r.Alters, ",") + ";"
			}
			got[x.Family+" "+x.Name+" "+c.Name] = text
		}
	}
	want := map[string]string{
		"ip other pre": "prerouting redir;", "ip other plain": "", "netdev early in": "ingress fwd;",
		"inet marks c": "output ; meta; ct; notrack;",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(f.Objects) != 1 || !strings.HasPrefix(f.Objects[0], "ip other ftp") {
		t.Errorf("objects %q", f.Objects)
	}
}

// FuzzRule: whatever a rule's bytes are, they are read without a fault in this process,
// and a rule that is said to be known is in words.
func FuzzRule(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{20, 0, 1, 0, 9, 0, 1, 0, 'm', 'a', 's', 'q', 0, 0, 0, 0, 4, 0, 2, 0}, []byte{0, 2, 'a', 0})
	f.Add([]byte{44, 0, 1, 128, 8, 0, 1, 0, 'c', 'm', 'p', 0, 32, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 8, 8, 0, 2, 0, 0, 0, 0, 0, 12, 0, 3, 128, 5, 0, 1, 0, 2, 0, 0, 0}, []byte{})
	f.Add([]byte{}, []byte("0000"))
	f.Fuzz(func(t *testing.T, expressions, comment []byte) {
		list, err := items(expressions)
		if err != nil {
			return
		}
		r, err := readRule(list, comment, func(set string) []setElement {
			if set == "__set0" {
				return []setElement{{key: []byte{8}}, {key: nil}}
			}
			return nil
		})
		if err == nil && r.Known && len(list) > 0 && r.Text == "" && len(r.bytes) == 0 {
			t.Fatal("a rule is known and says nothing")
		}
	})
}

// TestEverySettingMakesADifference: rulesets that differ in one value, with as many rules,
// are told apart, by the rule or the set that it stands in.
func TestEverySettingMakesADifference(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table := open(t)
	must(t, table.Adopt(fullRuleset()))
	f := inspect(t)
	for want, change := range map[string]func(*Ruleset){
		"chain input, rule 2: is udp dport 51820 accept, should be udp dport 51821": func(r *Ruleset) { r.ListenPort++ },
		"should be tcp dport 444 accept":                                            func(r *Ruleset) { r.Outside[0].Port++ },
		"should be ip saddr 203.0.113.0/25 tcp dport 22":                            func(r *Ruleset) { r.Outside[1].From[0] = pfx("203.0.113.0/25") },
		"chain output, rule":                                                        func(r *Ruleset) { r.Out[0].Protocol = "tcp" },
		"chain forward, rule 1":                                                     func(r *Ruleset) { r.Tunnel = "lz1" },
		"udp dport 5000-5011 goto remember":                                         func(r *Ruleset) { r.Pools[0].Reach[2].Up++ },
		"chain departure, rule 1":                                                   func(r *Ruleset) { r.Pools[1].Masquerade, r.Pools[2].Masquerade = false, true },
		"chain services":                                                            func(r *Ruleset) { r.Gateway[0] = addr("10.99.0.2") },
		"set fresh is defined in another way":                                       func(r *Ruleset) { r.Freshness += time.Second },
		"set inside6 holds other elements":                                          func(r *Ruleset) { r.Pools[2].IPv6 = pfx("fd96::/64") },
	} {
		r := fullRuleset()
		change(&r)
		list, err := f.Differences(r)
		must(t, err)
		if !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("found %q, want %q", list, want)
		}
	}
}

// TestHarden: the settings are made for interfaces that are there and for those to come,
// and what cannot be made is named, every one of them.
func TestHarden(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	link := func(name string) {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "peer"}))
	}
	link("before")
	for _, s := range Sysctls([]string{"before"}) {
		must(t, os.WriteFile("/proc/sys/"+s.Path, []byte("1"), 0))
	}
	must(t, Harden())
	link("after")
	names, err := Interfaces()
	must(t, err)
	if slices.Sort(names); !slices.Equal(names, []string{"after", "afterpeer", "before", "beforepeer"}) {
		t.Errorf("interfaces %q", names)
	}
	all := Sysctls(names)
	for _, s := range all {
		if b, err := os.ReadFile("/proc/sys/" + s.Path); err != nil || strings.TrimSpace(string(b)) != s.Value {
			t.Errorf("%s is %q (%v), want %s", s.Path, b, err, s.Value)
		}
	}
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REC, ""))
	must(t, unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	err = Harden()
	for _, s := range all {
		if err == nil || !strings.Contains(err.Error(), s.Path+" to "+s.Value) {
			t.Errorf("%s could not be set, and the error is %v", s.Path, err)
		}
	}
}
