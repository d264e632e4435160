// Package stig proves from the running kernel that a gateway is shut as its configuration
// wants it: what nf_tables holds, what else could move packets, which settings are on, what
// listens. It reads and changes nothing, save for a network namespace of its own in which
// it has the same kernel write out the ruleset that it compares with. A check that could
// not be made is not a pass.
package stig

import (
	"fmt"
	"runtime/debug"
	"slices"

	"lazaret/appliance"
	"lazaret/firewall"
)

// What comes of it is shared with those who ask for it from afar.
type (
	Result = appliance.Result
	Check  = appliance.Check
	Report = appliance.Report
)

const (
	Pass       = appliance.Pass
	Fail       = appliance.Fail
	NotChecked = appliance.NotChecked
)

// Config says what the gateway should be.
type Config struct {
	Host  firewall.Ruleset                 // required: the host's rules as configured, without pools
	Held  func() (firewall.Ruleset, error) // required: what the data plane says it enforces; its pools and addresses are taken from it, and nothing else
	Proc  string                           // "/proc" when empty
	DHCP  int                              // the process that asks for the host's addresses by DHCPv4; 0: none may
	Build func() (*debug.BuildInfo, bool)  // debug.ReadBuildInfo when nil

	query func(index, place uint32) (int, error) // how many BPF programs are linked there; asks the kernel when nil
}

// Run makes every check.
func Run(c Config) Report {
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Build == nil {
		c.Build = debug.ReadBuildInfo
	}
	var r report
	c.kernel(&r)
	found, err := firewall.Inspect()
	if err != nil {
		r.blind(err)
	} else {
		c.table(&r, found)
		c.others(&r, found)
	}
	c.around(&r)
	c.sysctls(&r, found, err)
	c.sockets(&r)
	c.inventory(&r)
	return Report{Checks: r.checks}
}

// report collects checks.
type report struct{ checks []Check }

// add notes a check that fails when anything is wrong; else it passes with what was found.
func (r *report) add(id, title string, wrong, found []string, remedy string) {
	c := Check{ID: id, Title: title, Result: Pass, Found: found}
	if len(wrong) > 0 {
		c.Result, c.Found, c.Remedy = Fail, wrong, remedy
	}
	if c.Found == nil {
		c.Found = []string{}
	}
	r.checks = append(r.checks, c)
}

// unmade notes a check that could not be made.
func (r *report) unmade(id, title string, why error, remedy string) {
	r.checks = append(r.checks, Check{ID: id, Title: title, Result: NotChecked, Found: []string{why.Error()}, Remedy: remedy})
}

// The checks that need the table.
var ofTables = [][2]string{
	{"table.owner", "the firewall table is there, owned and persistent"},
	{"table.hooks", "input, forward and output drop by default, in both families"},
	{"table.rules", "the rules are those that the configuration wants, byte for byte"},
	{"reach.in", "what may reach this host from outside"},
	{"reach.out", "what this host may open"},
	{"reach.tunnel", "what devices may reach"},
	{"tables.others", "no other table moves or changes packets"},
	{"tables.offload", "no flowtable lets packets past the rules"},
	{"tables.legacy", "no rules of the older packet filters"},
	{"helpers", "no connection tracking helper opens ports"},
}

const asRoot = "run it as root, in the gateway's network namespace"

// blind notes that nothing of the tables could be read.
func (r *report) blind(err error) {
	for _, c := range ofTables {
		r.unmade(c[0], c[1], err, asRoot)
	}
}

func title(id string) string {
	i := slices.IndexFunc(ofTables, func(c [2]string) bool { return c[0] == id })
	return ofTables[i][1]
}

// table checks the gateway's own table.
func (c Config) table(r *report, f firewall.Found) {
	t, ok := f.Table(c.Host.Table)
	if !ok {
		none := []string{"there is no table inet " + c.Host.Table}
		for _, id := range []string{"table.owner", "table.hooks", "table.rules", "reach.in", "reach.out", "reach.tunnel"} {
			r.add(id, title(id), none, nil, "start the data plane: lazaretd dataplane")
		}
		return
	}
	var wrong []string
	if !t.Owned() {
		wrong = append(wrong, "nobody owns it: any process with CAP_NET_ADMIN may change it")
	}
	if !t.Persistent() {
		wrong = append(wrong, "it would vanish with its owner")
	}
	if t.Dormant() {
		wrong = append(wrong, "it is switched off (dormant)")
	}
	r.add("table.owner", title("table.owner"), wrong, []string{fmt.Sprintf("table inet %s, flags owner and persist, owner %d", t.Name, t.Owner)},
		"start the data plane; it takes the table over, or makes it anew")
	r.hooks(t)
	c.rules(r, f)
	r.reach(t)
}

