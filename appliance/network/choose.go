package network

import (
	"maps"
	"slices"
	"strings"

	"lazaret/appliance"
)

// fact is what the choice of cards looks at.
type fact struct {
	Index int
	Name  string
	MAC   string // the card's own, lower case
	Card  bool   // a card, and not something built on others
	Made  bool   // by us: a bond or VLAN
}

// chosen is one link with what is configured for it.
type chosen struct {
	Entry string // its key in the Network
	appliance.Link
	Bond string // the bond that it is part of
}

// choose says which card each entry means. One that names a hardware address goes before one
// that names a card, and that before patterns; nothing is given away twice. A pattern means
// every card left, or the first where its entry can only be one.
func choose(n appliance.Network, facts []fact) map[int]chosen {
	cards := slices.DeleteFunc(slices.Clone(facts), func(f fact) bool { return !f.Card })
	slices.SortFunc(cards, func(a, b fact) int { return a.Index - b.Index })
	bond := make(map[string]string)
	for name, b := range n.Bonds {
		for _, member := range b.Interfaces {
			bond[member] = name
		}
	}
	out := make(map[int]chosen)
	for pass := range 3 {
		for _, entry := range slices.Sorted(maps.Keys(n.Ethernets)) {
			e := n.Ethernets[entry]
			if order(e.Match) != pass {
				continue
			}
			for _, c := range cards {
				if _, taken := out[c.Index]; taken || !matches(e.Match, entry, c) {
					continue
				}
				out[c.Index] = chosen{Entry: entry, Link: e.Link, Bond: bond[entry]}
				if pass < 2 || single(n, entry) {
					break
				}
			}
		}
	}
	return out
}

func order(m appliance.Match) int {
	switch {
	case m.MAC != "":
		return 0
	case strings.HasSuffix(m.Name, "*"):
		return 2
	}
	return 1
}

func matches(m appliance.Match, entry string, c fact) bool {
	if m.MAC != "" && !strings.EqualFold(m.MAC, c.MAC) {
		return false
	}
	name := m.Name
	if name == "" {
		if m.MAC != "" {
			return true
		}
		name = entry
	}
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		return strings.HasPrefix(c.Name, prefix)
	}
	return c.Name == name
}

// single says whether an entry can mean one card only.
func single(n appliance.Network, entry string) bool {
	e := n.Ethernets[entry]
	if len(e.Addresses)+len(e.Routes) > 0 {
		return true
	}
	for _, b := range n.Bonds {
		if slices.Contains(b.Interfaces, entry) {
			return true
		}
	}
	for _, v := range n.VLANs {
		if v.On == entry {
			return true
		}
	}
	return false
}
