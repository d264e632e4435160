package network

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// again is how often everything is compared without a reason, as what another program
// took away comes back.
const again = time.Minute

// Run follows the kernel, renews leases and ends tries, until ctx ends; then it returns nil
// and addresses stay as they are. It may be called once.
func (m *Manager) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	m.mu.Lock()
	m.run = ctx
	m.mu.Unlock()
	defer func() {
		stop()
		m.wg.Wait()
	}()
	m.wg.Go(func() { m.listen(ctx) })
	for ctx.Err() == nil {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.config.Log.Warn("following the kernel's links", "error", err)
			t := time.NewTimer(time.Second)
			select {
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
	}
	return nil
}

// follow looks again at every change, until the subscription breaks or ctx ends.
func (m *Manager) follow(ctx context.Context) error {
	done := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	defer close(done)
	failed := make(chan error, 2)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: fail}); err != nil {
		return fmt.Errorf("subscribing to links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: fail}); err != nil {
		go drain(links)
		return fmt.Errorf("subscribing to addresses: %w", err)
	}
	// Until they are closed, their senders must not be left waiting.
	defer func() { go drain(links); go drain(addrs) }()
	for {
		m.look()
		t := time.NewTimer(m.next())
		select {
		case _, ok := <-links:
			if !ok {
				return fmt.Errorf("links: %w", net.ErrClosed)
			}
		case _, ok := <-addrs:
			if !ok {
				return fmt.Errorf("addresses: %w", net.ErrClosed)
			}
			m.mu.Lock()
			m.announce()
			m.mu.Unlock()
		case err := <-failed:
			t.Stop()
			return err
		case <-m.wakeup:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		t.Stop()
		empty(links)
		empty(addrs)
	}
}

// drain reads until the sender has closed c.
func drain[T any](c <-chan T) {
	for range c {
	}
}

// empty takes what waits: one look is enough for all of it.
func empty[T any](c <-chan T) {
	for {
		select {
		case _, ok := <-c:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// next is how long there is nothing to do.
func (m *Manager) next() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := again
	if m.trial != nil {
		d = min(d, max(time.Until(m.trial.until), 0))
	}
	for _, r := range m.routers {
		d = min(d, r.next())
	}
	return d
}

// look makes the kernel match again, and takes a try back whose time is over.
func (m *Manager) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.set {
		return
	}
	var err error
	if m.trial != nil && !time.Now().Before(m.trial.until) {
		err = m.revert()
	} else {
		err = m.reconcile()
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != m.said {
		m.config.Log.Error("the network is not as it should be", "error", err)
	}
	m.said = text
}

// attend starts the clients that l needs and stops those that it does not.
func (m *Manager) attend(l netlink.Link, c appliance.Link) {
	a := l.Attrs()
	for _, family := range []struct{ six, on bool }{{false, c.DHCP4}, {true, c.DHCP6}} {
		key := clientKey{a.Index, family.six}
		if r := m.clients[key]; r != nil && (!family.on || r.mac != a.HardwareAddr.String()) {
			m.dismiss(key)
		}
		if !family.on || m.clients[key] != nil || m.run == nil || !carrier(l) || family.six && !speaks(l) {
			continue
		}
		m.hire(key, a.Name, a.HardwareAddr, c)
	}
}

// speaks says whether a link has a link-local address that is looked at no more for
// duplicates; the kernel tells of it when it has.
func speaks(l netlink.Link) bool {
	addrs, _ := allAddrs(l, netlink.FAMILY_V6) // none: it went away meanwhile
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return a.IP.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	})
}

func (m *Manager) dismiss(key clientKey) {
	m.clients[key].stop()
	delete(m.clients, key)
}

func (m *Manager) hire(key clientKey, name string, mac net.HardwareAddr, c appliance.Link) {
	lim := func() limits {
		out := m.limits(key.index)
		out.six = c.IPv6()
		return out
	}
	var ask asker = &asker6{link: name, mac: mac, limits: lim}
	if !key.six {
		host := ""
		if m.config.Hostname != nil {
			host = m.config.Hostname()
		}
		ask = &asker4{link: name, mac: mac, hostname: host, limits: lim}
	}
	ctx, stop := context.WithCancel(m.run)
	r := &running{stop: stop, mac: mac.String()}
	r.client = newClient(ask, func(l *lease, problem string) { m.leased(key, r, name, l, problem) })
	m.clients[key] = r
	m.wg.Go(func() { defer stop(); r.run(ctx) })
}

// leased takes a client's news.
func (m *Manager) leased(key clientKey, r *running, name string, l *lease, problem string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clients[key] != r {
		return // it was dismissed meanwhile
	}
	log := m.config.Log.With("link", name)
	switch {
	case l != nil && (r.lease == nil || r.lease.Address != l.Address):
		log.Info("got an address by DHCP", "address", l.Address, "for", l.Life, "dns", l.DNS)
		for _, left := range l.Left {
			log.Warn("left out of what the DHCP server says", "what", left)
		}
	case l == nil && r.lease != nil:
		log.Warn("lost the address of DHCP", "address", r.lease.Address, "why", problem)
	case l == nil && problem != r.problem:
		log.Warn("no address by DHCP", "why", problem)
	}
	r.lease, r.problem = l, problem
	m.announce()
	m.wake() // Run reconciles
}
