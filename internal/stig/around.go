package stig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// around looks for programs at interfaces that run before nf_tables or behind it: XDP, and
// traffic control's ingress and clsact, whose filters may redirect a packet from one
// interface to another.
func (c Config) around(r *report) {
	const id, title = "interfaces.programs", "no program at an interface moves packets past the rules"
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		r.unmade(id, title, err, asRoot)
		return
	}
	defer conn.Close()
	wrong, err := express(conn)
	if err == nil {
		var more []string
		more, err = control(conn)
		wrong = append(wrong, more...)
	}
	if err != nil {
		r.unmade(id, title, err, asRoot)
		return
	}
	r.add(id, title, wrong, nil, "remove it: ip link set dev NAME xdp off; tc qdisc del dev NAME clsact")
}

const (
	linkHead    = 16 // struct ifinfomsg
	controlHead = 20 // struct tcmsg
	xdpAttached = 2  // IFLA_XDP_ATTACHED
)

// express lists interfaces with an XDP program.
func express(conn *netlink.Conn) ([]string, error) {
	var wrong []string
	err := each(conn, unix.RTM_GETLINK, linkHead, func(head []byte, a *netlink.AttributeDecoder) {
		for a.Next() {
			if a.Type() != unix.IFLA_XDP {
				continue
			}
			a.Nested(func(x *netlink.AttributeDecoder) error {
				for x.Next() {
					if x.Type() == xdpAttached && x.Uint8() != 0 {
						wrong = append(wrong, "XDP program at "+interfaceOf(head))
					}
				}
				return nil
			})
		}
	})
	return wrong, err
}

// control lists interfaces with a queueing discipline that carries filters on the way in.
func control(conn *netlink.Conn) ([]string, error) {
	var wrong []string
	err := each(conn, unix.RTM_GETQDISC, controlHead, func(head []byte, a *netlink.AttributeDecoder) {
		for a.Next() {
			if kind := ""; a.Type() == unix.TCA_KIND {
				if kind = a.String(); kind == "ingress" || kind == "clsact" {
					wrong = append(wrong, fmt.Sprintf("queueing discipline %s at %s", kind, interfaceOf(head)))
				}
			}
		}
	})
	return wrong, err
}

// each asks for all objects of a kind.
func each(conn *netlink.Conn, kind netlink.HeaderType, head int, do func([]byte, *netlink.AttributeDecoder)) error {
	replies, err := conn.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump}, Data: make([]byte, head)})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the kernel has none of it
	}
	if err != nil {
		return err
	}
	for _, m := range replies {
		if len(m.Data) < head {
			return fmt.Errorf("a reply of %d bytes", len(m.Data))
		}
		a, err := netlink.NewAttributeDecoder(m.Data[head:])
		if err != nil {
			return err
		}
		do(m.Data[:head], a)
		if err := a.Err(); err != nil {
			return err
		}
	}
	return nil
}

// interfaceOf names the interface whose index both heads hold in the same place.
func interfaceOf(head []byte) string {
	n := int(int32(binary.NativeEndian.Uint32(head[4:])))
	if i, err := net.InterfaceByIndex(n); err == nil {
		return i.Name
	}
	return fmt.Sprintf("interface %d", n)
}
