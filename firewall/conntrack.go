package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Flows deletes connection tracking entries: tidying, never enforcement. A cut ends the
// generation that entries may have been remembered in, and placement is looked up again, so
// what is cut is cut with its entries in place; they only hold memory, for up to five days, and the address translation of flows that are over.
//
// Of an IPv4 address the kernel picks the entries itself, by a filter in the request, so that nothing is
// read into this process: each costs two walks of the kernel's table, some 0.2 us
// for each entry there is. An IPv6 address costs more: see forget6. Call it from a goroutine of its own, after the answer was given.
type Flows struct {
	mu   sync.Mutex
	conn *netlink.Conn
}

// OpenFlows opens the socket that Forget uses; netNS is an open file descriptor of the
// network namespace, zero for the caller's own.
func OpenFlows(netNS int) (*Flows, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netNS})
	if err != nil {
		return nil, fmt.Errorf("opening connection tracking: %w", err)
	}
	return &Flows{conn: c}, nil
}

// Forget deletes every entry that one of the addresses opened, or that was opened towards
// one of them, masqueraded or not: those with the address as source of the original or of
// the reply tuple. Entries of others stay. It stops at the first error, or when ctx ends; what
// it has not deleted then ends by its own timeouts.
//
// Give it addresses that stand in neither set any more: the pool address of a device that
// left the pool, both addresses of one that was blocked. Not a fixed address that has
// fallen back to quarantine: its connection to the management server goes on there, and
// may rest on an entry that translates it, which no filter of the kernel's can spare. Such
// entries do no harm, since the quarantine chains let pass what the pool reaches and
// nothing else, whatever the entry says. The management session of a device with an agent
// runs over its quarantine address, and is not touched when its pool address is forgotten.
func (f *Flows) Forget(ctx context.Context, addrs ...netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() {
			return fmt.Errorf("forgetting the flows of %s: want a plain address", a)
		}
		if a.Is6() {
			if err := f.forget6(ctx, a); err != nil {
				return fmt.Errorf("forgetting the flows of %s: %w", a, err)
			}
			continue
		}
		for _, tuple := range []uint16{ctaTupleOrig, ctaTupleReply} {
			if ctx.Err() != nil {
				return fmt.Errorf("forgetting the flows of %s: %w", a, context.Cause(ctx))
			}
			m, err := forgetMessage(tuple, a)
			if err == nil {
				_, err = f.conn.Execute(m)
			}
			if err != nil {
				return fmt.Errorf("forgetting the flows of %s: %w", a, err)
			}
		}
	}
	return nil
}

// Close ends the socket.
func (f *Flows) Close() error {
	if err := f.conn.Close(); err != nil {
		return fmt.Errorf("closing connection tracking: %w", err)
	}
	return nil
}

// From linux/netfilter/nfnetlink_conntrack.h, and the filter flags of the kernel's
// net/netfilter/nf_conntrack_netlink.c.
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig, ctaTupleReply, ctaID, ctaZone, ctaFilter = 1, 2, 12, 18, 25
	ctaTupleIP                                             = 1
	ctaIPv4Src, ctaIPv6Src                                 = 1, 3
	filterBySource                                         = 1 // CTA_FILTER_F_CTA_IP_SRC
)

// forgetMessage asks the kernel to delete all entries with a, of IPv4, as source of one tuple.
func forgetMessage(tuple uint16, a netip.Addr) (netlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	e.Nested(tuple, func(e *netlink.AttributeEncoder) error {
		e.Nested(ctaTupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(ctaIPv4Src, a.AsSlice())
			return nil
		})
		return nil
	})
	e.Nested(ctaFilter, func(e *netlink.AttributeEncoder) error {
		e.Uint32(tuple, filterBySource) // CTA_FILTER_ORIG_FLAGS and _REPLY_FLAGS are numbered like the tuples
		return nil
	})
	b, err := e.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	// Version 1 is what has the kernel mind the family; with 0 it deletes every family's.
	const version = 1
	return netlink.Message{
		Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{unix.AF_INET, version, 0, 0}, b...),
	}, nil
}
