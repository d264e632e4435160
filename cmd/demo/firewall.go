package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Tables of dev1's own. Each has one chain of one rule, for what comes in.
const (
	ownTable  = "laptop" // its firewall
	deafTable = "deaf"   // keeps the gateway's word from its agent
)

// agentPort is the port of the gateway's API for agents.
const agentPort = 8444

// runFirewall turns a table of the device's own on or off, as its user would, with a real
// table in the kernel. The arguments are the table's name, and "on" or "off".
func runFirewall(_ context.Context, args []string) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	parts := []nftPart{{unix.NFT_MSG_DELTABLE, 0, attrs{{unix.NFTA_TABLE_NAME, args[0]}}}}
	switch {
	case args[1] == "on" && args[0] == deafTable:
		parts = deafOn()
	case args[1] == "on":
		parts = firewallOn()
	}
	messages := []netlink.Message{batchEdge(unix.NFNL_MSG_BATCH_BEGIN)}
	for _, p := range parts {
		b, err := p.attrs.encode()
		if err != nil {
			return fmt.Errorf("writing a message: %w", err)
		}
		messages = append(messages, netlink.Message{
			Header: netlink.Header{Type: nftMessage(p.kind), Flags: netlink.Request | netlink.Acknowledge | p.flags},
			Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, b...),
		})
	}
	if _, err := c.SendMessages(append(messages, batchEdge(unix.NFNL_MSG_BATCH_END))); err != nil {
		return fmt.Errorf("setting the firewall: %w", err)
	}
	for range parts {
		if _, err := c.Receive(); err != nil {
			return fmt.Errorf("setting the firewall: %w", err)
		}
	}
	ready()
	return nil
}

// firewallOn are the messages that make this, as nft would print it: what comes in is
// dropped unless it answers what went out.
//
//	table inet laptop {
//		chain input {
//			type filter hook input priority filter; policy drop;
//			ct state established,related accept
//		}
//	}
func firewallOn() []nftPart {
	states := binary.NativeEndian.AppendUint32(nil, 1<<1|1<<2) // NF_CT_STATE_BIT of established and of related
	zero := make([]byte, 4)
	return inputTable(ownTable, nfDrop, slices.Concat(
		expression("ct", attrs{{unix.NFTA_CT_DREG, nftRegister}, {unix.NFTA_CT_KEY, uint32(unix.NFT_CT_STATE)}}),
		expression("bitwise", attrs{{unix.NFTA_BITWISE_SREG, nftRegister}, {unix.NFTA_BITWISE_DREG, nftRegister},
			{unix.NFTA_BITWISE_LEN, uint32(4)}, {unix.NFTA_BITWISE_MASK, nftValue(states)}, {unix.NFTA_BITWISE_XOR, nftValue(zero)}}),
		compare(unix.NFT_CMP_NEQ, zero),
		verdict(nfAccept),
	))
}

// deafOn are the messages that make this: nothing comes in from the gateway's API for agents.
//
//	table inet deaf {
//		chain input {
//			type filter hook input priority filter; policy accept;
//			tcp sport 8444 drop
//		}
//	}
func deafOn() []nftPart {
	return inputTable(deafTable, nfAccept, slices.Concat(
		expression("meta", attrs{{unix.NFTA_META_DREG, nftRegister}, {unix.NFTA_META_KEY, uint32(unix.NFT_META_L4PROTO)}}),
		compare(unix.NFT_CMP_EQ, []byte{unix.IPPROTO_TCP}),
		expression("payload", attrs{{unix.NFTA_PAYLOAD_DREG, nftRegister}, {unix.NFTA_PAYLOAD_BASE, uint32(unix.NFT_PAYLOAD_TRANSPORT_HEADER)},
			{unix.NFTA_PAYLOAD_OFFSET, uint32(0)}, {unix.NFTA_PAYLOAD_LEN, uint32(2)}}), // the source port (RFC 9293 section 3.1)
		compare(unix.NFT_CMP_EQ, binary.BigEndian.AppendUint16(nil, agentPort)),
		verdict(nfDrop),
	))
}

// inputTable makes a table with a chain for what comes in, its policy and one rule.
func inputTable(table string, policy uint32, rule attrs) []nftPart {
	const chain, anew = "input", netlink.Create
	return []nftPart{
		{unix.NFT_MSG_NEWTABLE, anew, attrs{{unix.NFTA_TABLE_NAME, table}}},
		{unix.NFT_MSG_NEWCHAIN, anew, attrs{{unix.NFTA_CHAIN_TABLE, table}, {unix.NFTA_CHAIN_NAME, chain},
			{unix.NFTA_CHAIN_HOOK, attrs{{unix.NFTA_HOOK_HOOKNUM, uint32(unix.NF_INET_LOCAL_IN)}, {unix.NFTA_HOOK_PRIORITY, uint32(0)}}},
			{unix.NFTA_CHAIN_POLICY, policy}, {unix.NFTA_CHAIN_TYPE, "filter"}}},
		{unix.NFT_MSG_NEWRULE, anew | netlink.Append, attrs{{unix.NFTA_RULE_TABLE, table}, {unix.NFTA_RULE_CHAIN, chain}, {unix.NFTA_RULE_EXPRESSIONS, rule}}},
	}
}

// nftRegister is what the expressions of a rule hand their values on in.
const nftRegister = uint32(unix.NFT_REG_1)

func nftValue(b []byte) attrs { return attrs{{unix.NFTA_DATA_VALUE, b}} }

func expression(name string, a attrs) attrs {
	return attrs{{unix.NFTA_LIST_ELEM, attrs{{unix.NFTA_EXPR_NAME, name}, {unix.NFTA_EXPR_DATA, a}}}}
}

func compare(op uint32, with []byte) attrs {
	return expression("cmp", attrs{{unix.NFTA_CMP_SREG, nftRegister}, {unix.NFTA_CMP_OP, op}, {unix.NFTA_CMP_DATA, nftValue(with)}})
}

func verdict(code uint32) attrs {
	return expression("immediate", attrs{{unix.NFTA_IMMEDIATE_DREG, uint32(unix.NFT_REG_VERDICT)},
		{unix.NFTA_IMMEDIATE_DATA, attrs{{unix.NFTA_DATA_VERDICT, attrs{{unix.NFTA_VERDICT_CODE, code}}}}}})
}

// Verdicts, from linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// nftPart is one message of a transaction.
type nftPart struct {
	kind  uint16
	flags netlink.HeaderFlags
	attrs attrs
}

// attrs are attributes in order: values are text, uint32, bytes, or attrs.
type attrs []struct {
	kind  uint16
	value any
}

func (l attrs) encode() ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	for _, a := range l {
		switch v := a.value.(type) {
		case string:
			e.String(a.kind, v)
		case uint32:
			e.Uint32(a.kind, v)
		case []byte:
			e.Bytes(a.kind, v)
		case attrs:
			e.Do(netlink.Nested|a.kind, v.encode)
		}
	}
	return e.Encode()
}

func batchEdge(kind uint16) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}
