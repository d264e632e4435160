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
	index   int32
	socket  *nl.NetlinkSocket
	lost    chan struct{} // closed when the interface is gone, or can no longer be watched
	changed func()        // called when the interface, its MTU perhaps, changed
	closed  chan struct{}
	ended   chan struct{}
}

// newWatch begins to watch the interface that has this name now.
func newWatch(name string, changed func()) (*watch, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("watching the interface: %w", err)
	}
	link, err := netlink.LinkByName(name) // after subscribing, so that nothing falls between
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("finding the interface to watch: %w", err)
	}
	return watchIndex(socket, int32(link.Attrs().Index), changed), nil
}

func watchIndex(socket *nl.NetlinkSocket, index int32, changed func()) *watch {
	w := &watch{
		index: index, socket: socket, changed: changed,
		lost: make(chan struct{}), closed: make(chan struct{}), ended: make(chan struct{}),
	}
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
			switch w.tells(m.Header.Type, m.Data) {
			case unix.RTM_DELLINK:
				close(w.lost)
				return
			case unix.RTM_NEWLINK:
				w.changed()
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

// tells returns RTM_DELLINK for a message that says that the interface is gone,
// RTM_NEWLINK for one that says how it is now, and 0 for others. A bridge port that only
// leaves its bridge is told of in the bridge family.
func (w *watch) tells(kind uint16, data []byte) uint16 {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(data) < unix.SizeofIfInfomsg {
			return 0
		}
		link := nl.DeserializeIfInfomsg(data)
		if link.Family == unix.AF_UNSPEC && link.Index == w.index {
			return kind
		}
	case unix.NLMSG_ERROR:
		if len(data) >= 4 && int32(nl.NativeEndian().Uint32(data)) == -int32(unix.ENODEV) {
			return unix.RTM_DELLINK
		}
	}
	return 0
}

func (w *watch) close() {
	close(w.closed)
	w.socket.Close()
	<-w.ended
}
