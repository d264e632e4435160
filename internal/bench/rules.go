package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// rules is a loaded ruleset under which devices move.
type rules interface {
	// move takes device i from the full pool to quarantine, or back, in one transaction.
	move(i int, away bool) error
	close() error // and remove it
}

// The rulesets that are compared. All let devices send from their address in the full pool
// to the routed target, from that in quarantine to the quarantined one, and get answers.
const (
	noRules    = ""
	ctRules    = "connection tracking"
	ourRules   = "sets"
	freshRules = "sets, nothing remembered" // as it is right after something was tightened
	eachRules  = "a rule for each device"
	mapRules   = "a verdict map with goto"
	plainRules = "sets, one connection"
	dialRules  = "sets, a connection for each change"
)

var rulesets = map[string]func(n int) (rules, error){
	noRules:    func(int) (rules, error) { return nothing{}, nil },
	ctRules:    loadTracking,
	ourRules:   loadOurs,
	freshRules: loadForgetful,
	eachRules:  loadEach,
	mapRules:   loadMap,
	plainRules: func(n int) (rules, error) { return loadPlain(n, false) },
	dialRules:  func(n int) (rules, error) { return loadPlain(n, true) },
}

// nothing is no ruleset.
type nothing struct{}

func (nothing) move(int, bool) error { return fmt.Errorf("nothing can be moved without rules") }
func (nothing) close() error         { return nil }

// ours is the product's table.
type ours struct {
	table *firewall.Table
	addrs []netip.Addr // of the full pool
	until firewall.Deadline
}

// rigRules is the product's ruleset for the pools of the moved devices.
func rigRules() firewall.Ruleset {
	r := hostRules()
	r.Freshness = 24 * time.Hour
	for _, p := range moverPools() {
		x := firewall.Pool{Name: p.Name, Mark: firewall.Mark(p.Mark), IPv4: p.IPv4, IPv6: p.IPv6, Reach: p.Reach}
		if p.Quarantine {
			x.Reach = append(x.Reach, firewall.Reach{To: netip.PrefixFrom(quarantinedTarget.Addr(), 32), Protocol: "udp", From: quarantinedTarget.Port()})
		}
		r.Pools = append(r.Pools, x)
		for _, a := range p.GatewayAddresses() {
			r.Gateway = append(r.Gateway, a.Addr())
		}
	}
	return r
}

// elementsOf are those of n released agents: one address in quarantine, one in the full
// pool, of the families asked for.
func elementsOf(n int, six bool) (firewall.Elements, error) {
	e := firewall.Elements{Fresh: firewall.After(24 * time.Hour), Alive: firewall.After(24 * time.Hour)}
	until := firewall.After(12 * time.Hour)
	pools := moverPools()
	for i := range n {
		q4, q6, err := pools["quarantine"].Address(quarantine.Seat(i + 1))
		if err != nil {
			return e, err
		}
		f4, f6, err := pools[fullPool].Address(quarantine.Seat(i + 1))
		if err != nil {
			return e, err
		}
		e.Quarantined, e.Routed = append(e.Quarantined, q4), append(e.Routed, firewall.Routed{Addr: f4, Mark: 1, Until: until})
		if six {
			e.Quarantined, e.Routed = append(e.Quarantined, q6), append(e.Routed, firewall.Routed{Addr: f6, Mark: 1, Until: until})
		}
	}
	return e, nil
}

func openTable() (*firewall.Table, error) {
	return firewall.Open(firewall.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
}

func loadOurs(n int) (rules, error) {
	e, err := elementsOf(n, false)
	if err != nil {
		return nil, err
	}
	o := &ours{until: e.Routed[0].Until}
	for _, x := range e.Routed {
		o.addrs = append(o.addrs, x.Addr)
	}
	if o.table, err = openTable(); err != nil {
		return nil, err
	}
	if err := o.table.Fill(rigRules(), e); err != nil {
		return nil, err
	}
	if err := inKernel("lazaret", map[string]int{"routed4": n, "quarantined4": n}); err != nil {
		return nil, err
	}
	for inKernel("lazaret", map[string]int{"verified": 1}) != nil { // the table gives a number to each tick only
		if err := o.table.Refresh(e.Fresh, e.Alive); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// loadForgetful is ours after a lease has ended that nobody saw to: until the next refresh,
// which does not come, every packet is looked up.
func loadForgetful(n int) (rules, error) {
	r, err := loadOurs(n)
	if err != nil {
		return nil, err
	}
	a, _, err := moverPools()[fullPool].Address(quarantine.Seat(n + 2))
	if err != nil {
		return nil, err
	}
	o := r.(*ours)
	ends := firewall.After(1100 * time.Millisecond)
	if err := o.table.Apply(firewall.Change{AddRouted: []firewall.Routed{{Addr: a, Mark: 1, Until: ends}}}); err != nil {
		return nil, err
	}
	time.Sleep(time.Duration(ends - firewall.Now()))
	return o, nil
}

// move does to one address what the others do: out of one set and into the other.
func (o *ours) move(i int, away bool) error {
	a := o.addrs[i : i+1]
	if away {
		return o.table.Apply(firewall.Change{DelRouted: a, AddQuarantined: a})
	}
	return o.table.Apply(firewall.Change{DelQuarantined: a, AddRouted: []firewall.Routed{{Addr: a[0], Mark: 1, Until: o.until}}})
}

func (o *ours) close() error { return errors.Join(o.table.Close(), removeTable("lazaret")) }
