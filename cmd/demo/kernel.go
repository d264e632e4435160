package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"lazaret/internal/testnet"
)

// The demo asks the kernel itself what the firewall holds and when it changed, by
// netlink messages of its own: a witness that shares no code with what it watches.

// Attributes of nftables messages, from linux/netfilter/nf_tables.h.
const (
	attrListTable     = 1
	attrListSet       = 2
	attrListElements  = 3
	attrElementKey    = 1
	attrElementExpiry = 5 // milliseconds
	attrDataValue     = 1
)

// nftMessage is the type of an nftables message.
func nftMessage(t uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | t)
}

// commit is one transaction of the kernel's, as seen right after it.
type commit struct {
	At      testnet.Stamp `json:"at"`
	Removed []string      `json:"removed,omitempty"` // "set key" of each element
	Added   []string      `json:"added,omitempty"`
}

// runWatch reports every transaction that touches elements of @routed or @quarantined.
func runWatch(ctx context.Context, _ []string) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer c.Close()
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("following nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // ends Receive
	defer stop()
	ready()
	var now commit
	for {
		messages, err := c.Receive()
		at := testnet.Now()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("following nftables: %w", err)
		}
		for _, m := range messages {
			if err := now.take(m); err != nil {
				return err
			}
			if m.Header.Type != nftMessage(unix.NFT_MSG_NEWGEN) {
				continue
			}
			now.At = at
			if len(now.Removed)+len(now.Added) > 0 {
				if err := testnet.Report(now); err != nil {
					return err
				}
			}
			now = commit{}
		}
	}
}

// take notes what one message tells of the transaction.
func (c *commit) take(m netlink.Message) error {
	list := &c.Added
	switch m.Header.Type {
	case nftMessage(unix.NFT_MSG_NEWSETELEM):
	case nftMessage(unix.NFT_MSG_DELSETELEM):
		list = &c.Removed
	default:
		return nil
	}
	set, elements, err := readElements(m.Data)
	if err != nil || !strings.HasPrefix(set, "routed") && !strings.HasPrefix(set, "quarantined") {
		return err
	}
	for _, e := range elements {
		a, _ := netip.AddrFromSlice(e.key)
		*list = append(*list, set+" "+a.String())
	}
	return nil
}

// element is one element of a set. left is zero for one that has no timeout.
type element struct {
	key  []byte
	left time.Duration
}

// readElements reads a message that lists elements, behind its nfgenmsg.
func readElements(b []byte) (set string, out []element, err error) {
	if len(b) < 4 {
		return "", nil, errors.New("reading elements: short message")
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return "", nil, fmt.Errorf("reading elements: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case attrListSet:
			set = ad.String()
		case attrListElements:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				list.ByteOrder = binary.BigEndian
				for list.Next() {
					list.Nested(func(one *netlink.AttributeDecoder) error {
						e, err := readElement(one)
						out = append(out, e)
						return err
					})
				}
				return list.Err()
			})
		}
	}
	return set, out, ad.Err()
}

func readElement(ad *netlink.AttributeDecoder) (e element, err error) {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case attrElementExpiry:
			e.left = time.Duration(ad.Uint64()) * time.Millisecond
		case attrElementKey:
			ad.Nested(func(data *netlink.AttributeDecoder) error {
				for data.Next() {
					if data.Type() == attrDataValue {
						e.key = slices.Clone(data.Bytes())
					}
				}
				return data.Err()
			})
		}
	}
	return e, ad.Err()
}

// held is one element as runElements reports it.
type held struct {
	Key  string        `json:"key"` // an address, or a family
	Left time.Duration `json:"left"`
}

// elements is what the named sets held, and when they were asked.
type elements struct {
	At   testnet.Stamp     `json:"at"`
	Sets map[string][]held `json:"sets"`
}

// runElements reports what sets of the gateway's table hold; the arguments are their names.
func runElements(_ context.Context, args []string) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer c.Close()
	out := elements{At: testnet.Now(), Sets: map[string][]held{}}
	for _, set := range args {
		if out.Sets[set], err = dump(c, set); err != nil {
			return fmt.Errorf("asking what %s holds: %w", set, err)
		}
	}
	return testnet.Report(out)
}

func dump(c *netlink.Conn, set string) ([]held, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(attrListTable, "lazaret")
	ae.String(attrListSet, set)
	b, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	messages, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: nftMessage(unix.NFT_MSG_GETSETELEM), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, b...),
	})
	if err != nil {
		return nil, err
	}
	list := []held{}
	for _, m := range messages {
		_, elements, err := readElements(m.Data)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			key := map[string]string{"\x02": "ipv4", "\x0a": "ipv6"}[string(e.key)]
			if a, ok := netip.AddrFromSlice(e.key); ok {
				key = a.String()
			}
			list = append(list, held{key, e.left})
		}
	}
	return list, nil
}
