package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxForgotten bounds how many entries of an IPv6 address one call deletes; the rest end by
// their own timeouts.
const maxForgotten = 1 << 16

// forget6 is Forget for an IPv6 address. The kernel's filter compares those the wrong way
// round, from Linux 5.8, which has it first, to 6.18 at the least (ctnetlink_filter_match_tuple
// in net/netfilter/nf_conntrack_netlink.c): asked to delete the entries of one, it deletes
// those of all others, and whoever only receives is cut off. So all entries of the family are
// looked through here, one by one, and those of a are deleted by what tells each from all
// others. That takes some 3 us for each entry that there is.
func (f *Flows) forget6(ctx context.Context, a netip.Addr) error {
	if _, err := f.conn.Send(netlink.Message{
		Header: netlink.Header{Type: ctGet, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_INET6, 0, 0, 0},
	}); err != nil {
		return err
	}
	raw := a.AsSlice()
	var found []netlink.Message
	for m, err := range f.conn.ReceiveIter() { // what is left of the answer when this stops is thrown away
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !bytes.Contains(m.Data, raw) { // that is soon told
			continue
		}
		e, err := readEntry(m.Data)
		if err != nil {
			return err
		}
		if e.source != a && e.replySource != a {
			continue
		}
		if found = append(found, e.deletion()); len(found) == maxForgotten {
			break
		}
	}
	for _, m := range found {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := f.conn.Execute(m); err != nil && !errors.Is(err, unix.ENOENT) { // it has ended meanwhile
			return err
		}
	}
	return nil
}

// entry is what is read of an entry of IPv6: where its two directions come from, and the
// attributes that name it.
type entry struct {
	source, replySource netip.Addr
	orig, id, zone      []byte // as the kernel gave them; no zone: the only one
}

// readEntry reads the kernel's message of an entry, from its nfgenmsg on.
func readEntry(b []byte) (e entry, err error) {
	const head = 4 // struct nfgenmsg
	if len(b) < head {
		return e, fmt.Errorf("an entry of %d bytes", len(b))
	}
	d, err := netlink.NewAttributeDecoder(b[head:])
	if err != nil {
		return e, fmt.Errorf("reading an entry: %w", err)
	}
	for d.Next() {
		switch d.Type() {
		case ctaTupleOrig:
			e.orig = d.Bytes()
			e.source, err = sourceOf(e.orig)
		case ctaTupleReply:
			e.replySource, err = sourceOf(d.Bytes())
		case ctaID:
			e.id = d.Bytes()
		case ctaZone:
			e.zone = d.Bytes()
		}
		if err != nil {
			return e, err
		}
	}
	if err := d.Err(); err != nil {
		return e, fmt.Errorf("reading an entry: %w", err)
	}
	if e.orig == nil || e.id == nil {
		return e, errors.New("an entry that nothing names")
	}
	return e, nil
}

// sourceOf returns the source address of a tuple of IPv6; none if it has none.
func sourceOf(tuple []byte) (a netip.Addr, err error) {
	d, err := netlink.NewAttributeDecoder(tuple)
	if err != nil {
		return a, fmt.Errorf("reading a tuple: %w", err)
	}
	for d.Next() {
		if d.Type() == ctaTupleIP {
			d.Nested(func(d *netlink.AttributeDecoder) error {
				for d.Next() {
					if d.Type() == ctaIPv6Src {
						a, _ = netip.AddrFromSlice(d.Bytes())
					}
				}
				return d.Err()
			})
		}
	}
	if err := d.Err(); err != nil {
		return a, fmt.Errorf("reading a tuple: %w", err)
	}
	return a, nil
}

// deletion asks the kernel to delete this entry and no other.
func (e entry) deletion() netlink.Message {
	b := []byte{unix.AF_INET6, 0, 0, 0}
	b = appendBytes(b, ctaTupleOrig|unix.NLA_F_NESTED, e.orig)
	b = appendBytes(b, ctaID, e.id)
	if e.zone != nil {
		b = appendBytes(b, ctaZone, e.zone)
	}
	return netlink.Message{Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge}, Data: b}
}

func appendBytes(b []byte, kind uint16, value []byte) []byte {
	return pad(append(appendAttribute(b, kind, len(value)), value...))
}
