package firewall

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// routedDefault is the life of a routed element that was written without one, which
// the writer cannot do: the set's default is the last guard against a permanent one.
const routedDefault = time.Minute

// layout is a Ruleset spelled out: every set, chain and rule, and no element that changes.
type layout struct {
	table  string
	sets   []set
	chains []chain
}

// kind is the type of a set's keys.
type kind string

const (
	name4  kind = "ipv4_addr"
	name6  kind = "ipv6_addr"
	ifname kind = "ifname"
	mark   kind = "mark"
)

// set is a set or a map. Its constant contents, if any, are in one of the lists.
type set struct {
	name     string
	key      kind
	data     string // "", "mark" or "verdict"
	timeout  time.Duration
	prefixes []netip.Prefix // interval set
	verdicts []verdict      // verdict map
	interval bool
}

type verdict struct {
	mark  Mark
	chain string
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

func routedMap(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "routed4"
	}
	return "routed6"
}

// fixedMap holds the routed addresses of the quarantine pool itself: those of devices that
// keep one address. Every packet of a quarantined device is looked up in it too, and it is
// small where agents follow the pools; routedMap would be large.
func fixedMap(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "fixed4"
	}
	return "fixed6"
}

// home is the quarantine pool's prefix of a family; the zero Prefix for none.
func (r Ruleset) home(family byte) netip.Prefix {
	if family == unix.NFPROTO_IPV4 {
		return r.quarantine().IPv4
	}
	return r.quarantine().IPv6
}

// routedMap names the map that a routed address stands in.
func (r Ruleset) routedMap(a netip.Addr) string {
	f := familyOf(a)
	if r.home(f).Contains(a) {
		return fixedMap(f)
	}
	return routedMap(f)
}

func quarantinedSet(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "quarantined4"
	}
	return "quarantined6"
}

func insideSet(family byte) string {
	if family == unix.NFPROTO_IPV4 {
		return "inside4"
	}
	return "inside6"
}

