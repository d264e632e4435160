package quarantine

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"lazaret/firewall"
)

// naming is what the gate knows of names and of addresses; mu of the gate guards it.
type naming struct {
	names    Names
	enforced []firewall.Pool // of the last plan that was taken
	settled  chan struct{}   // closed when the settings change; nil: nobody waits
	seats    map[Seat]*state // devices that are not revoked, by seat
}

// SetNames takes in what names resolve to. If pools come to reach something else by it, a
// complete plan is sent; decisions on devices stay as they are. It does not wait.
func (g *Gate) SetNames(n Names) {
	g.mu.Lock()
	before := g.kernelPools()
	g.naming.names = Names{maps.Clone(n.Addresses), slices.Clone(n.Gateway), slices.Clone(n.Own)}
	changed := !reflect.DeepEqual(before, g.kernelPools())
	if changed && g.settings.generation > 0 {
		g.dirty = true
		signal(g.unplanned)
	}
	g.mu.Unlock()
}

// Names returns what SetNames took in last; it is not to be written to.
func (g *Gate) Names() Names {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.naming.names
}

// Pools returns the pools by name, none before the store was read, and a channel that is
// closed when settings change. The map is not to be written to.
func (g *Gate) Pools() (map[string]Pool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.naming.settled == nil {
		g.naming.settled = make(chan struct{})
	}
	return g.settings.pools, g.naming.settled
}

// announce tells whoever follows Pools. The caller holds mu.
func (g *Gate) announce() {
	if g.naming.settled != nil {
		close(g.naming.settled)
		g.naming.settled = nil
	}
}

// Opens reports whether the plan enforced now lets devices of a pool reach an address at
// all, through an entry of the pool's reach.
func (g *Gate) Opens(pool string, a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.naming.enforced {
		if p.Name == pool {
			return slices.ContainsFunc(p.Reach, func(r firewall.Reach) bool { return r.To.Contains(a) })
		}
	}
	return false
}

// kernelPools are the pools as the firewall is to hold them, by name. The caller holds mu.
func (g *Gate) kernelPools() []firewall.Pool {
	inside := InsideOf(g.settings.pools)
	var all []firewall.Pool
	for _, name := range sortedKeys(g.settings.pools) {
		all = append(all, g.naming.names.resolve(g.settings.pools[name], inside).Kernel())
	}
	return all
}

// seat files a device under its seat. The caller holds mu.
func (g *Gate) seat(st *state) {
	if st.rec.Seat == 0 || st.rec.Revocation.Set() {
		return // a revoked device's seat may be another's by now
	}
	if g.naming.seats == nil {
		g.naming.seats = make(map[Seat]*state)
	}
	g.naming.seats[st.rec.Seat] = st
}

// unseat undoes seat. The caller holds mu.
func (g *Gate) unseat(st *state) {
	if g.naming.seats[st.rec.Seat] == st {
		delete(g.naming.seats, st.rec.Seat)
	}
}

// At returns the device that an address in the tunnel belongs to, as Device does. An address
// that is nobody's at this moment, and one of a device that has no peer, is ErrUnknownDevice.
func (g *Gate) At(a netip.Addr) (Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, _, err := g.locate(a)
	if err != nil {
		return Record{}, err
	}
	return g.view(st, g.now().Wall), nil
}

// Standing returns the ID of the device that At would return, and what is enforced for it,
// without reasons.
func (g *Gate) Standing(a netip.Addr) (ID, Placement, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, p, err := g.locate(a)
	if err != nil {
		return "", Placement{}, err
	}
	return st.rec.ID, p, nil
}

// locate finds who has an address, by the pool it is in and the seat it stands for. The
// caller holds mu.
func (g *Gate) locate(a netip.Addr) (*state, Placement, error) {
	if g.settings.generation == 0 {
		return nil, Placement{}, ErrNotReady
	}
	unknown := fmt.Errorf("%w: address %s", ErrUnknownDevice, a)
	for name, pool := range g.settings.pools {
		seat := pool.seatAt(a)
		if seat == 0 {
			continue
		}
		st := g.naming.seats[seat]
		if st == nil {
			return nil, Placement{}, unknown
		}
		p := g.look(st, g.now().Wall).Meet(st.rec.standing(), g.settings.quarantine)
		follows := p.Stage == Routed && p.Pool == name && g.settings.profiles[st.rec.Profile].Addressing == Follow
		if p.Stage.freedom() == 0 || !pool.Quarantine && !follows {
			return nil, Placement{}, unknown
		}
		return st, p, nil
	}
	return nil, Placement{}, unknown
}
