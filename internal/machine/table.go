package machine

import (
	"fmt"
	"net/netip"
	"time"

	"lazaret/firewall"
)

// claimPort is where an unclaimed machine is claimed.
const claimPort = 443

// bootRules let a host get an address, ask for names and the time, and nothing else. What
// a packet must pass besides, once the data plane's table stands, this one cannot open. The
// tunnel is named because a table has to; there is none yet.
func bootRules(unclaimed bool) firewall.Ruleset {
	r := firewall.Ruleset{
		Table: "lazaret_boot", Tunnel: "lz0", ListenPort: 51820, Freshness: time.Minute, QuarantineLife: time.Hour,
		Outside: []firewall.Service{{Protocol: "udp", Port: 546, From: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}}, // DHCPv6
		Out:     []firewall.Service{{Protocol: "udp", Port: 53}, {Protocol: "tcp", Port: 53}, {Protocol: "udp", Port: 123}, {Protocol: "udp", Port: 547}},
	}
	if unclaimed {
		r.Outside = append(r.Outside, firewall.Service{Protocol: "tcp", Port: claimPort})
	}
	return r
}

// startTable shuts the machine before any of its links is up.
func (m *Machine) startTable() error {
	t, err := firewall.Open(firewall.Config{Log: m.log})
	if err != nil {
		return fmt.Errorf("shutting the machine: %w", err)
	}
	if err := t.Adopt(bootRules(false)); err != nil {
		return fmt.Errorf("shutting the machine: %w", err)
	}
	m.guard = t
	return firewall.Harden()
}

// openClaimPort lets the claim in.
func (m *Machine) openClaimPort() error {
	if err := m.guard.Fill(bootRules(true), firewall.Elements{}); err != nil {
		return fmt.Errorf("opening the claim's port: %w", err)
	}
	return nil
}

// shutClaimPort shuts it again.
func (m *Machine) shutClaimPort() error {
	if err := m.guard.Fill(bootRules(false), firewall.Elements{}); err != nil {
		return fmt.Errorf("shutting the claim's port: %w", err)
	}
	return nil
}

// handOver takes the boot table away once the data plane's own stands, which outlives the
// data plane: from here on it is that table that shuts the machine.
func (m *Machine) handOver() error {
	if m.guard == nil {
		return nil
	}
	if err := m.guard.Remove(); err != nil {
		return err
	}
	err := m.guard.Close()
	m.guard = nil
	m.log.Info("enforcing: the data plane's table stands alone", "since_start", time.Since(m.booted).Round(time.Millisecond).String())
	return err
}
