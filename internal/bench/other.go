package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"lazaret/quarantine"
)

// other is a table that is not the product's: what everything is compared with, and the
// ways that were not taken. One chain decides on every forwarded packet.
type other struct {
	conn    *nftables.Conn
	dial    bool // open a connection for each change
	table   *nftables.Table
	forward *nftables.Chain
	addrs   []netip.Addr

	set     *nftables.Set // the verdict map, or the set of the routed
	away    *nftables.Set
	handles []uint64 // of each device's rule
	change  func(c *nftables.Conn, i int, away bool) error
}

// most is how many elements go into one message.
const most = 1000

// newOther queues the table, its chain, and the rules that all of them have: no packet that
// connection tracking finds invalid, answers to devices, and quarantine by prefix.
func newOther(n int) (*other, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	o := &other{conn: c, table: c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "other"})}
	drop := nftables.ChainPolicyDrop
	o.forward = c.AddChain(&nftables.Chain{Name: "forward", Table: o.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop})
	o.rule(o.forward, expr.VerdictDrop, state(expr.CtStateBitINVALID)...)
	o.rule(o.forward, expr.VerdictAccept, append(via(expr.MetaKeyOIFNAME), state(expr.CtStateBitESTABLISHED)...)...)
	for i := range n {
		a, _, err := moverPools()[fullPool].Address(quarantine.Seat(i + 1))
		if err != nil {
			return nil, err
		}
		o.addrs = append(o.addrs, a)
	}
	return o, nil
}

// quarantined queues the rule for the quarantined, which names no device.
func (o *other) quarantined() {
	p := moverPools()["quarantine"].IPv4
	o.rule(o.forward, expr.VerdictAccept, append(saddr(p), daddr(quarantinedTarget.Addr())...)...)
}

func (o *other) rule(in *nftables.Chain, k expr.VerdictKind, match ...expr.Any) {
	o.conn.AddRule(&nftables.Rule{Table: o.table, Chain: in, Exprs: append(match, &expr.Verdict{Kind: k})})
}

func (o *other) move(i int, away bool) error {
	if !o.dial {
		return o.apply(o.conn, i, away)
	}
	c, err := nftables.New(nftables.AsLasting()) // closed right after the change
	if err != nil {
		return err
	}
	return errors.Join(o.apply(c, i, away), c.CloseLasting())
}

func (o *other) apply(c *nftables.Conn, i int, away bool) error {
	if err := o.change(c, i, away); err != nil {
		return err
	}
	return c.Flush()
}

func (o *other) close() error {
	o.conn.DelTable(o.table)
	return errors.Join(o.conn.Flush(), o.conn.CloseLasting())
}

// loadTracking is connection tracking alone: what anything with state costs.
func loadTracking(int) (rules, error) {
	o, err := newOther(0)
	if err != nil {
		return nil, err
	}
	o.rule(o.forward, expr.VerdictAccept, append(via(expr.MetaKeyIIFNAME), state(expr.CtStateBitNEW|expr.CtStateBitESTABLISHED)...)...)
	o.change = func(*nftables.Conn, int, bool) error { return errors.New("connection tracking has no devices") }
	return o, o.conn.Flush()
}

// loadEach has a rule for each device.
func loadEach(n int) (rules, error) {
	o, err := newOther(n)
	if err != nil {
		return nil, err
	}
	o.quarantined()
	fixed := 3
	if err := o.conn.Flush(); err != nil {
		return nil, err
	}
	for i, a := range o.addrs {
		o.rule(o.forward, expr.VerdictAccept, saddr(netip.PrefixFrom(a, 32))...)
		if i%100 == 99 || i == n-1 {
			if err := o.conn.Flush(); err != nil {
				return nil, err
			}
		}
	}
	all, err := o.conn.GetRules(o.table, o.forward)
	if err != nil {
		return nil, err
	}
	if len(all) != n+fixed {
		return nil, fmt.Errorf("%d rules in the kernel, want %d", len(all), n+fixed)
	}
	for _, r := range all[fixed:] {
		o.handles = append(o.handles, r.Handle)
	}
	next := 0
	o.change = func(c *nftables.Conn, i int, _ bool) error {
		// A new rule's number is known only from a dump: each old one is used once. The new
		// rule lets the device pass too, since it is the change that is timed.
		if next == len(o.handles) {
			return errors.New("no rule is left whose number is known")
		}
		if err := c.DelRule(&nftables.Rule{Table: o.table, Chain: o.forward, Handle: o.handles[next]}); err != nil {
			return err
		}
		o.rule(o.forward, expr.VerdictAccept, saddr(netip.PrefixFrom(o.addrs[next], 32))...)
		next++
		return nil
	}
	return o, nil
}

