package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// errTunnel marks an error after which the tunnel may hold more than the mirror.
var errTunnel = errors.New("setting peers")

// applyLink makes the changes that lead to next, and all of next's peers again if one
// was missing. If some fail, or did before, it compares the whole tunnel and mends it. It returns
// quarantine.ErrPeer if then only this device's own peers are missing, and errTunnel if
// the tunnel may hold too much.
func (p *Plane) applyLink(next held, changes []tunnel.PeerChange) error {
	if p.lacks(next) != nil {
		changes = slices.DeleteFunc(changes, func(c tunnel.PeerChange) bool { return !c.Remove })
		changes = append(changes, tunnel.Diff(nil, next.peers())...)
	}
	var err error
	if len(changes) > 0 {
		err = p.link.Apply(changes)
	}
	unsure := p.failed[next.Device] || p.failed[""] // the mirror may be ahead of the tunnel
	if err != nil && !onlyRefused(err) {
		p.log.Warn("setting peers failed; comparing all of them", "error", err)
		unsure = true
	}
	if unsure {
		err = p.syncPeers(next.Device)
	}
	if err == nil {
		for _, c := range changes {
			delete(p.lacking, c.Peer.Key)
		}
		return nil
	}
	if err := p.weigh(err); err != nil {
		return err
	}
	if why := p.lacks(next); why != nil {
		return fmt.Errorf("%w: %w", quarantine.ErrPeer, why)
	}
	return nil
}

// retryPeers sets those peers again that the tunnel lacks for no reason of their own, such as
// a kernel that was out of memory: nobody else would before their devices' next move. It
// takes a twentieth of the time at most.
func (p *Plane) retryPeers() {
	if time.Now().Before(p.nextRetry) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.planned || p.lost {
		return
	}
	before := len(p.lacking)
	maps.DeleteFunc(p.lacking, func(_ tunnel.Key, why error) bool { return !errors.Is(why, tunnel.ErrPeer) })
	if len(p.lacking) == before {
		return
	}
	start := time.Now()
	err := p.syncPeers("")
	if err != nil {
		err = p.weigh(err)
	}
	p.nextRetry = time.Now().Add(share * time.Since(start))
	if err != nil {
		p.log.Error("setting missing peers again failed", "error", err)
		p.fail("") // the tunnel may hold too much: freshness ends until a plan
		p.tell(Event{Kind: NeedPlan, Detail: "the tunnel may hold too much: " + short(err.Error(), maxReason)})
		return
	}
	p.log.Info("missing peers were set again", "before", before, "missing", len(p.lacking))
}

// lacks says why a peer of h is missing; nil: none is.
func (p *Plane) lacks(h held) error {
	for _, peer := range h.peers() {
		if why := p.lacking[peer.Key]; why != nil {
			return why
		}
	}
	return nil
}

// onlyRefused reports whether err is all about peers that the link may not be given.
func onlyRefused(err error) bool {
	failed, ok := errors.AsType[tunnel.Failures](err)
	return ok && !slices.ContainsFunc(failed, func(f tunnel.Failure) bool { return !errors.Is(f.Err, tunnel.ErrPeer) })
}

// syncPeers makes the tunnel hold the mirror's peers, touching those that differ. A
// missing peer that was tried before is not tried again, save it is device's.
func (p *Plane) syncPeers(device quarantine.ID) error {
	have, err := p.link.Peers()
	if err != nil {
		return err
	}
	seen := make([]tunnel.Peer, len(have))
	there := make(map[tunnel.Key]bool, len(have))
	for i, s := range have {
		seen[i], there[s.Key] = s.Peer, true
	}
	return p.link.Apply(slices.DeleteFunc(tunnel.Diff(seen, p.mirror.peers()), func(c tunnel.PeerChange) bool {
		k := c.Peer.Key
		return !c.Remove && !there[k] && p.lacking[k] != nil && p.mirror.keys[k] != device
	}))
}

// removePeers leaves the tunnel without any; the next plan brings them back.
func (p *Plane) removePeers() error {
	if p.lost {
		return nil
	}
	have, err := p.link.Peers()
	if err != nil {
		return err
	}
	seen := make([]tunnel.Peer, len(have))
	for i, s := range have {
		seen[i] = s.Peer
	}
	return p.link.Apply(tunnel.Diff(seen, nil))
}

// weigh finds out what an error of the tunnel comes to, by looking at all of it. A
// peer that is missing, or has too few addresses, costs its device the tunnel and
// nobody else anything: p.lacking has it, and why, and that is no error. errTunnel
// says that the tunnel may hold more than the mirror.
func (p *Plane) weigh(cause error) error {
	missing, excess, err := p.compare()
	if err != nil || excess {
		return fmt.Errorf("%w: %w", errTunnel, errors.Join(cause, err))
	}
	why := p.lacking
	if failed, ok := errors.AsType[tunnel.Failures](cause); ok {
		for _, f := range failed {
			why[f.Peer.Key] = f
		}
	}
	p.lacking = make(map[tunnel.Key]error, len(missing))
	for _, k := range missing {
		p.lacking[k] = why[k]
		if why[k] == nil {
			p.lacking[k] = fmt.Errorf("peer %s is missing", k)
		}
	}
	return nil
}

// compare reads the whole tunnel: which of the mirror's peers it lacks in whole or in
// part, and whether it holds one, or an address of one, that the mirror has not.
func (p *Plane) compare() (missing []tunnel.Key, excess bool, err error) {
	have, err := p.link.Peers()
	if err != nil {
		return nil, false, err
	}
	held := make(map[tunnel.Key][]netip.Prefix, len(have))
	for _, h := range have {
		held[h.Key] = h.AllowedIPs
	}
	for _, w := range p.mirror.peers() {
		got, there := held[w.Key]
		if !there || !within(w.AllowedIPs, got) {
			missing = append(missing, w.Key)
		}
		excess = excess || !within(got, w.AllowedIPs)
		delete(held, w.Key)
	}
	return missing, excess || len(held) > 0, nil
}

func within(a, b []netip.Prefix) bool {
	return !slices.ContainsFunc(a, func(x netip.Prefix) bool { return !slices.Contains(b, x) })
}
