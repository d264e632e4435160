package agent

import "slices"

// apply makes the device's network as want says; what is right already is not touched.
// The caller holds mu, or is the only one.
func (a *Agent) apply(want layout) error {
	if !a.unsure && a.have.equal(want) {
		return nil
	}
	sure := !a.unsure
	a.unsure = true // until all of it is done
	if err := a.net.SetAddresses(want.Addresses); err != nil {
		return err
	}
	if err := a.net.SetPeer(want.Peer); err != nil {
		return err
	}
	if old := a.have.Peer.Key; !old.IsZero() && old != want.Peer.Key {
		if err := a.net.RemovePeer(old); err != nil {
			return err
		}
	}
	moved := want.Peer.Endpoint != a.have.Peer.Endpoint
	a.have.Peer = want.Peer
	if err := a.net.SetRoutes(want.Routes); err != nil {
		return err
	}
	if moved || !sure {
		if err := a.net.SetRules(want.Peer.Endpoint.Addr()); err != nil {
			return err
		}
	}
	if a.dns != nil && !slices.Equal(want.DNS, a.have.DNS) {
		if err := a.dns.set(want.DNS); err != nil {
			return err
		}
	}
	a.have, a.unsure = want, false
	return nil
}
