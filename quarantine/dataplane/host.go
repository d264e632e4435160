package dataplane

import (
	"errors"
	"fmt"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// SetHost puts r in the place of the gateway's own rules, with the present pools and all
// that is enforced of devices, in one transaction: whoever is routed stays routed. r names
// the same table, tunnel and port, and no pools. On an error the old rules stand, or
// nothing passes until the next plan; either way the next plan comes with the old ones.
func (p *Plane) SetHost(r firewall.Ruleset) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.config.Host
	if len(r.Pools)+len(r.Gateway) > 0 {
		return fmt.Errorf("changing the gateway's rules: %w: they name pools or addresses in the tunnel, which come with a plan", ErrRefused)
	}
	if r.Table != old.Table || r.Tunnel != old.Tunnel || r.ListenPort != old.ListenPort {
		return fmt.Errorf("changing the gateway's rules: %w: table, tunnel and port stay while it runs", ErrRefused)
	}
	if p.link == nil {
		return fmt.Errorf("changing the gateway's rules: the data plane does not run: %w", quarantine.ErrNotEnforced)
	}
	next := rules{r, p.rules.own}
	next.Pools, next.Gateway = p.rules.Pools, p.rules.Gateway
	if err := next.Check(); err != nil {
		return fmt.Errorf("changing the gateway's rules: %w: %w", ErrRefused, err)
	}
	if err := p.fillHost(next); err != nil {
		return fmt.Errorf("changing the gateway's rules: %w", errors.Join(err, p.refillHost()))
	}
	p.config.Host, p.rules = r, next
	p.log.Info("the gateway's own rules were changed")
	return nil
}

// fillHost fills the table under r: with what is enforced, or, without a plan, with nothing.
func (p *Plane) fillHost(r rules) error {
	var e firewall.Elements
	if p.planned {
		e = p.mirror.elements(p.now())
		e.Fresh, e.Alive = p.fresh, p.alive
	}
	return p.config.Table.Fill(r.Ruleset, e)
}

// refillHost brings the rules from before a failed change back.
func (p *Plane) refillHost() error {
	switch {
	case p.planned:
		return p.refill()
	case len(p.rules.Pools) > 0:
		return p.shut()
	}
	return p.config.Table.Adopt(p.config.Host)
}
