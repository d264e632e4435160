package posture

import (
	"errors"
	"slices"
)

// chain is one chain of nf_tables, as far as it matters here.
type chain struct {
	family string // "inet", "ip" or "ip6"
	table  string
	name   string
	input  bool // a base chain at the hook for what comes to the device itself
	drops  bool // its policy is drop
}

// rule is one rule: in which chain, and what it is made of.
type rule struct {
	family, table, chain string
	parts                []part
}

// part is one expression of a rule; kind is the kernel's name, drop says that it is a
// verdict "drop".
type part struct {
	kind string
	drop bool
}

// guarded says whether what comes to the device unasked is refused unless a rule lets it
// in, in IPv4 and in IPv6: by the policy of a chain at the input hook, or by a last rule
// there that takes all that is left. Which rules let in what, it does not say.
func guarded(chains []chain, rules []rule) bool {
	covered := map[string]bool{}
	for _, c := range chains {
		if c.input && (c.drops || closed(c, rules)) {
			covered[c.family] = true
		}
	}
	return covered["inet"] || covered["ip"] && covered["ip6"]
}

// closed says whether a chain's last rule drops or rejects all that came so far.
func closed(c chain, rules []rule) bool {
	last := -1
	for i, r := range rules {
		if r.family == c.family && r.table == c.table && r.chain == c.name {
			last = i
		}
	}
	if last < 0 {
		return false
	}
	ends := false
	for _, p := range rules[last].parts {
		switch {
		case p.kind == "reject" || p.drop:
			ends = true
		case p.kind != "counter" && p.kind != "log":
			return false // a condition
		}
	}
	return ends
}

// firewallFact turns what nf_tables holds into a fact; legacy are the tables of the older
// iptables, which this package cannot read.
func firewallFact(chains []chain, rules []rule, legacy []string) (map[string]string, error) {
	if guarded(chains, rules) {
		return one("firewall.enabled", "true"), nil
	}
	if slices.Contains(legacy, "filter") {
		return nil, errors.New("the rules of the older iptables cannot be read")
	}
	return one("firewall.enabled", "false"), nil
}
