package firewall

import (
	"fmt"

	"github.com/google/nftables"
)

// Verify asks the kernel whether the table is there, ours, persistent, and dropping by default.
func (t *Table) Verify() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		return fmt.Errorf("verifying: %w", ErrDoubt)
	}
	return t.verify(*t.held)
}

func (t *Table) verify(r Ruleset) error {
	k, err := t.conn.ListTableOfFamily(r.Table, nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("verifying table %s: %w", r.Table, err)
	}
	port, err := t.conn.GetPortID()
	if err != nil {
		return fmt.Errorf("verifying table %s: %w", r.Table, err)
	}
	if k.Flags != flags || k.Owner != port {
		return fmt.Errorf("verifying table %s: flags %#x and owner %d, want %#x and %d", r.Table, k.Flags, k.Owner, flags, port)
	}
	chains, err := t.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("verifying table %s: %w", r.Table, err)
	}
	dropping := map[nftables.ChainHook]bool{}
	for _, c := range chains {
		if c.Table.Name == r.Table && c.Hooknum != nil && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			dropping[*c.Hooknum] = true
		}
	}
	for _, hook := range []string{"input", "forward", "output"} {
		if !dropping[*hooks[hook]] {
			return fmt.Errorf("verifying table %s: %s does not drop by default", r.Table, hook)
		}
	}
	return nil
}
