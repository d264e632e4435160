package quarantine

import "lazaret/firewall"

// Enforced are the pools of the last plan that was taken.
func (g *Gate) Enforced() []firewall.Pool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.naming.enforced
}
