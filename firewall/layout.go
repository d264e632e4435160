package firewall

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// layout is a Ruleset spelled out: every set, chain and rule, and no element that changes.
type layout struct {
	table  string
	sets   []set
	chains []chain
}

type chain struct {
	name  string
	base  *base
	rules []*rule
}

// base is where the kernel enters a chain.
type base struct {
	kind, hook, priority string
	drop                 bool
}

// layout spells r out. The order is that in which nft prints it.
func (r Ruleset) layout() layout {
	l := layout{table: r.Table, sets: r.sets()}
	l.chains = append(l.chains,
		chain{"arrival", &base{"filter", "prerouting", "raw", false}, r.arrival()},
		chain{"forged", nil, []*rule{
			new(rule).iif("lo").accept(),
			new(rule).count().drop().note("tunnel address from outside"),
		}},
		chain{"input", &base{"filter", "input", "filter", true}, r.input()},
		chain{"forward", &base{"filter", "forward", "filter", true}, r.forward()},
		chain{"output", &base{"filter", "output", "filter", true}, r.output()},
		chain{"down", nil, r.down()},
		chain{"recall", nil, recall()},
		chain{rememberChain, nil, remember()},
		chain{"visit", nil, r.visit()},
		chain{"home_up", nil, homeUp()},
		chain{"home_down", nil, homeDown()},
		chain{"home_visit", nil, homeVisit()},
		chain{"fixed_up", nil, fixed(byPoolUp)},
		chain{"fixed_down", nil, fixed(byPoolDown)},
		chain{"fixed_visit", nil, fixed(intoServices)},
		chain{"services", nil, r.services()},
		chain{"answers", nil, r.answers()},
		chain{"quarantine_up", nil, r.upRules(r.quarantine())},
		chain{"quarantine_down", nil, r.quarantine().downRules()},
	)
	for _, p := range r.full() {
		l.chains = append(l.chains, chain{p.chain("up"), nil, r.upRules(p)}, chain{p.chain("down"), nil, p.downRules()})
	}
	if rules := r.departure(); len(rules) > 0 { // an empty one would cost every packet the way through it
		l.chains = append(l.chains, chain{"departure", &base{"nat", "postrouting", "srcnat", false}, rules})
	}
	return l
}

// full are the pools that have a mark.
func (r Ruleset) full() []Pool {
	var pools []Pool
	for _, p := range r.Pools {
		if p.Mark != 0 {
			pools = append(pools, p)
		}
	}
	return pools
}

// quarantine is the quarantine pool, or one that reaches nothing.
func (r Ruleset) quarantine() Pool {
	for _, p := range r.Pools {
		if p.Mark == 0 {
			return p
		}
	}
	return Pool{}
}

func (p Pool) chain(direction string) string { return fmt.Sprintf("pool_%d_%s", p.Mark, direction) }

// open says whether p reaches everything but what is inside.
func (p Pool) open() bool { return p.Mark != 0 && len(p.Reach) == 0 }

// arrival runs before connection tracking and after reassembly (defragmentation is at
// -400, this at -300), so that no forged source ever has a tracked flow. Devices' packets that
// name further hops end here, and the others leave: a chain of their own would cost each of
// them the way there.
func (r Ruleset) arrival() []*rule {
	rules := []*rule{
		new(rule).options().iif(r.Tunnel).count().drop().note("options, which may name further hops"),
		new(rule).routingHeader().iif(r.Tunnel).count().drop().note("names further hops"),
		new(rule).iif(r.Tunnel).accept(),
	}
	for _, x := range r.among(source) {
		rules = append(rules, x.enter("forged"))
	}
	return rules
}

