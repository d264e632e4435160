package tunnel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watch tells when an interface is gone: deleted, or moved to another namespace. Its
// socket stays in the namespace where it was opened, whichever thread reads it.
type watch struct {
	index  int32
	socket *nl.NetlinkSocket
	lost   chan struct{} // closed when the interface is gone, or can no longer be watched
	closed chan struct{}
	ended  chan struct{}
}

// newWatch begins to watch the interface that has this name now.
func newWatch(name string) (*watch, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("watching the interface: %w", err)
	}
	link, err := netlink.LinkByName(name) // after subscribing, so that nothing falls between
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("finding the interface to watch: %w", err)
	}
	return watchIndex(socket, int32(link.Attrs().Index)), nil
}

func watchIndex(socket *nl.NetlinkSocket, index int32) *watch {
	w := &watch{index, socket, make(chan struct{}), make(chan struct{}), make(chan struct{})}
	go w.run()
	return w
}

// run ends with the interface, or at close.
func (w *watch) run() {
	defer close(w.ended)
	for {
		messages, _, err := w.socket.Receive()
		select {
		case <-w.closed:
			return
		default:
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // news were dropped, perhaps this one
			err = w.ask()
		}
		if err != nil {
			close(w.lost) // what cannot be watched is not relied on
			return
		}
		for _, m := range messages {
			if w.tells(m.Header.Type, m.Data) {
				close(w.lost)
				return
			}
		}
	}
}

// ask has the kernel send the interface's state, or that there is none.
func (w *watch) ask() error {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = w.index
	request.AddData(message)
	return w.socket.Send(request)
}

// tells reports whether a message says that the interface is gone. A bridge port that
// only leaves its bridge is told of in the bridge family.
func (w *watch) tells(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_DELLINK:
		if len(data) < unix.SizeofIfInfomsg {
			return false
		}
		link := nl.DeserializeIfInfomsg(data)
		return link.Family == unix.AF_UNSPEC && link.Index == w.index
	case unix.NLMSG_ERROR:
		return len(data) >= 4 && int32(nl.NativeEndian().Uint32(data)) == -int32(unix.ENODEV)
	}
	return false
}

func (w *watch) close() {
	close(w.closed)
	w.socket.Close()
	<-w.ended
}
