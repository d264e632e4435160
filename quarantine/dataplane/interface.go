package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Interface is what the kernel shows of a network interface.
type Interface struct {
	Index     int
	Up        bool
	Addresses []netip.Prefix
}

var (
	errNoInterface = errors.New("there is no such interface")
	errOther       = errors.New("another interface has its name")
)

// SystemInterface looks at the interface of a name, in this process's network namespace.
func SystemInterface(name string) (Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return Interface{}, fmt.Errorf("listing interfaces: %w", err)
	}
	i := slices.IndexFunc(all, func(i net.Interface) bool { return i.Name == name })
	if i < 0 {
		return Interface{}, errNoInterface
	}
	own, err := all[i].Addrs()
	if err != nil {
		return Interface{}, fmt.Errorf("listing addresses: %w", err)
	}
	out := Interface{Index: all[i].Index, Up: all[i].Flags&net.FlagUp != 0}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			addr, _ := netip.AddrFromSlice(n.IP)
			bits, _ := n.Mask.Size()
			out.Addresses = append(out.Addresses, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	return out, nil
}

// has reports whether i is up and has the addresses own, and no others but link-local ones.
func (i Interface) has(own []netip.Prefix) bool {
	stranger := func(p netip.Prefix) bool { return !slices.Contains(own, p) && !p.Addr().IsLinkLocalUnicast() }
	missing := func(p netip.Prefix) bool { return !slices.Contains(i.Addresses, p) }
	return i.Up && !slices.ContainsFunc(i.Addresses, stranger) && !slices.ContainsFunc(own, missing)
}

// watchLink looks whether the tunnel's interface is still the one that was opened, and has
// its addresses. Addresses are set again. An interface that is gone, or another in its
// place, which anything may speak through, shuts the table; then the tunnel is opened anew
// and the control plane asked for a plan. It is tried again at every look.
func (p *Plane) watchLink(ctx context.Context) {
	seen, err := p.config.Interface(p.tunnel)
	if err != nil {
		seen, err = p.config.Interface(p.tunnel) // somebody else's change interrupts a listing
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.link == nil: // Run has ended
		return
	case p.lost:
	case err != nil:
		p.lose(err)
	case seen.Index != p.index:
		p.lose(errOther)
	case !p.planned || seen.has(p.rules.own):
		return
	default:
		p.log.Warn("the tunnel's interface is down or has other addresses; setting them again", "tunnel", p.tunnel)
		if err = p.link.SetAddresses(p.rules.own); err == nil {
			return
		}
		p.lose(err)
	}
	p.reopen(ctx)
}

// lose lets nothing pass, since there is no tunnel.
func (p *Plane) lose(why error) {
	p.log.Error("the tunnel is lost", "tunnel", p.tunnel, "error", why)
	p.lost, p.full = true, true // a plan that failed half way has filled the table too
	p.planned, p.fresh, p.alive = false, 0, 0
	if err := p.link.Close(); err != nil {
		p.log.Warn("closing the lost tunnel failed", "tunnel", p.tunnel, "error", err)
	}
}

// reopen opens a lost tunnel again, once the table is empty. The next plan fills both.
func (p *Plane) reopen(ctx context.Context) {
	if p.full && p.shut() != nil {
		return // it said why
	}
	p.full = false
	err := p.openLink(ctx)
	if err == nil {
		p.lost, p.refusal = false, ""
		p.log.Info("the tunnel is open again", "tunnel", p.tunnel)
		p.tell(Event{Kind: NeedPlan, Detail: "the tunnel was lost and opened again"})
		return
	}
	if text := err.Error(); text != p.refusal { // at every look, else
		p.refusal = text
		p.log.Error("opening the tunnel again failed; trying on", "tunnel", p.tunnel, "error", err)
	}
}

// openLink opens the tunnel and notes which interface it is.
func (p *Plane) openLink(ctx context.Context) error {
	link, err := p.config.OpenLink(ctx)
	if err != nil {
		return err
	}
	seen, err := p.config.Interface(p.tunnel)
	if err != nil {
		return errors.Join(fmt.Errorf("looking at interface %s: %w", p.tunnel, err), link.Close())
	}
	p.link, p.index = link, seen.Index
	return nil
}

// calm is the least time between two looks that the kernel asks for.
const calm = 20 * time.Millisecond

// follow tells changed whenever the kernel changes an interface or an address, until ctx
// ends. Without it, changes are seen at the next tick.
func (p *Plane) follow(ctx context.Context, changed chan<- struct{}) {
	news, err := openNews()
	if err != nil {
		p.log.Warn("changes of interfaces are seen late", "error", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { news.Close() })
	defer stop()
	defer news.Close()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for b := make([]byte, 1<<16); ; {
		// ENOBUFS says that news were lost, which is news.
		if _, err := news.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() == nil {
				p.log.Warn("changes of interfaces are seen late from now on", "error", err)
			}
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
		pause.Reset(calm)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// openNews opens a socket that hears of interfaces and addresses (rtnetlink(7)).
func openNews() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("listening to rtnetlink: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}