// input is what the gateway itself takes in. The tunnel leaves first, so that no
// "established" is ever asked of it.
func (r Ruleset) input() []*rule {
	rules := []*rule{
		new(rule).iif(r.Tunnel).enter("visit"),
		new(rule).port("udp", r.ListenPort, r.ListenPort).accept(),
		new(rule).iif("lo").accept(),
		new(rule).state("established,related").accept(),
		new(rule).state("invalid").count().drop().note("outside, untracked"),
	}
	for _, a := range r.Gateway {
		rules = append(rules, new(rule).addr(destination, netip.PrefixFrom(a, a.BitLen())).count().drop().note("inside address from outside"))
	}
	for _, s := range r.Outside {
		rules = append(rules, s.open(source)...)
	}
	v6 := byte(unix.NFPROTO_IPV6)
	rules = append(rules, new(rule).icmp(v6, neighboursIn).ownHop().accept(),
		new(rule).icmp(v6, groupQuery).addr(source, netip.MustParsePrefix("fe80::/10")).accept())
	for _, f := range families {
		rules = append(rules, new(rule).icmp(f, echoRequest[f]).limit().accept())
	}
	return append(rules, new(rule).count().drop().note("outside to gateway"))
}

// forward takes every packet to its placement, by the side that is in the tunnel: into it by
// the chain down, out of it right here, since each chain more costs every packet.
func (r Ruleset) forward() []*rule {
	rules := []*rule{
		new(rule).oif(r.Tunnel).enter("down"),
		new(rule).notIif(r.Tunnel).count().drop().note("outside to outside"),
	}
	return append(rules, r.up()...)
}

// output is what the gateway itself sends. What goes into the tunnel takes the same
// way as a forwarded packet: answers of services, and ICMP errors.
func (r Ruleset) output() []*rule {
	rules := []*rule{
		new(rule).oif(r.Tunnel).enter("down"),
		new(rule).sourcePort("udp", r.ListenPort).accept(),
		new(rule).oif("lo").accept(),
		new(rule).state("established,related").accept(),
	}
	for _, s := range r.Out {
		rules = append(rules, s.open(destination)...)
	}
	return append(rules, new(rule).icmp(unix.NFPROTO_IPV6, neighboursOut).accept(),
		new(rule).count().drop().note("gateway to outside"))
}

// services are what placed devices reach on the gateway's addresses in the tunnel.
func (r Ruleset) services() []*rule {
	var rules []*rule
	for _, s := range r.Inside {
		for _, a := range r.Gateway {
			rules = append(rules, s.visits(a)...)
		}
	}
	return append(rules, new(rule).count().drop().note("tunnel to gateway"))
}

// answers are the gateway's side of services.
func (r Ruleset) answers() []*rule {
	var rules []*rule
	for _, s := range r.Inside {
		for _, a := range r.Gateway {
			rules = append(rules, s.reach(a).down()...)
		}
	}
	return append(rules, new(rule).count().drop().note("into the tunnel"))
}

// keepOut drops what goes to other devices, wherever they are.
func (r Ruleset) keepOut() []*rule {
	rules := r.among(destination)
	for _, x := range rules {
		x.count().drop().note("device to inside address")
	}
	return rules
}

// among begins rules that together match addresses of any pool.
func (r Ruleset) among(s side) []*rule {
	var rules []*rule
	for _, f := range families {
		prefixes := r.inside(f)
		if len(prefixes) > few {
			rules = append(rules, new(rule).addrIn(s, f, insideSet(f)))
			continue
		}
		for _, x := range prefixes {
			rules = append(rules, new(rule).addr(s, x))
		}
	}
	return rules
}

// upRules are what devices of p may send on. A quarantine pool without Reach reaches nothing.
func (r Ruleset) upRules(p Pool) []*rule {
	rules := []*rule{new(rule).state("invalid").count().drop().note("tunnel, untracked")}
	if p.Mark != 0 { // Check refuses a quarantine pool that reaches inside: its end drops that
		rules = append(rules, r.keepOut()...)
	}
	if p.open() {
		return append(rules, toRemember(new(rule)))
	}
	for _, x := range p.Reach {
		rules = append(rules, x.up()...)
	}
	return append(rules, new(rule).count().drop().note("tunnel to outside"))
}

// downRules are what devices of p may get: answers to what they opened, never
// anything new.
func (p Pool) downRules() []*rule {
	var rules []*rule
	if p.open() {
		rules = append(rules, new(rule).state("established").direction(reply).accept())
		for _, f := range families {
			rules = append(rules, new(rule).state("related").direction(reply).icmp(f, allErrors[f]).accept())
		}
		return append(rules, new(rule).count().drop().note("into the tunnel"))
	}
	for _, x := range p.Reach {
		rules = append(rules, x.down()...)
	}
	return append(rules, new(rule).enter("answers"))
}
