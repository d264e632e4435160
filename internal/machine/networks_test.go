package machine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/appliance/seed"
	"lazaret/internal/making"
)

// cards are two cards without a kernel.
type cards struct {
	wires
	is appliance.Network
}

func (c *cards) Set(_ context.Context, n appliance.Network) error {
	c.is = n
	return n.Check()
}

func (c *cards) Network() appliance.Network { return c.is }

func (c *cards) Links() []appliance.LinkIs {
	return []appliance.LinkIs{{Name: "eth0", MAC: "52:54:00:00:00:01"}, {Name: "eth1", MAC: "52:54:00:00:00:02"}}
}

// wired is a machine with two cards, that nobody owns.
func wired(t *testing.T) (*Machine, *cards) {
	m, c := idle(t), &cards{}
	m.parts, m.network, m.networkPath = nil, c, filepath.Join(t.TempDir(), "network.yaml") // without parts, nothing is shown
	return m, c
}

func fixed(prefix string) appliance.Link {
	return appliance.Link{Addresses: []netip.Prefix{netip.MustParsePrefix(prefix)}}
}

// address is what one entry of a network has; nil: there is none.
func address(n appliance.Network, entry string) string {
	if e, ok := n.Ethernets[entry]; ok && len(e.Addresses) == 1 {
		return e.Addresses[0].String()
	}
	return ""
}

// seeded is a seed with both cards, one of them by its hardware address.
func seeded() seed.Seed {
	return seed.Seed{Instance: "i1", Network: &appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{
		"lan":  {Match: appliance.Match{MAC: "52:54:00:00:00:01"}, Link: fixed("192.0.2.1/24")},
		"eth1": {Link: fixed("198.51.100.1/24")},
	}}}
}

