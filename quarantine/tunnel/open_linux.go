package tunnel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// open tries the kernel first. Only "the kernel does not know WireGuard" leads to the
// userspace way: a refusal for want of privileges is told as it is.
func open(c Config) (*Link, error) {
	back, kind, err := openBackend(c)
	if err != nil {
		return nil, err
	}
	l := &Link{
		name: c.Name, public: c.PrivateKey.Public(), kind: kind, back: back, network: rtnetlink{c.Name},
		lost: make(chan struct{}), closing: make(chan struct{}), watched: make(chan struct{}),
	}
	w, err := newWatch(c.Name, back.mtuChanged)
	if err != nil {
		return nil, errors.Join(err, back.close())
	}
	go l.watch(w)
	if err := l.network.setAddresses(c.Addresses); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// watch closes l.lost if the link ends in any way but Close and Remove. It ends at loss
// or at close.
func (l *Link) watch(w *watch) {
	defer close(l.watched)
	defer w.close()
	select {
	case <-w.lost:
		close(l.lost)
	case <-l.back.ended():
		close(l.lost)
	case <-l.closing:
	}
}

func openBackend(c Config) (backend, Kind, error) {
	if !c.ForceUserspace {
		found, err := kernelLink(c)
		if err != nil {
			return nil, "", err
		}
		if found {
			back, err := openKernel(c)
			return back, Kernel, err
		}
	}
	back, err := openUserspace(c)
	return back, Userspace, err
}

// kernelLink makes the kernel's interface, or finds it, and says whether the kernel
// has WireGuard at all.
func kernelLink(c Config) (bool, error) {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = c.Name, c.MTU
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attributes})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return false, nil
	case !errors.Is(err, unix.EEXIST):
		return false, fmt.Errorf("adding the interface: %w", err)
	}
	have, err := netlink.LinkByName(c.Name)
	if err != nil {
		return false, fmt.Errorf("finding the interface: %w", err)
	}
	if have.Type() != "wireguard" {
		return false, fmt.Errorf("an interface of that name is there, of type %s", have.Type())
	}
	if err := netlink.LinkSetMTU(have, c.MTU); err != nil {
		return false, fmt.Errorf("setting the MTU: %w", err)
	}
	return true, nil
}
