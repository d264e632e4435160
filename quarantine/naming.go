package quarantine

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"lazaret/firewall"
)

// naming is what the gate knows of names and of addresses; mu of the gate guards it.
type naming struct {
	names    Names
	enforced []firewall.Pool // of the last plan that was taken
	settled  chan struct{}   // closed when the settings change; nil: nobody waits
	seats    map[Seat]*state // devices that are not revoked, by seat
	spent    time.Time       // plans for names use up the time until then, one namePeriod each
	late     *time.Timer     // of a plan that waits; nil: none does
}

// The bounds of complete plans that open what names came to resolve to, since whoever
// answers for a name decides how often it does, and a plan is of all devices: so many at
// once, and then one in a period.
const (
	namePlans  = 8
	namePeriod = 30 * time.Second
)

// SetNames takes in what names resolve to. If pools come to reach something else by it, a
// complete plan is sent; decisions on devices stay as they are. It does not wait. What only
// opens may be sent half a minute later, with what else comes up until then.
func (g *Gate) SetNames(n Names) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.kernelPools()
	g.naming.names = Names{maps.Clone(n.Addresses), slices.Clone(n.Gateway), slices.Clone(n.Own)}
	after := g.kernelPools()
	if g.settings.generation > 0 && !reflect.DeepEqual(before, after) {
		g.planNames(!slices.EqualFunc(before, after, widens))
	}
}

// widens reports whether a pool reaches all that it did, and maybe more, and is the same in
// all else.
func widens(before, after firewall.Pool) bool {
	if len(before.Reach) == 0 && len(after.Reach) > 0 {
		return false // none may stand for everything
	}
	for _, r := range before.Reach {
		if !slices.Contains(after.Reach, r) {
			return false
		}
	}
	after.Reach = before.Reach
	return reflect.DeepEqual(before, after)
}

// planNames has a complete plan sent, at once or when there is time for it. The caller
// holds mu.
func (g *Gate) planNames(atOnce bool) {
	n, now := &g.naming, time.Now()
	if n.spent.Before(now) {
		n.spent = now
	}
	if wait := n.spent.Sub(now) - (namePlans-1)*namePeriod; wait > 0 && !atOnce {
		if n.late == nil {
			n.late = time.AfterFunc(wait, g.planLate)
		}
		return
	}
	if n.late != nil {
		n.late.Stop()
		n.late = nil
	}
	if most := now.Add(namePlans * namePeriod); n.spent.Before(most) {
		n.spent = n.spent.Add(namePeriod)
	}
	g.dirty = true
	signal(g.unplanned)
}

// planLate has the plan sent that waited, unless another one told the same.
func (g *Gate) planLate() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.naming.late = nil
	if !reflect.DeepEqual(g.naming.enforced, g.kernelPools()) {
		g.planNames(true)
	}
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