// given is the network as it comes back in a claim.
func given(t *testing.T, n *appliance.Network) *appliance.Network {
	t.Helper()
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var back *appliance.Network
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

// kept is the network of the next start.
func (m *Machine) kept(t *testing.T) appliance.Network {
	t.Helper()
	n, err := m.wantedNetwork()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestScreenWinsOverSeed: of what a seed says of the network, the card that somebody sets at
// the screen is different, all others are as the seed says, and the claim that the seed's
// network comes back in changes none of that, whenever it began.
func TestScreenWinsOverSeed(t *testing.T) {
	for _, when := range []string{"before the door", "before the claim", "before it is kept"} {
		t.Run(when, func(t *testing.T) {
			m, c := wired(t)
			s := seeded()
			if err := m.firstNetwork(t.Context(), s); err != nil || address(c.is, "lan") != "192.0.2.1/24" {
				t.Fatalf("the seed's network is not used: %v %+v", err, c.is)
			}
			set := func(at string) {
				if at != when {
					return
				}
				if err := m.setAddress(t.Context(), "eth0", fixed("192.0.2.9/24")); err != nil {
					t.Fatal(err)
				}
			}
			set("before the door")
			about := m.about(s)
			if (about.Setup.Network == nil) != (when == "before the door") {
				t.Errorf("a claimant is told that the network will be %+v", about.Setup.Network)
			}
			back := given(t, s.Network) // the page may be older than that
			set("before the claim")
			x := offering{code: claim.DrawCode(), seed: s, turns: &turns{}}
			var made *appliance.Network
			k := m.claimWith(x, func(_ context.Context, r claim.Request, _ func(string)) (making.Made, error) {
				made = r.Setup.Network
				return making.Made{}, nil
			})
			if _, err := k.Make(t.Context(), claim.Request{Setup: appliance.Setup{Network: back}}, func(string) {}); err != nil {
				t.Fatal(err)
			}
			if (made == nil) != (when != "before it is kept") {
				t.Errorf("the gateway is made for the network %+v", made)
			}
			set("before it is kept")
			if err := m.keepNetwork(back, s); err != nil {
				t.Fatal(err)
			}
			if err := m.useKept(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, n := range []appliance.Network{m.kept(t), c.is} {
				if address(n, "lan") != "192.0.2.9/24" || address(n, "eth1") != "198.51.100.1/24" || len(n.Ethernets) != 2 || n.Ethernets["lan"].Match.MAC != "52:54:00:00:00:01" {
					t.Errorf("a claimed machine has %+v", n.Ethernets)
				}
			}
		})
	}
}

// TestScreenWinsOverSeedAfterRestart: what was set at the screen before this start wins as
// well, over a seed that is there and over one that comes.
func TestScreenWinsOverSeedAfterRestart(t *testing.T) {
	m, _ := wired(t)
	if err := m.setAddress(t.Context(), "eth0", fixed("192.0.2.9/24")); err != nil {
		t.Fatal(err)
	}
	next, c := wired(t)
	next.networkPath = m.networkPath
	s := seeded()
	if err := next.firstNetwork(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	want := m.kept(t)
	if got := c.is; address(got, "eth0") != "192.0.2.9/24" || !reflect.DeepEqual(got, want) {
		t.Errorf("connected by %+v, want %+v", got, want)
	}
	next.useSeedNetwork(t.Context(), s)
	if !reflect.DeepEqual(c.is, want) || next.about(s).Setup.Network != nil {
		t.Errorf("a late seed: connected by %+v, want %+v", c.is, want)
	}
}

// TestSeedNetworkIsKept: where nobody set anything at the screen, the seed's network is used
// and kept; where a claimant asks for another, that is, whatever was set before.
func TestSeedNetworkIsKept(t *testing.T) {
	m, c := wired(t)
	if err := m.firstNetwork(t.Context(), seed.Seed{}); err != nil || !reflect.DeepEqual(c.is, appliance.Automatic()) {
		t.Errorf("%v %+v", err, c.is)
	}
	s := seeded()
	m.useSeedNetwork(t.Context(), s)
	if !reflect.DeepEqual(c.is, *s.Network) || m.about(s).Setup.Network == nil {
		t.Errorf("a late seed's network is not used: %+v", c.is)
	}
	if _, err := os.Stat(m.networkPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a seed's network is kept before the claim (%v)", err)
	}
	if err := m.keepNetwork(given(t, s.Network), s); err != nil || address(m.kept(t), "lan") != "192.0.2.1/24" {
		t.Errorf("kept %+v (%v)", m.kept(t), err)
	}
	if err := m.setAddress(t.Context(), "eth1", fixed("198.51.100.9/24")); err != nil {
		t.Fatal(err)
	}
	other := appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{"eth1": {Link: fixed("203.0.113.1/24")}}}
	if err := m.keepNetwork(given(t, &other), s); err != nil || !reflect.DeepEqual(m.kept(t), other) {
		t.Errorf("kept %+v (%v), want what the claimant asks for", m.kept(t), err)
	}
}

// TestCardsEntry: the screen changes the entry that means its card, of whatever kind, and
// makes one that means no other where there is none.
func TestCardsEntry(t *testing.T) {
	m, _ := wired(t)
	link := fixed("192.0.2.9/24")
	bonded := appliance.Network{
		Ethernets: map[string]appliance.Ethernet{"eth0": {}, "eth1": {}},
		Bonds:     map[string]appliance.Bond{"bond0": {Interfaces: []string{"eth0", "eth1"}}},
		VLANs:     map[string]appliance.VLAN{"vlan7": {ID: 7, On: "bond0"}},
	}
	if n := m.withCard(bonded, "bond0", link); !reflect.DeepEqual(n.Bonds["bond0"].Link, link) || len(n.Ethernets) != 2 || n.Check() != nil {
		t.Errorf("a bond: %+v", n)
	}
	if n := m.withCard(bonded, "vlan7", link); !reflect.DeepEqual(n.VLANs["vlan7"].Link, link) || n.VLANs["vlan7"].ID != 7 || n.Check() != nil {
		t.Errorf("a VLAN: %+v", n)
	}
	if len(bonded.Bonds["bond0"].Addresses)+len(bonded.VLANs["vlan7"].Addresses) != 0 {
		t.Error("the network before is changed")
	}
	for name, x := range map[string]struct {
		before map[string]appliance.Match
		want   string
	}{
		"none":              {nil, "eth0"},
		"a pattern":         {map[string]appliance.Match{"cards": {Name: "*"}}, "eth0"},
		"its key":           {map[string]appliance.Match{"eth0": {}}, "eth0"},
		"its name":          {map[string]appliance.Match{"lan": {Name: "eth0"}}, "lan"},
		"its address":       {map[string]appliance.Match{"lan": {MAC: "52:54:00:00:00:01"}, "eth0": {}}, "lan"},
		"another's address": {map[string]appliance.Match{"eth0": {MAC: "52:54:00:00:00:02"}}, "screen-eth0"},
	} {
		n := appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{}}
		for entry, match := range x.before {
			n.Ethernets[entry] = appliance.Ethernet{Match: match}
		}
		n = m.withCard(n, "eth0", link)
		if address(n, x.want) != "192.0.2.9/24" || n.Check() != nil {
			t.Errorf("%s: %+v (%v)", name, n.Ethernets, n.Check())
		}
		for entry, match := range x.before {
			if n.Ethernets[entry].Match != match {
				t.Errorf("%s: the entry %s means another card now: %+v", name, entry, n.Ethernets[entry])
			}
		}
	}
}
