package dataplane

import (
	"errors"
	"net/netip"
	"testing"

	"lazaret/firewall"
	"lazaret/quarantine"
)

func otherHost() firewall.Ruleset {
	r := host
	r.Outside = []firewall.Service{{Protocol: "tcp", Port: 8443, From: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}}
	return r
}

// New rules of the host come in one transaction, with everything that was enforced, and
// stay for the plans to come.
func TestSetHost(t *testing.T) {
	f := planned(t, in77(1, 5), in66(2, 5))
	want(t, f.SetHost(otherHost()), nil)
	same(t, "calls", f.table.calls(), []string{"fill"})
	f.agree(t)
	services := func(when string, most int) {
		t.Helper()
		if len(f.table.rules.Outside) != most || len(f.table.rules.Pools) != 2 || len(f.table.rules.Gateway) != 4 {
			t.Errorf("%s: the table has %d services, %d pools and %d addresses", when, len(f.table.rules.Outside), len(f.table.rules.Pools), len(f.table.rules.Gateway))
		}
	}
	services("at once", 1)
	if f.table.fresh != fresh(10).Fresh || f.table.alive != fresh(10).Alive {
		t.Error("freshness is another")
	}
	want(t, f.replace(somePlan(11, in77(1, 5))), nil)
	services("with the next plan", 1)
	want(t, f.SetHost(host), nil)
	services("back", 0)
}

// Before the first plan, and after a shutting, new rules open nothing.
func TestSetHostWithoutPlan(t *testing.T) {
	f := newFixture(t)
	want(t, f.SetHost(otherHost()), nil)
	if len(f.table.rules.Outside) != 1 || len(f.table.rules.Pools) != 0 {
		t.Errorf("rules %+v", f.table.rules)
	}
	f = planned(t, in77(1, 5))
	want(t, f.shut(), nil)
	want(t, f.SetHost(otherHost()), nil)
	if len(f.table.routed)+len(f.table.quarantined) != 0 || f.table.fresh != 0 || f.table.alive != 0 {
		t.Error("new rules opened a shut table")
	}
	want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
}

func TestSetHostRefused(t *testing.T) {
	for name, change := range map[string]func(*firewall.Ruleset){
		"table":       func(r *firewall.Ruleset) { r.Table = "other" },
		"tunnel":      func(r *firewall.Ruleset) { r.Tunnel = "lz1" },
		"port":        func(r *firewall.Ruleset) { r.ListenPort++ },
		"pools":       func(r *firewall.Ruleset) { r.Pools = somePlan(1).Pools },
		"not a rule":  func(r *firewall.Ruleset) { r.Outside = []firewall.Service{{Protocol: "tcp"}} },
		"a gateway's": func(r *firewall.Ruleset) { r.Gateway = []netip.Addr{netip.MustParseAddr("10.66.0.1")} },
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5))
			r := host
			change(&r)
			want(t, f.SetHost(r), ErrRefused)
			same(t, "calls", f.table.calls(), nil)
			f.agree(t)
		})
	}
}

// Rules that the kernel does not take leave the old ones, filled anew; if that fails too,
// nothing passes.
func TestSetHostFails(t *testing.T) {
	doubt := errors.Join(errKernel, firewall.ErrDoubt)
	f := planned(t, in77(1, 5), in66(2, 5))
	f.table.fail["fill"] = []error{doubt, nil}
	want(t, f.SetHost(otherHost()), errKernel)
	f.agree(t)
	if len(f.table.rules.Outside) != 0 || f.table.fresh == 0 {
		t.Errorf("after a failure: %+v, fresh %d", f.table.rules.Outside, f.table.fresh)
	}
	want(t, f.replace(somePlan(11, in77(1, 5))), nil)
	if len(f.table.rules.Outside) != 0 {
		t.Error("a plan brought the refused rules")
	}
	f.table.fail["fill"] = []error{doubt}
	want(t, f.SetHost(otherHost()), errKernel)
	if len(f.table.routed)+len(f.table.quarantined) != 0 || f.table.fresh != 0 || f.table.alive != 0 {
		t.Error("something passes after two failures")
	}
}
