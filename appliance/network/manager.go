package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lazaret/appliance"
)

// Config is what a Manager needs.
type Config struct {
	Log      *slog.Logger              // required
	Resolv   string                    // where resolv.conf is written; empty: nowhere
	Hostname func() string             // told to DHCP servers; nil or "": none
	Load     func(module string) error // loads a kernel module (bonding, 8021q) before the first such link; nil: the kernel does
	Own      func() []netip.Prefix     // networks of the tunnel, from which no lease or router may take; nil: none
}

// Manager makes the kernel's network match an appliance.Network. Its methods may be called
// by several at once.
type Manager struct {
	config Config
	wg     sync.WaitGroup // clients

	mu      sync.Mutex // guards everything below, and the kernel against two of us
	net     appliance.Network
	set     bool            // there was a Set: before it nothing is touched
	trial   *trial          // nil: none
	run     context.Context // nil: Run does not run, so nobody asks DHCP
	cards   map[string]bool // carriers, by name, as seen last
	up      map[int]bool    // links that we have brought up
	clients map[clientKey]*running
	ours    map[int]map[netip.Prefix]bool // addresses that we gave, by link
	faults  map[string]string             // by link
	static  map[int][]netip.Prefix        // networks and routes that are configured, by link
	routers map[int]advertised            // what routers said of names, by link
	resolv  string                        // as written last
	said    string                        // the error that was logged last
	changed chan struct{}
	wakeup  chan struct{} // of capacity 1: Run should look again
}

// trial is a network that holds until a time unless it is confirmed.
type trial struct {
	before appliance.Network
	until  time.Time
}

// clientKey is one client's place.
type clientKey struct {
	index int
	six   bool
}

// running is a client with what it has.
type running struct {
	*client
	stop    context.CancelFunc
	mac     string
	lease   *lease
	problem string
}

// New returns a Manager that has touched nothing yet.
func New(c Config) (*Manager, error) {
	if c.Log == nil {
		return nil, errors.New("making the network manager: no log")
	}
	return &Manager{
		config: c, cards: make(map[string]bool), up: make(map[int]bool), clients: make(map[clientKey]*running),
		ours: make(map[int]map[netip.Prefix]bool), faults: make(map[string]string), routers: make(map[int]advertised),
		changed: make(chan struct{}), wakeup: make(chan struct{}, 1),
	}, nil
}

// Set makes n what holds from now on, and ends a try. Cards that are missing are no
// error: they are configured when they come. After an error the rest of n is in force.
func (m *Manager) Set(_ context.Context, n appliance.Network) error {
	if err := n.Check(); err != nil {
		return fmt.Errorf("setting the network: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.net, m.set, m.trial = copied(n), true, nil
	return m.reconcile()
}

// Try is Set that takes itself back after d unless Confirm comes before. Run must be
// running. A try in a try keeps what was confirmed last.
func (m *Manager) Try(_ context.Context, n appliance.Network, d time.Duration) error {
	if err := n.Check(); err != nil {
		return fmt.Errorf("trying a network: %w", err)
	}
	if d <= 0 || d > time.Hour {
		return errors.New("trying a network: the time must be more than none and at most an hour")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == nil || !m.set {
		return errors.New("trying a network: nothing would take it back, the manager does not run")
	}
	before := m.net
	if m.trial != nil {
		before = m.trial.before
	}
	m.net, m.trial = copied(n), &trial{before: before, until: time.Now().Add(d)}
	m.wake()
	return m.reconcile()
}

// Confirm keeps what is being tried and returns it, for whoever writes it down.
func (m *Manager) Confirm() (appliance.Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trial == nil || !time.Now().Before(m.trial.until) {
		return appliance.Network{}, errors.New("confirming the network: nothing is being tried")
	}
	m.trial = nil
	m.announce()
	return copied(m.net), nil
}

// Revert takes back what is being tried, at once.
func (m *Manager) Revert(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trial == nil {
		return errors.New("taking the network back: nothing is being tried")
	}
	return m.revert()
}

func (m *Manager) revert() error {
	m.config.Log.Warn("taking back a network that was tried")
	m.net, m.trial = m.trial.before, nil
	return m.reconcile()
}

// Trying tells until when a try lasts; ok is false where there is none.
func (m *Manager) Trying() (until time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trial == nil {
		return time.Time{}, false
	}
	return m.trial.until, true
}

// Network is what holds or is tried now.
func (m *Manager) Network() appliance.Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copied(m.net)
}

// copied is n with maps of its own, so that neither side changes the other's.
func copied(n appliance.Network) appliance.Network {
	n.Ethernets, n.Bonds, n.VLANs = maps.Clone(n.Ethernets), maps.Clone(n.Bonds), maps.Clone(n.VLANs)
	return n
}

// Changed returns a channel that is closed at the next change of links, addresses, routes,
// name or time servers.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// announce tells of a change.
func (m *Manager) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) wake() {
	select {
	case m.wakeup <- struct{}{}:
	default:
	}
}

// TimeServers are those that DHCP named, without repetition.
func (m *Manager) TimeServers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, l := range m.leases() {
		for _, s := range l.Time {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// leases are those that are held, in order of links, IPv4 first.
func (m *Manager) leases() []*lease {
	var keys []clientKey
	for k, c := range m.clients {
		if c.lease != nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b clientKey) int {
		if a.index != b.index {
			return a.index - b.index
		}
		if a.six == b.six {
			return 0
		} else if b.six {
			return -1
		}
		return 1
	})
	var out []*lease
	for _, k := range keys {
		out = append(out, m.clients[k].lease)
	}
	return out
}
