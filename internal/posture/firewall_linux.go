package posture

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// firewallOf reads chains and rules of nf_tables from the kernel, which needs CAP_NET_ADMIN.
// It sees what nft, firewalld, ufw and today's iptables set up.
func firewallOf(root fs.FS) func(context.Context) (map[string]string, error) {
	return func(ctx context.Context) (map[string]string, error) {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return nil, fmt.Errorf("asking nf_tables: %w", err)
		}
		defer c.Close()
		if deadline, ok := ctx.Deadline(); ok {
			if err := c.SetDeadline(deadline); err != nil {
				return nil, fmt.Errorf("asking nf_tables: %w", err)
			}
		}
		chains, err := chainsOf(c)
		if err != nil {
			return nil, fmt.Errorf("asking nf_tables for its chains: %w", err)
		}
		rules, err := rulesOf(c)
		if err != nil {
			return nil, fmt.Errorf("asking nf_tables for its rules: %w", err)
		}
		legacy := strings.Fields(readWord(root, "proc/net/ip_tables_names") + "\n" + readWord(root, "proc/net/ip6_tables_names"))
		return firewallFact(chains, rules, legacy)
	}
}

var familyNames = map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}

// dumpOf asks for all objects of a kind and hands each over with its family's name.
func dumpOf(c *netlink.Conn, kind uint16, each func(family string, a *netlink.AttributeDecoder)) error {
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return err
	}
	for _, m := range replies {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return unix.EINTR
		}
		if len(m.Data) < 4 {
			return fmt.Errorf("a reply of %d bytes", len(m.Data))
		}
		family, ours := familyNames[m.Data[0]]
		if !ours {
			continue
		}
		a, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		a.ByteOrder = binary.BigEndian
		each(family, a)
		if err := a.Err(); err != nil {
			return err
		}
	}
	return nil
}

func chainsOf(c *netlink.Conn) (all []chain, err error) {
	err = dumpOf(c, unix.NFT_MSG_GETCHAIN, func(family string, a *netlink.AttributeDecoder) {
		out, filters := chain{family: family}, false
		for a.Next() {
			switch a.Type() {
			case unix.NFTA_CHAIN_TABLE:
				out.table = a.String()
			case unix.NFTA_CHAIN_NAME:
				out.name = a.String()
			case unix.NFTA_CHAIN_TYPE:
				filters = a.String() == "filter"
			case unix.NFTA_CHAIN_POLICY:
				out.drops = a.Uint32() == 0 // NF_DROP
			case unix.NFTA_CHAIN_HOOK:
				a.Nested(func(h *netlink.AttributeDecoder) error {
					for h.Next() {
						if h.Type() == unix.NFTA_HOOK_HOOKNUM {
							out.input = h.Uint32() == unix.NF_INET_LOCAL_IN
						}
					}
					return nil
				})
			}
		}
		out.input = out.input && filters
		all = append(all, out)
	})
	return all, err
}

func rulesOf(c *netlink.Conn) (all []rule, err error) {
	err = dumpOf(c, unix.NFT_MSG_GETRULE, func(family string, a *netlink.AttributeDecoder) {
		out := rule{family: family}
		for a.Next() {
			switch a.Type() {
			case unix.NFTA_RULE_TABLE:
				out.table = a.String()
			case unix.NFTA_RULE_CHAIN:
				out.chain = a.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				a.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(e *netlink.AttributeDecoder) error {
							out.parts = append(out.parts, partOf(e))
							return nil
						})
					}
					return nil
				})
			}
		}
		all = append(all, out)
	})
	return all, err
}

// dropped is the data of an immediate expression whose verdict is "drop": attribute
// NFTA_DATA_VERDICT in NFTA_IMMEDIATE_DATA, in it NFTA_VERDICT_CODE 0 (NF_DROP).
var dropped = []byte{0, 0, 0, 0}

func partOf(e *netlink.AttributeDecoder) (p part) {
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_EXPR_NAME:
			p.kind = e.String()
		case unix.NFTA_EXPR_DATA:
			if p.kind == "immediate" {
				p.drop = verdict(e, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CODE)
			}
		}
	}
	return p
}

// verdict follows nested attributes by number to a verdict and says whether it is "drop".
func verdict(a *netlink.AttributeDecoder, way ...uint16) (drop bool) {
	a.Nested(func(in *netlink.AttributeDecoder) error {
		for in.Next() {
			switch {
			case in.Type() != way[0]:
			case len(way) == 1:
				drop = bytes.Equal(in.Bytes(), dropped)
			default:
				drop = verdict(in, way[1:]...)
			}
		}
		return nil
	})
	return drop
}
