package firewall

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// chunk is how many elements go into one message: far below the 64 KiB of a netlink
// attribute, beyond which the kernel would take a part and report success.
const chunk = 500

const flags = nftables.TableFlagOwner | nftables.TableFlagPersist

var keyTypes = map[kind]nftables.SetDatatype{
	name4: nftables.TypeIPAddr, name6: nftables.TypeIP6Addr, family: nftables.TypeNFProto, mark: nftables.TypeMark,
}

var hooks = map[string]*nftables.ChainHook{
	"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
	"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
}

var priorities = map[string]*nftables.ChainPriority{
	"raw": nftables.ChainPriorityRaw, "filter": nftables.ChainPriorityFilter, "srcnat": nftables.ChainPriorityNATSource,
}

func kernelTable(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet, Flags: flags}
}

// kernel is the set as the library wants it.
func (s set) kernel(t *nftables.Table) *nftables.Set {
	k := &nftables.Set{
		Table: t, Name: s.name, KeyType: keyTypes[s.key], Interval: s.interval,
		IsMap: s.data != "", HasTimeout: s.timeout != 0, Timeout: s.timeout,
		KeyByteOrder: binaryutil.BigEndian,
	}
	if s.key == family || s.key == mark {
		k.KeyByteOrder = binaryutil.NativeEndian
	}
	switch s.data {
	case "mark":
		k.DataType = nftables.TypeMark
	case "verdict":
		k.DataType = nftables.TypeVerdict
	}
	return k
}

// constants are the elements that belong to the ruleset itself.
func (s set) constants() []nftables.SetElement {
	var elements []nftables.SetElement
	for _, p := range s.prefixes {
		elements = append(elements, nftables.SetElement{Key: p.Masked().Addr().AsSlice()},
			nftables.SetElement{Key: after(p).AsSlice(), IntervalEnd: true})
	}
	for _, v := range s.verdicts {
		onward := &expr.Verdict{Kind: expr.VerdictGoto, Chain: v.chain}
		if !s.interval {
			elements = append(elements, nftables.SetElement{Key: native(v.mark), VerdictData: onward})
			continue
		}
		elements = append(elements, nftables.SetElement{Key: v.prefix.Masked().Addr().AsSlice(), VerdictData: onward},
			nftables.SetElement{Key: after(v.prefix).AsSlice(), IntervalEnd: true})
	}
	return elements
}

// after is the first address behind p. Check refuses prefixes that have none.
func after(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	return a.Next()
}

// queue adds elements to the transaction that is being built.
func queue(add func(*nftables.Set, []nftables.SetElement) error, s *nftables.Set, elements []nftables.SetElement) error {
	for len(elements) > 0 {
		n := min(chunk, len(elements))
		if err := add(s, elements[:n]); err != nil {
			return err
		}
		elements = elements[n:]
	}
	return nil
}

// write queues all of l. Sets and chains that exist are left in place and brought up
// to date; rules must have been flushed before. Sets that are made for some elements do not exist.
func (l layout) write(c *nftables.Conn, made rooms) error {
	t := c.AddTable(kernelTable(l.table))
	for _, s := range l.sets {
		k := s.kernel(t)
		if n := made[s.name]; n > 0 {
			if err := makeRoom(c, s.kernel(t), n); err != nil {
				return err
			}
			continue
		}
		if err := c.AddSet(k, nil); err != nil {
			return err
		}
		c.FlushSet(k)
	}
	chains := make([]*nftables.Chain, len(l.chains))
	for i, x := range l.chains {
		chains[i] = c.AddChain(x.kernel(t))
	}
	for _, s := range l.sets {
		if err := queue(c.SetAddElements, s.kernel(t), s.constants()); err != nil {
			return err
		}
	}
	for i, x := range l.chains {
		for _, r := range x.rules {
			if err := r.write(c, t, chains[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x chain) kernel(t *nftables.Table) *nftables.Chain {
	k := &nftables.Chain{Name: x.name, Table: t}
	if x.base == nil {
		return k
	}
	policy := nftables.ChainPolicyAccept
	if x.base.drop {
		policy = nftables.ChainPolicyDrop
	}
	k.Type, k.Hooknum, k.Priority, k.Policy = nftables.ChainType(x.base.kind), hooks[x.base.hook], priorities[x.base.priority], &policy
	return k
}

func (r *rule) write(c *nftables.Conn, t *nftables.Table, in *nftables.Chain) error {
	for _, a := range r.sets {
		s := a.set
		s.Table = t
		var elements []nftables.SetElement
		for _, k := range a.keys {
			elements = append(elements, nftables.SetElement{Key: k})
		}
		if err := c.AddSet(&s, elements); err != nil {
			return err
		}
		a.lookup.SetID, a.lookup.SetName = s.ID, s.Name
	}
	k := &nftables.Rule{Table: t, Chain: in, Exprs: r.exprs}
	if r.comment != "" {
		k.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
	}
	c.AddRule(k)
	return nil
}

// remove queues the removal of every rule of old, and of the chains and verdicts that
// l no longer has. What stays goes on deciding until the commit.
func (l layout) remove(c *nftables.Conn, old layout) {
	t := kernelTable(l.table)
	c.FlushTable(t)
	for _, s := range old.sets {
		if s.data == "verdict" {
			c.FlushSet(s.kernel(t))
		}
	}
	kept := map[string]bool{}
	for _, x := range l.chains {
		kept[x.name] = true
	}
	for _, x := range old.chains {
		if !kept[x.name] {
			c.DelChain(x.kernel(t))
		}
	}
}

// leastElement is what one element takes at least in a message, in bytes: its own attribute's
// header, its key's, the value's, and four bytes of address.
const leastElement = 16

// sendLimit is how many elements are certain not to fit in one transaction, because this
// process may not make its socket's buffer larger than the system's limit; zero where it may,
// and where that could not be found out.
func sendLimit() int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	const wanted = 1 << 28
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, wanted) == nil {
		return 0
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, wanted); err != nil {
		return 0
	}
	most, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return 0
	}
	return most/leastElement + 1
}
