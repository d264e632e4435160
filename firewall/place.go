package firewall

// few prefixes are compared one by one faster than an interval set is searched.
const few = 4

// place looks the packet's device up on side s, each way only while its freshness lasts. An
// address of the quarantine pool goes to the chain home; one that is routed in its own pool
// to where own leads, any other routed one to where other does, and nobody's to the end.
func (r Ruleset) place(s side, home string, own func(family byte) []*rule, other func(*rule) *rule) []*rule {
	var rules []*rule
	for _, f := range families {
		if p := r.home(f); p.IsValid() {
			rules = append(rules, new(rule).addr(s, p).enter(home))
		}
		rules = append(rules, own(f)...)
	}
	for _, f := range families {
		rules = append(rules, other(new(rule).bind(f).while("fresh").routed(s, f, fixedMap(f))))
	}
	return rules
}

// own leads an address of a full pool that is routed in it to the pool's chain. Its prefix
// tells the pool.
func (r Ruleset) own(s side, family byte, direction string) []*rule {
	pools := r.byPrefix(family, direction)
	if len(pools) > few {
		return []*rule{new(rule).bind(family).while("fresh").addrIn(s, family, routedSet(family)).byPrefix(s, family, poolMap(direction, family))}
	}
	var rules []*rule
	for _, p := range pools {
		rules = append(rules, new(rule).addr(s, p.prefix).while("fresh").addrIn(s, family, routedSet(family)).enter(p.chain))
	}
	return rules
}

// atHome looks an address of the quarantine pool up: routed first, then quarantined. While
// routing is not fresh, the chain fixed comes back.
func atHome(s side, fixed, quarantined string) []*rule {
	var rules []*rule
	for _, f := range families {
		rules = append(rules,
			new(rule).routed(s, f, fixedMap(f)).call(fixed),
			new(rule).bind(f).while("alive").addrIn(s, f, quarantinedSet(f)).enter(quarantined))
	}
	return rules
}

// fixed goes on with a routed address of the quarantine pool, whose mark is set, or takes the
// mark back.
func fixed(onward func(*rule) *rule) []*rule {
	return []*rule{onward(new(rule).while("fresh")), new(rule).unmark()}
}

func byPoolUp(x *rule) *rule       { return x.byMark("pools_up") }
func byPoolDown(x *rule) *rule     { return x.byMark("pools_down") }
func intoServices(x *rule) *rule   { return x.enter("services") }
func nowhere(comment string) *rule { return new(rule).count().drop().note(comment) }

const (
	nowhereUp    = "tunnel to outside, no placement"
	nowhereDown  = "into the tunnel, no placement"
	nowhereVisit = "tunnel to gateway, no placement"
)

// up places what comes out of the tunnel and does not go back into it.
func (r Ruleset) up() []*rule {
	own := func(f byte) []*rule { return r.own(source, f, "up") }
	rules := append([]*rule{new(rule).clamp(), remembered(original), new(rule).state("established").direction(original).call("recall")}, r.place(source, "home_up", own, byPoolUp)...)
	return append(rules, nowhere(nowhereUp))
}

// down places what goes into the tunnel and does not come out of it.
func (r Ruleset) down() []*rule {
	own := func(f byte) []*rule { return r.own(destination, f, "down") }
	rules := []*rule{new(rule).iif(r.Tunnel).count().drop().note("device to device"), new(rule).clamp(), remembered(reply)}
	return append(append(rules, r.place(destination, "home_down", own, byPoolDown)...), nowhere(nowhereDown))
}

func (r Ruleset) visit() []*rule {
	own := func(f byte) []*rule {
		return []*rule{new(rule).bind(f).while("fresh").addrIn(source, f, routedSet(f)).enter("services")}
	}
	return append(r.place(source, "home_visit", own, intoServices), nowhere(nowhereVisit))
}

func homeUp() []*rule {
	return append(atHome(source, "fixed_up", "quarantine_up"), nowhere(nowhereUp))
}

func homeDown() []*rule {
	return append(atHome(destination, "fixed_down", "quarantine_down"), nowhere(nowhereDown))
}

func homeVisit() []*rule {
	return append(atHome(source, "fixed_visit", "services"), nowhere(nowhereVisit))
}

// departure hides the addresses of the pools that ask for it. A packet that was let out of the
// tunnel from a pool's own address has no mark and was placed in that pool; one that was
// placed by its mark still has it.
func (r Ruleset) departure() []*rule {
	var rules []*rule
	for _, p := range r.Pools {
		if !p.Masquerade {
			continue
		}
		if p.Mark != 0 {
			rules = append(rules, new(rule).iif(r.Tunnel).mark(p.Mark).masquerade())
		}
		for _, x := range p.prefixes() {
			rules = append(rules, new(rule).iif(r.Tunnel).mark(0).addr(source, x).masquerade())
		}
	}
	return rules
}