// loadMap has one map from address to the chain that decides.
func loadMap(n int) (rules, error) {
	o, err := newOther(n)
	if err != nil {
		return nil, err
	}
	chains := map[bool]*nftables.Chain{false: o.conn.AddChain(&nftables.Chain{Name: "full", Table: o.table}),
		true: o.conn.AddChain(&nftables.Chain{Name: "away", Table: o.table})}
	o.rule(chains[false], expr.VerdictAccept)
	o.rule(chains[true], expr.VerdictAccept, daddr(quarantinedTarget.Addr())...)
	o.set = &nftables.Set{Table: o.table, Name: "placed", KeyType: nftables.TypeIPAddr, IsMap: true, DataType: nftables.TypeVerdict}
	if err := o.conn.AddSet(o.set, nil); err != nil {
		return nil, err
	}
	element := func(i int, away bool) nftables.SetElement {
		return nftables.SetElement{Key: o.addrs[i].AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chains[away].Name}}
	}
	match := append(four(), from4(), &expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: o.set.Name, SetID: o.set.ID})
	o.conn.AddRule(&nftables.Rule{Table: o.table, Chain: o.forward, Exprs: match})
	o.quarantined()
	if err := o.load(o.set, func(i int) nftables.SetElement { return element(i, false) }); err != nil {
		return nil, err
	}
	o.change = func(c *nftables.Conn, i int, away bool) error {
		return errors.Join(c.SetDeleteElements(o.set, []nftables.SetElement{element(i, !away)}), c.SetAddElements(o.set, []nftables.SetElement{element(i, away)}))
	}
	return o, inKernel(o.table.Name, map[string]int{o.set.Name: n})
}

// loadPlain is the same sets as the product's in a table that belongs to nobody, which any
// connection may change.
func loadPlain(n int, dial bool) (rules, error) {
	o, err := newOther(n)
	if err != nil {
		return nil, err
	}
	o.dial = dial
	o.set = &nftables.Set{Table: o.table, Name: "routed", KeyType: nftables.TypeIPAddr}
	o.away = &nftables.Set{Table: o.table, Name: "away", KeyType: nftables.TypeIPAddr}
	if err := errors.Join(o.conn.AddSet(o.set, nil), o.conn.AddSet(o.away, nil)); err != nil {
		return nil, err
	}
	o.rule(o.forward, expr.VerdictAccept, append(four(), from4(), &expr.Lookup{SourceRegister: 1, SetName: o.set.Name, SetID: o.set.ID})...)
	o.quarantined()
	element := func(i int) []nftables.SetElement { return []nftables.SetElement{{Key: o.addrs[i].AsSlice()}} }
	if err := o.load(o.set, func(i int) nftables.SetElement { return element(i)[0] }); err != nil {
		return nil, err
	}
	o.change = func(c *nftables.Conn, i int, away bool) error {
		from, to := o.set, o.away
		if !away {
			from, to = to, from
		}
		return errors.Join(c.SetDeleteElements(from, element(i)), c.SetAddElements(to, element(i)))
	}
	return o, inKernel(o.table.Name, map[string]int{o.set.Name: n})
}

// load commits what is queued, and then an element for each device.
func (o *other) load(s *nftables.Set, element func(i int) nftables.SetElement) error {
	if err := o.conn.Flush(); err != nil {
		return err
	}
	for i := 0; i < len(o.addrs); i += most {
		var part []nftables.SetElement
		for k := i; k < min(i+most, len(o.addrs)); k++ {
			part = append(part, element(k))
		}
		if err := errors.Join(o.conn.SetAddElements(s, part), o.conn.Flush()); err != nil {
			return err
		}
	}
	return nil
}

// The expressions of these rules.

func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// via matches the tunnel's side.
func via(key expr.MetaKey) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, tunnelName)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}}
}

func four() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}}}
}

func from4() expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

func saddr(p netip.Prefix) []expr.Any {
	match := append(four(), from4())
	data := p.Masked().Addr().As4()
	if p.Bits() < 32 {
		mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
		match = append(match, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(match, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data[:]})
}

func daddr(a netip.Addr) []expr.Any {
	return append(four(), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()})
}
