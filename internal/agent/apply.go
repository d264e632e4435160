package agent

import (
	"net/netip"
	"slices"
)

// apply makes the device's network as want says; what is right already is not touched.
// DNS servers that cannot be set are shown as a problem and no error: the tunnel works
// without, and they are tried again with every answer. The caller holds mu, or is the only
// one.
func (a *Agent) apply(want layout) error {
	if err := a.applyNetwork(want); err != nil {
		return err
	}
	a.applyDNS(want.DNS)
	return nil
}

func (a *Agent) applyNetwork(want layout) error {
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
	want.DNS = a.have.DNS
	a.have, a.unsure = want, false
	return nil
}

func (a *Agent) applyDNS(servers []netip.Addr) {
	if a.dns == nil || a.noDNS == "" && slices.Equal(servers, a.have.DNS) {
		return
	}
	if err := a.dns.set(servers); err != nil {
		a.dnsTrouble(err)
		return
	}
	a.have.DNS, a.noDNS = servers, ""
}

// dnsTrouble notes that the device's DNS servers are not as they should be.
func (a *Agent) dnsTrouble(err error) {
	if a.noDNS != err.Error() { // and not with every answer anew
		a.log.Error("setting the DNS servers", "err", err)
	}
	a.noDNS = err.Error()
}