// hooks asks for a base chain at each hook that drops what it does not accept. The family
// inet sees IPv4 and IPv6.
func (r *report) hooks(t firewall.FoundTable) {
	var wrong, found []string
	for _, hook := range []string{"input", "forward", "output"} {
		i := slices.IndexFunc(t.Chains, func(c firewall.FoundChain) bool { return c.Type == "filter" && c.Hook == hook && c.Drop })
		if i < 0 {
			wrong = append(wrong, "no chain at "+hook+" drops by default")
			continue
		}
		found = append(found, fmt.Sprintf("%s: chain %s, policy drop", hook, t.Chains[i].Name))
	}
	r.add("table.hooks", title("table.hooks"), wrong, found, "restart the data plane, which writes the table anew")
}

// rules compares with the configuration, whose pools the data plane knows.
func (c Config) rules(r *report, f firewall.Found) {
	held, err := c.Held()
	if err != nil {
		r.unmade("table.rules", title("table.rules"), fmt.Errorf("the pools are known to the data plane alone: %w", err), "start the data plane, and run this as root")
		return
	}
	want := c.Host
	want.Pools, want.Gateway = held.Pools, held.Gateway
	wrong, err := f.Differences(want)
	if err != nil {
		r.unmade("table.rules", title("table.rules"), err, asRoot+"; it takes CAP_SYS_ADMIN to have the kernel write the rules out for comparison")
		return
	}
	r.add("table.rules", title("table.rules"), wrong, []string{fmt.Sprintf("%d pools, %d services in, %d out", len(want.Pools), len(want.Outside), len(want.Out))},
		"run lazaretd firewall try and confirm if the configuration changed; else restart the data plane")
}

// reach lists what the kernel's own rules accept, chain by chain.
func (r *report) reach(t firewall.FoundTable) {
	for _, x := range []struct {
		id     string
		chains func(name string) bool
	}{
		{"reach.in", func(n string) bool { return n == "input" }},
		{"reach.out", func(n string) bool { return n == "output" }},
		{"reach.tunnel", func(n string) bool { return n != "input" && n != "output" }},
	} {
		var wrong, found []string
		for _, c := range t.Chains {
			if !x.chains(c.Name) {
				continue
			}
			for _, rule := range c.Rules {
				if !rule.Accepts() {
					continue
				}
				line := c.Name + ": " + rule.Text
				found = append(found, line)
				if !rule.Known {
					wrong = append(wrong, "not understood: "+line)
				}
			}
		}
		r.add(x.id, title(x.id), wrong, found, "compare it with what nft list ruleset prints")
	}
}

// others looks at everything that is not the gateway's own table.
func (c Config) others(r *report, f firewall.Found) {
	var wrong, found []string
	for _, t := range f.Tables {
		if t.Family == "inet" && t.Name == c.Host.Table {
			continue
		}
		faults := foreign(t)
		wrong = append(wrong, faults...)
		if len(faults) == 0 {
			found = append(found, fmt.Sprintf("table %s %s only looks at packets, or drops them", t.Family, t.Name))
		}
	}
	r.add("tables.others", title("tables.others"), wrong, found, "remove the table and whatever writes it: a gateway is for nothing else")
	r.add("tables.offload", title("tables.offload"), f.Flowtables, nil, "remove the flowtable: its flows pass no rule")
	c.legacy(r)
	c.helpers(r, f)
}

// foreign says what a table of others' does that matters. That one of its chains accepts
// does not matter by itself: what the gateway's own table drops stays dropped.
func foreign(t firewall.FoundTable) []string {
	var wrong []string
	name := "table " + t.Family + " " + t.Name
	if t.Dormant() {
		return []string{name + " is switched off and may be switched on"}
	}
	for _, c := range t.Chains {
		for _, rule := range c.Rules {
			for _, what := range rule.Alters {
				wrong = append(wrong, fmt.Sprintf("%s, chain %s: %s: %s", name, c.Name, what, rule.Text))
			}
		}
		if c.Type == "nat" || c.Type == "route" {
			wrong = append(wrong, fmt.Sprintf("%s, chain %s: type %s at %s", name, c.Name, c.Type, c.Hook))
		}
	}
	return wrong
}
