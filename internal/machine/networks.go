package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/seed"
	"lazaret/internal/durable"
)

// wires are what the machine is connected by (network.Manager).
type wires interface {
	Run(ctx context.Context) error
	Set(ctx context.Context, n appliance.Network) error
	Try(ctx context.Context, n appliance.Network, d time.Duration) error
	Confirm() (appliance.Network, error)
	Trying() (until time.Time, ok bool)
	Network() appliance.Network
	Links() []appliance.LinkIs
	Changed() <-chan struct{}
	Recheck()
	TimeServers() []string
}

// wantedNetwork is what was confirmed last, else Automatic.
func (m *Machine) wantedNetwork() (appliance.Network, error) {
	text, err := os.ReadFile(m.networkPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return appliance.Automatic(), nil
	case err != nil:
		return appliance.Network{}, fmt.Errorf("reading the network's configuration: %w", err)
	}
	n, err := appliance.ParseNetwork(text)
	if err != nil {
		m.problem("network", "The network's configuration cannot be read; every card asks the network for an address instead.")
		m.log.Error("reading the network's configuration", "error", err)
		return appliance.Automatic(), nil
	}
	return n, nil
}

// saveNetwork keeps n for the next start.
func (m *Machine) saveNetwork(n appliance.Network) error {
	text, err := json.MarshalIndent(n, "", "  ") // which is YAML, too
	if err != nil {
		return err
	}
	return durable.Write(m.networkPath, append(text, '\n'), 0o644)
}

// firstNetwork connects the machine at its start: as was kept, else as a seed says, else by
// asking the network on every card. What a machine without an owner has kept was set at its
// screen.
func (m *Machine) firstNetwork(ctx context.Context, s seed.Seed) error {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	n, err := m.wantedNetwork()
	if err != nil {
		return err
	}
	_, err = os.Stat(m.networkPath)
	m.screened.Store(!errors.Is(err, fs.ErrNotExist))
	if seeded := m.seedsNetwork(s); seeded != nil {
		n = *seeded
	}
	if err := m.network.Set(ctx, n); err != nil {
		m.problem("network", "Some of the network could not be set up; the log says what.")
		m.log.Error("setting up the network", "error", err)
	}
	return nil
}

// seedsNetwork is the network of a seed, or nil where it has none or where one that was set
// at the screen wins over it.
func (m *Machine) seedsNetwork(s seed.Seed) *appliance.Network {
	if s.Network != nil && m.screened.Load() {
		m.log.Warn("the seed's network is not used: another was set at the screen")
		return nil
	}
	return s.Network
}

// useSeedNetwork connects the machine as a late seed says.
func (m *Machine) useSeedNetwork(ctx context.Context, s seed.Seed) {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	n := m.seedsNetwork(s)
	if n == nil {
		return
	}
	if err := m.network.Set(ctx, *n); err != nil {
		m.problem("network", fmt.Sprintf("The seed's network could not be set up: %v.", err))
	}
}

// asked is the network that a claim asks for; nil is the one that the machine has. A seed's
// comes back in the claim without anybody's doing, so that of the screen wins over it here too.
func (m *Machine) asked(n *appliance.Network, s seed.Seed) *appliance.Network {
	if n == nil || s.Network == nil || !m.screened.Load() {
		return n
	}
	given, err := json.Marshal(n)
	if err != nil {
		return n
	}
	if seeded, err := json.Marshal(s.Network); err != nil || string(given) != string(seeded) {
		return n
	}
	return nil
}

// keepNetwork keeps the network that a claim asks for, on a machine with that seed.
func (m *Machine) keepNetwork(given *appliance.Network, s seed.Seed) error {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	n := m.network.Network() // as a seed or a person at the screen gave it
	if given = m.asked(given, s); given != nil {
		n = *given
	}
	return m.saveNetwork(n)
}

// useKept connects the machine by what is kept.
func (m *Machine) useKept(ctx context.Context) error {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	n, err := m.wantedNetwork()
	if err != nil {
		return err
	}
	return m.network.Set(ctx, n)
}

// setAddress configures one card from the screen, whose person stands before the machine
// and needs no way back. The other cards stay as they are: as is kept, and not as is being
// tried, but on a machine without an owner, where nothing is tried, as its seed says.
func (m *Machine) setAddress(ctx context.Context, card string, link appliance.Link) error {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	n, err := m.wantedNetwork()
	if err != nil {
		return err
	}
	if now := m.network.Network(); !isClaimed() && now.Version != 0 {
		n = now
	}
	n = m.withCard(n, card, link)
	if err := n.Check(); err != nil {
		return err
	}
	if err := m.network.Set(ctx, n); err != nil {
		return err
	}
	m.screened.Store(true)
	return m.saveNetwork(n)
}

// withCard is n with another link for a card: in the entry that means this card already,
// else in a new one.
func (m *Machine) withCard(n appliance.Network, card string, link appliance.Link) appliance.Network {
	n.Version = 2
	if b, ok := n.Bonds[card]; ok {
		n.Bonds = maps.Clone(n.Bonds)
		b.Link = link
		n.Bonds[card] = b
		return n
	}
	if v, ok := n.VLANs[card]; ok {
		n.VLANs = maps.Clone(n.VLANs)
		v.Link = link
		n.VLANs[card] = v
		return n
	}
	mac := ""
	for _, l := range m.network.Links() {
		if l.Name == card {
			mac = l.MAC
		}
	}
	changed := map[string]appliance.Ethernet{}
	maps.Copy(changed, n.Ethernets)
	n.Ethernets = changed
	entry, match := entryOf(n, card, mac)
	changed[entry] = appliance.Ethernet{Match: match, Link: link}
	return n
}

// entryOf is the entry that means one card and no other: by its hardware address, which goes
// before names, or by its name; else a new one.
func entryOf(n appliance.Network, card, mac string) (entry string, match appliance.Match) {
	byName := ""
	for name, e := range n.Ethernets {
		switch {
		case e.Match.MAC != "":
			if strings.EqualFold(e.Match.MAC, mac) && (e.Match.Name == "" || e.Match.Name == card) {
				return name, e.Match
			}
		case e.Match.Name == card || e.Match.Name == "" && name == card:
			byName = name
		}
	}
	if byName != "" {
		return byName, n.Ethernets[byName].Match
	}
	if _, taken := n.Ethernets[card]; taken { // by an entry that means another card
		return "screen-" + card, appliance.Match{Name: card}
	}
	return card, appliance.Match{}
}
