package tunnel

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// createTUN makes the interface, with segmentation offload. It does not use tun.CreateTUN,
// whose own watch ends the whole device when the kernel drops news of other interfaces
// for want of room, and stops and starts it with the interface's ups and downs.
func createTUN(name string, mtu int) (tun.Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	d, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("setting the MTU to %d: %w", mtu, err), d.Close())
	}
	return d, nil
}

// toldTUN is an interface that is told of changes instead of watching for them.
type toldTUN struct {
	tun.Device

	mu     sync.Mutex
	closed bool
	events chan tun.Event // holds one; guarded by mu for sending and closing
}

func newToldTUN(inner tun.Device) *toldTUN {
	return &toldTUN{Device: inner, events: make(chan tun.Event, 1)}
}

func (t *toldTUN) Events() <-chan tun.Event { return t.events }

// mtuChanged has the device look at the MTU. A look that is due serves for both.
func (t *toldTUN) mtuChanged() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	select {
	case t.events <- tun.EventMTUUpdate:
	default:
	}
}

func (t *toldTUN) Close() error {
	t.endEvents()
	return t.Device.Close()
}

func (t *toldTUN) endEvents() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.events)
	}
}

// present reports whether the interface of this descriptor, which a deleted one leaves
// behind, is there.
func present(f *os.File) bool {
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var size int
	asked := c.Control(func(fd uintptr) { size, err = unix.IoctlGetInt(int(fd), unix.TUNGETVNETHDRSZ) })
	return asked == nil && err == nil && size > 0
}
