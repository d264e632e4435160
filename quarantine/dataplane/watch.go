package dataplane

import (
	"errors"
	"maps"
	"slices"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// watchClocks refills the table after a jump: the kernel's timeouts stood still while
// the machine was suspended or paused. Time that no deadline saw is taken off all of
// them; a clock that was set back gives nothing.
func (p *Plane) watchClocks() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.config.Clock()
	j := between(p.seen, now)
	p.seen = now
	if !j.over() {
		return
	}
	p.log.Warn("the clocks jumped", "suspended", j.suspended, "wall", j.wall)
	p.tell(Event{Kind: ClockJump, Detail: "suspended " + j.suspended.String() + ", wall clock " + j.wall.String()})
	if j.wall > tolerated {
		lost := firewall.Deadline(j.wall)
		p.mirror.advance(lost)
		p.fresh, p.alive = earlier(p.fresh, lost), earlier(p.alive, lost)
	}
	if !p.planned {
		return
	}
	if err := p.refill(); err != nil {
		p.log.Error("filling the firewall table after a jump of the clocks failed", "error", err)
	}
}

// watchForwarding switches forwarding on again where somebody switched it off.
func (p *Plane) watchForwarding() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.planned || !p.forward {
		return
	}
	if err := p.config.Forward(); err != nil {
		p.log.Error("switching forwarding on again failed", "error", err)
	}
}

func earlier(d, by firewall.Deadline) firewall.Deadline { return max(d-by, 0) }

// verifyEvery is how many ticks, of a second each, lie between two looks at the table.
const verifyEvery = 5

// watchTable looks whether the table still stands as this process left it. While it
// owns the table nobody else can change it, so if not, nothing is certain: the table is
// made anew, empty, and the control plane asked for a plan. Without a table there are no
// peers either. It is tried again at every look.
func (p *Plane) watchTable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.config.Table.Verify()
	if err != nil {
		err = p.config.Table.Verify() // somebody else's change interrupts a listing
	}
	if err == nil {
		return
	}
	p.log.Error("the firewall table is not as it was left; making it anew", "error", err)
	p.planned, p.fresh, p.alive = false, 0, 0
	if err := p.config.Table.Adopt(p.config.Host); err != nil {
		p.log.Error("making the firewall table anew failed; removing every peer", "error", errors.Join(err, p.removePeers()))
	}
	p.tell(Event{Kind: NeedPlan, Detail: "the firewall table was made anew: " + short(err.Error(), maxReason)})
}

// share is the part of the time that looking for handshakes, and forgetting connections,
// may take each: a twentieth.
const share = 20

// watchHandshakes moves the addresses of devices whose next key shook hands. It does
// nothing while no device rotates, and keeps no order waiting while it looks.
func (p *Plane) watchHandshakes() {
	if time.Now().Before(p.nextLook) {
		return
	}
	p.mu.Lock()
	link, lost, keys := p.link, p.lost, slices.Collect(maps.Keys(p.mirror.rotating))
	p.mu.Unlock()
	if lost || len(keys) == 0 {
		return
	}
	start := time.Now()
	seen, err := link.Handshakes(keys)
	p.nextLook = time.Now().Add(share * time.Since(start))
	if err != nil {
		p.log.Error("looking for handshakes failed", "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range seen {
		p.rotate(k)
	}
}

// rotate moves a device's addresses to its next key k, if k is one. The old key stays
// a peer without addresses until the control plane's next entry.
func (p *Plane) rotate(k tunnel.Key) {
	id, rotating := p.mirror.rotating[k]
	if !rotating {
		return
	}
	old := p.mirror.held[id]
	next := old
	next.moved = true
	p.mirror.put(next)
	err := p.applyLink(next, tunnel.Diff(old.peers(), next.peers()))
	if err != nil && (!errors.Is(err, quarantine.ErrPeer) || p.lacking[k] != nil) {
		p.log.Error("moving addresses to the next key failed", "device", id, "error", err)
		p.mirror.put(old) // tried again at the next look
		return
	}
	p.log.Info("addresses moved to the next key", "device", id, "key", k)
	p.tell(Event{Kind: Rotated, Device: id, Key: k})
}
