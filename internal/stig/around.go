package stig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	idPrograms = "interfaces.programs"
	idLinked   = "interfaces.linked"
)

var aroundTitles = map[string]string{
	idPrograms: "no program or filter at an interface moves packets past the rules",
	idLinked:   "no BPF program is linked to an interface (tcx, netkit)",
}

// around looks for what runs at interfaces before nf_tables or behind it, and may redirect
// a packet from one to another: XDP, filters of traffic control, and BPF programs that are
// linked to an interface without any of traffic control's objects.
func (c Config) around(r *report) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		r.unmade(idPrograms, aroundTitles[idPrograms], err, asRoot)
		r.unmade(idLinked, aroundTitles[idLinked], err, asRoot)
		return
	}
	defer conn.Close()
	c.interfaces(r, conn)
}

// asker is a *netlink.Conn.
type asker interface {
	Execute(netlink.Message) ([]netlink.Message, error)
}

func (c Config) interfaces(r *report, conn asker) {
	list, err := interfaces(conn)
	wrong, err2 := control(conn, list)
	for _, n := range list {
		if n.express {
			wrong = append(wrong, "XDP program at "+n.name)
		}
	}
	if err2 = errors.Join(err, err2); len(wrong) == 0 && err2 != nil {
		r.unmade(idPrograms, aroundTitles[idPrograms], err2, asRoot)
	} else {
		r.add(idPrograms, aroundTitles[idPrograms], wrong, nil, "remove it: ip link set dev NAME xdp off; tc qdisc del dev NAME clsact; tc qdisc del dev NAME root")
	}
	wrong, err2 = linked(list, c.query)
	if err2 = errors.Join(err, err2); len(wrong) == 0 && err2 != nil {
		r.unmade(idLinked, aroundTitles[idLinked], err2, asRoot+"; the kernel tells it to CAP_NET_ADMIN of the machine alone, not of a user namespace")
	} else {
		r.add(idLinked, aroundTitles[idLinked], wrong, []string{fmt.Sprintf("%d interfaces", len(list))}, "find it with bpftool net, and stop what holds its link")
	}
}

const (
	linkHead    = 16 // struct ifinfomsg
	controlHead = 20 // struct tcmsg
	xdpAttached = 2  // IFLA_XDP_ATTACHED
	whole       = 0xffffffff
)

// link is an interface.
type link struct {
	index   uint32
	name    string
	kind    string // of virtual ones
	express bool   // has an XDP program
}

func interfaces(conn asker) ([]link, error) {
	var list []link
	err := each(conn, unix.RTM_GETLINK, make([]byte, linkHead), func(head []byte, a *netlink.AttributeDecoder) {
		n := link{index: binary.NativeEndian.Uint32(head[4:])}
		for a.Next() {
			switch a.Type() {
			case unix.IFLA_IFNAME:
				n.name = a.String()
			case unix.IFLA_LINKINFO:
				a.Nested(func(x *netlink.AttributeDecoder) error {
					for x.Next() {
						if x.Type() == unix.IFLA_INFO_KIND {
							n.kind = x.String()
						}
					}
					return nil
				})
			case unix.IFLA_XDP:
				a.Nested(func(x *netlink.AttributeDecoder) error {
					for x.Next() {
						n.express = n.express || x.Type() == xdpAttached && x.Uint8() != 0
					}
					return nil
				})
			}
		}
		list = append(list, n)
	})
	if err != nil {
		return list, fmt.Errorf("listing interfaces: %w", err)
	}
	return list, nil
}

// plain are the queueing disciplines that have no classes which could carry filters. Of
// these, fq_codel, sfq and cake may carry filters themselves, which are asked for.
var plain = []string{"noqueue", "noop", "pfifo", "bfifo", "pfifo_fast", "mq", "fq", "codel", "pie", "tbf", "fq_codel", "sfq", "cake"}

// discipline is a queueing discipline.
type discipline struct {
	index          uint32
	handle, parent uint32
	kind           string
}

// control lists queueing disciplines that are for filters or may hold some in classes, and
// the filters of all others.
func control(conn asker, list []link) ([]string, error) {
	var all []discipline
	err := each(conn, unix.RTM_GETQDISC, make([]byte, controlHead), func(head []byte, a *netlink.AttributeDecoder) {
		d := discipline{index: binary.NativeEndian.Uint32(head[4:]), handle: binary.NativeEndian.Uint32(head[8:]), parent: binary.NativeEndian.Uint32(head[12:])}
		for a.Next() {
			if a.Type() == unix.TCA_KIND {
				d.kind = a.String()
			}
		}
		all = append(all, d)
	})
	if err != nil {
		return nil, fmt.Errorf("listing queueing disciplines: %w", err)
	}
	var wrong []string
	for _, d := range all {
		name := fmt.Sprintf("interface %d", d.index)
		if i := slices.IndexFunc(list, func(n link) bool { return n.index == d.index }); i >= 0 {
			name = list[i].name
		}
		if !slices.Contains(plain, d.kind) {
			wrong = append(wrong, fmt.Sprintf("queueing discipline %s at %s", d.kind, name))
		}
		kinds, err := filters(conn, d)
		if err != nil {
			return wrong, fmt.Errorf("listing the filters of %s: %w", name, err)
		}
		for _, k := range kinds {
			wrong = append(wrong, fmt.Sprintf("filter %s of queueing discipline %s at %s", k, d.kind, name))
		}
	}
	return wrong, nil
}

// filters are the kinds of filters of d, each once. One without a handle that is not its
// interface's root cannot have any, since nothing names it.
func filters(conn asker, d discipline) ([]string, error) {
	if d.handle == 0 && d.parent != whole {
		return nil, nil
	}
	ask := make([]byte, controlHead)
	binary.NativeEndian.PutUint32(ask[4:], d.index)
	binary.NativeEndian.PutUint32(ask[12:], d.handle) // zero: the root
	var kinds []string
	err := each(conn, unix.RTM_GETTFILTER, ask, func(_ []byte, a *netlink.AttributeDecoder) {
		kind := "of an unknown kind"
		for a.Next() {
			if a.Type() == unix.TCA_KIND {
				kind = a.String()
			}
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	})
	return kinds, err
}

// each asks for all objects of a kind; the answers' heads are as long as ask.
func each(conn asker, kind netlink.HeaderType, ask []byte, do func([]byte, *netlink.AttributeDecoder)) error {
	replies, err := conn.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump}, Data: ask})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the kernel has none of it
	}
	if err != nil {
		return err
	}
	for _, m := range replies {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return errors.New("the list changed while the kernel told it: run this again")
		}
		if len(m.Data) < len(ask) {
			return fmt.Errorf("a reply of %d bytes", len(m.Data))
		}
		a, err := netlink.NewAttributeDecoder(m.Data[len(ask):])
		if err != nil {
			return err
		}
		do(m.Data[:len(ask)], a)
		if err := a.Err(); err != nil {
			return err
		}
	}
	return nil
}
