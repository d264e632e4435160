package stig

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	netkitPrimary = 54 // BPF_NETKIT_PRIMARY
	netkitPeer    = 55 // BPF_NETKIT_PEER
)

// places are those at an interface to which BPF programs are linked (enum bpf_attach_type).
var places = map[uint32]string{
	unix.BPF_TCX_INGRESS: "tcx ingress", unix.BPF_TCX_EGRESS: "tcx egress", netkitPrimary: "netkit primary", netkitPeer: "netkit peer",
}

// linked lists the interfaces that have programs. query says how many a place has. A place
// that cannot be asked about is an error, also on a kernel that has no such places: it
// answers as to a mistake in the question.
func linked(list []link, query func(index, place uint32) (int, error)) (wrong []string, err error) {
	if query == nil {
		query = queryPrograms
	}
	for _, n := range list {
		at := []uint32{unix.BPF_TCX_INGRESS, unix.BPF_TCX_EGRESS}
		if n.kind == "netkit" {
			at = append(at, netkitPrimary, netkitPeer)
		}
		for _, place := range at {
			count, fault := query(n.index, place)
			switch {
			case errors.Is(fault, unix.ENODEV): // gone meanwhile
			case fault != nil:
				err = errors.Join(err, fmt.Errorf("asking for programs at %s, %s: %w", n.name, places[place], fault))
			case count > 0:
				wrong = append(wrong, fmt.Sprintf("%d BPF programs at %s, %s", count, n.name, places[place]))
			}
		}
	}
	return wrong, err
}

// programQuery is the kernel's union bpf_attr for BPF_PROG_QUERY.
type programQuery struct {
	Target      uint32 // the interface's index
	Place       uint32
	QueryFlags  uint32
	AttachFlags uint32
	IDs         uint64
	Count       uint32
	_           uint32
	Flags       uint64
	LinkIDs     uint64
	LinkFlags   uint64
	Revision    uint64
}

// queryPrograms asks the kernel (bpf(2)), which wants CAP_NET_ADMIN.
func queryPrograms(index, place uint32) (int, error) {
	q := programQuery{Target: index, Place: place}
	if _, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&q)), unsafe.Sizeof(q)); e != 0 {
		return 0, e
	}
	return int(q.Count), nil
}