// layout spells r out. The order is that in which nft prints it.
func (r Ruleset) layout() layout {
	l := layout{table: r.Table, sets: r.sets()}
	l.chains = append(l.chains,
		chain{"arrival", &base{"filter", "prerouting", "raw", false}, r.arrival()},
		chain{"hops", nil, []*rule{
			new(rule).routingHeader().count().drop().note("names further hops"),
			new(rule).options().count().drop().note("options, which may name further hops"),
		}},
		chain{"input", &base{"filter", "input", "filter", true}, r.input()},
		chain{"forward", &base{"filter", "forward", "filter", true}, r.forward()},
		chain{"output", &base{"filter", "output", "filter", true}, r.output()},
		chain{"up", nil, r.up()},
		chain{"down", nil, r.down()},
		chain{"visit", nil, r.visit()},
		chain{"home_up", nil, r.homeUp()},
		chain{"home_down", nil, r.homeDown()},
		chain{"home_visit", nil, r.homeVisit()},
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

func (r Ruleset) sets() []set {
	var up, down []verdict
	for _, p := range r.full() {
		up = append(up, verdict{p.Mark, p.chain("up")})
		down = append(down, verdict{p.Mark, p.chain("down")})
	}
	return []set{
		{name: "alive", key: ifname, timeout: r.QuarantineLife},
		{name: "fresh", key: ifname, timeout: r.Freshness},
		{name: "routed4", key: name4, data: "mark", timeout: routedDefault},
		{name: "routed6", key: name6, data: "mark", timeout: routedDefault},
		{name: "fixed4", key: name4, data: "mark", timeout: routedDefault},
		{name: "fixed6", key: name6, data: "mark", timeout: routedDefault},
		{name: "quarantined4", key: name4},
		{name: "quarantined6", key: name6},
		{name: "inside4", key: name4, interval: true, prefixes: r.inside(unix.NFPROTO_IPV4)},
		{name: "inside6", key: name6, interval: true, prefixes: r.inside(unix.NFPROTO_IPV6)},
		{name: "pools_up", key: mark, data: "verdict", verdicts: up},
		{name: "pools_down", key: mark, data: "verdict", verdicts: down},
	}
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
// -400, this at -300), so that no forged source ever has a tracked flow. The tunnel leaves
// first: its packets are the ones that count.
func (r Ruleset) arrival() []*rule {
	rules := []*rule{new(rule).iif(r.Tunnel).enter("hops"), new(rule).iif("lo").accept()}
	for _, f := range families {
		rules = append(rules, new(rule).addrIn(source, f, insideSet(f)).count().drop().note("tunnel address from outside"))
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

// forward takes every packet to its placement, by the side that is in the tunnel.
func (r Ruleset) forward() []*rule {
	return []*rule{
		new(rule).iif(r.Tunnel).enter("up"),
		new(rule).oif(r.Tunnel).enter("down"),
		new(rule).count().drop().note("outside to outside"),
	}
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

// departure hides the addresses of the pools that ask for it. The mark is the one that
// placement set a moment ago; quarantine sets none.
func (r Ruleset) departure() []*rule {
	var rules []*rule
	for _, p := range r.Pools {
		if p.Masquerade {
			rules = append(rules, new(rule).iif(r.Tunnel).mark(p.Mark).masquerade())
		}
	}
	return rules
}

// place looks the packet's device up on side s, each way only while its freshness lasts.
// An address of the quarantine pool goes to the chain home; any other one is routed or
// nobody's, and nobody's goes to the end of the chain.
func (r Ruleset) place(s side, home string, routed func(*rule) *rule) []*rule {
	var rules []*rule
	for _, f := range families {
		if p := r.home(f); p.IsValid() {
			rules = append(rules, new(rule).addr(s, p).enter(home))
		}
	}
	for _, f := range families {
		rules = append(rules, routed(new(rule).bind(f).via(s, "fresh").routed(s, f, routedMap(f))))
	}
	return rules
}

// atHome looks an address of the quarantine pool up: routed first, then quarantined.
func atHome(s side, routed func(*rule) *rule, quarantined string) []*rule {
	var rules []*rule
	for _, f := range families {
		rules = append(rules, routed(new(rule).bind(f).via(s, "fresh").routed(s, f, fixedMap(f))))
	}
	for _, f := range families {
		rules = append(rules, new(rule).bind(f).via(s, "alive").addrIn(s, f, quarantinedSet(f)).enter(quarantined))
	}
	return rules
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

func (r Ruleset) up() []*rule {
	rules := []*rule{new(rule).oif(r.Tunnel).count().drop().note("device to device"), new(rule).clamp()}
	return append(append(rules, r.place(source, "home_up", byPoolUp)...), nowhere(nowhereUp))
}

func (r Ruleset) down() []*rule {
	rules := []*rule{new(rule).clamp()}
	return append(append(rules, r.place(destination, "home_down", byPoolDown)...), nowhere(nowhereDown))
}

func (r Ruleset) visit() []*rule {
	return append(r.place(source, "home_visit", intoServices), nowhere(nowhereVisit))
}

func (r Ruleset) homeUp() []*rule {
	return append(atHome(source, byPoolUp, "quarantine_up"), nowhere(nowhereUp))
}

func (r Ruleset) homeDown() []*rule {
	return append(atHome(destination, byPoolDown, "quarantine_down"), nowhere(nowhereDown))
}

func (r Ruleset) homeVisit() []*rule {
	return append(atHome(source, intoServices, "services"), nowhere(nowhereVisit))
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

// few prefixes are compared one by one faster than an interval set is searched.
const few = 4

// keepOut drops what goes to other devices, wherever they are.
func (r Ruleset) keepOut() []*rule {
	var rules []*rule
	drop := func(x *rule) { rules = append(rules, x.count().drop().note("device to inside address")) }
	for _, f := range families {
		prefixes := r.inside(f)
		if len(prefixes) > few {
			drop(new(rule).addrIn(destination, f, insideSet(f)))
			continue
		}
		for _, x := range prefixes {
			drop(new(rule).addr(destination, x))
		}
	}
	return rules
}

// inside are the prefixes of all pools, of one family.
func (r Ruleset) inside(family byte) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range r.Pools {
		for _, x := range p.prefixes() {
			if familyOf(x.Addr()) == family {
				list = append(list, x)
			}
		}
	}
	return list
}

// upRules are what devices of p may send on. A quarantine pool without Reach reaches nothing.
func (r Ruleset) upRules(p Pool) []*rule {
	rules := []*rule{new(rule).state("invalid").count().drop().note("tunnel, untracked")}
	if p.Mark != 0 { // Check refuses a quarantine pool that reaches inside: its end drops that
		rules = append(rules, r.keepOut()...)
	}
	if p.open() {
		return append(rules, new(rule).accept())
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
