package resolver

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"lazaret/quarantine"
)

// hold marks the addresses that pools open, so that they keep their places until they end:
// a name that leads elsewhere with every answer would cut its users off otherwise.
func (r *Resolver) hold(n quarantine.Names) {
	pools, _ := r.cfg.Gate.Pools()
	if len(pools) == 0 {
		return // the store was not read
	}
	inside := quarantine.InsideOf(pools)
	open := make(map[string]map[netip.Addr]bool)
	for _, p := range pools {
		for _, named := range p.Named {
			if open[named.Name] == nil {
				open[named.Name] = make(map[netip.Addr]bool)
			}
			pinned, _ := p.Pinned(named.Name, n, inside)
			for _, a := range pinned {
				open[named.Name][a] = true
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for text, n := range r.names {
		for _, p := range n.pins(time.Now(), r.times) {
			r.choose(text, n.pin(p.Addr), open[text][p.Addr])
		}
	}
}

// choose notes whether an address is to be open. The caller holds mu.
func (r *Resolver) choose(text string, p *Pin, open bool) {
	switch {
	case open && p.held == 0:
		r.choices++
		p.held = r.choices
		r.unsaved, r.urgent = true, true
	case !open && p.held > 0:
		p.held = 0
		r.cfg.Log.Warn("an address of a name is closed before its end", "name", text, "address", p.Addr, "end", r.times.until(*p))
	}
}

// pin finds an address that is known.
func (n *name) pin(a netip.Addr) *Pin {
	f := &n.families[1]
	if a.Is4() {
		f = &n.families[0]
	}
	return &f.pins[slices.IndexFunc(f.pins, func(p Pin) bool { return p.Addr == a })]
}

// tell logs each refused address once, and once of a name that it has too many.
func (r *Resolver) tell(n quarantine.Names) {
	pools, _ := r.cfg.Gate.Pools()
	inside := quarantine.InsideOf(pools)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refused) > 4096 {
		clear(r.refused) // then once more
	}
	for _, pool := range slices.Sorted(maps.Keys(pools)) {
		for _, named := range pools[pool].Named {
			_, refused := pools[pool].Pinned(named.Name, n, inside)
			for _, err := range refused {
				key := fmt.Sprintf("%s %s %s", pool, named.Name, err)
				if errors.Is(err, quarantine.ErrTooMany) {
					key = fmt.Sprintf("%s %s %s", pool, named.Name, quarantine.ErrTooMany)
				}
				if !r.refused[key] {
					r.refused[key] = true
					r.cfg.Log.Warn("an address of a name is not opened", "pool", pool, "name", named.Name, "error", err)
				}
			}
		}
	}
}
