package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Inspect reads everything that nf_tables holds in the calling thread's network namespace,
// save the elements of sets that change by themselves. It needs CAP_NET_ADMIN.
func Inspect() (Found, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return Found{}, fmt.Errorf("inspecting nf_tables: %w", err)
	}
	defer c.Close()
	d := dump{conn: c}
	for range 20 { // each refresh of the data plane's is a new generation
		var f Found
		before, err := d.generation()
		if err == nil {
			f, err = d.all()
		}
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOENT) {
			return Found{}, fmt.Errorf("inspecting nf_tables: %w", err)
		}
		if after, gone := d.generation(); err == nil && gone == nil && before == after {
			return f, nil
		}
	}
	return Found{}, errors.New("inspecting nf_tables: it changed all the while")
}

// dump reads over one socket.
type dump struct{ conn *netlink.Conn }

var familyNames = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev",
}

// object is one thing of a dump: its family, and its attributes by number.
type object struct {
	family byte
	attrs  map[uint16][]byte
}

func (o object) text(n uint16) string { return strings.TrimRight(string(o.attrs[n]), "\x00") }

func (o object) number(n uint16) uint32 {
	if b := o.attrs[n]; len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// table is the table that o belongs to, whose name is always its first attribute.
func (o object) table() string { return familyName(o.family) + " " + o.text(1) }

func familyName(f byte) string {
	if name, ok := familyNames[f]; ok {
		return name
	}
	return fmt.Sprintf("family %d", f)
}

// list asks for all objects of a kind; with attributes, for those that they name.
func (d dump) list(kind uint16, family byte, attrs ...netlink.Attribute) ([]object, error) {
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	replies, err := d.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, body...),
	})
	if err != nil {
		return nil, err
	}
	list := make([]object, 0, len(replies))
	for _, m := range replies {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, unix.EINTR
		}
		if len(m.Data) < 4 {
			return nil, errors.New("a reply is too short")
		}
		attrs, err := attributes(m.Data[4:])
		if err != nil {
			return nil, err
		}
		list = append(list, object{m.Data[0], attrs})
	}
	return list, nil
}

// attributes takes one level of attributes apart. Of several with the same number the last
// one counts, as it does for the kernel.
func attributes(b []byte) (map[uint16][]byte, error) {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	m := map[uint16][]byte{}
	for d.Next() {
		m[d.Type()] = d.Bytes()
	}
	return m, d.Err()
}

// items takes a list of attributes apart whose numbers say nothing.
func items(b []byte) ([]map[uint16][]byte, error) {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	var list []map[uint16][]byte
	for d.Next() {
		m, err := attributes(d.Bytes())
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, d.Err()
}

func (d dump) generation() (uint32, error) {
	replies, err := d.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, err
	}
	for _, m := range replies {
		if len(m.Data) > 4 {
			attrs, err := attributes(m.Data[4:])
			return object{0, attrs}.number(unix.NFTA_GEN_ID), err
		}
	}
	return 0, errors.New("no generation was told")
}

// all reads everything once.
func (d dump) all() (Found, error) {
	var f Found
	tables := map[string]*FoundTable{}
	list, err := d.list(unix.NFT_MSG_GETTABLE, unix.AF_UNSPEC)
	if err != nil {
		return f, fmt.Errorf("listing tables: %w", err)
	}
	for _, o := range list {
		tables[o.table()] = &FoundTable{
			Family: familyName(o.family), Name: o.text(1), Flags: o.number(unix.NFTA_TABLE_FLAGS), Owner: o.number(tableOwner),
			Sets: map[string][]byte{}, Content: map[string][]string{},
		}
	}
	anonymous, err := d.sets(tables)
	if err == nil {
		err = d.chains(tables)
	}
	if err == nil {
		err = d.rules(tables, anonymous)
	}
	if err != nil {
		return f, err
	}
	for _, o := range list {
		f.Tables = append(f.Tables, *tables[o.table()])
	}
	flowtables, err := d.list(unix.NFT_MSG_GETFLOWTABLE, unix.AF_UNSPEC)
	if err != nil {
		return f, fmt.Errorf("listing flowtables: %w", err)
	}
	for _, o := range flowtables {
		f.Flowtables = append(f.Flowtables, o.table()+" "+o.text(2))
	}
	objects, err := d.list(unix.NFT_MSG_GETOBJ, unix.AF_UNSPEC)
	if err != nil {
		return f, fmt.Errorf("listing objects: %w", err)
	}
	for _, o := range objects {
		f.Objects = append(f.Objects, fmt.Sprintf("%s %s (type %d)", o.table(), o.text(unix.NFTA_OBJ_NAME), o.number(unix.NFTA_OBJ_TYPE)))
	}
	return f, nil
}

// From linux/netfilter/nf_tables.h, where x/sys lacks them.
const (
	tableOwner = 7 // NFTA_TABLE_OWNER
	setTimeout = 1 << 4
	setAnon    = 1 << 0
	setMap     = 1 << 3
	setRange   = 1 << 2
)

// defining are the attributes of a set that its writer chose.
var defining = []uint16{
	unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN,
	unix.NFTA_SET_POLICY, unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_USERDATA, unix.NFTA_SET_OBJ_TYPE,
}

// sets reads the sets, and the elements of those that are part of the ruleset: maps of
// verdicts, intervals, and anonymous sets, whose elements it returns by table and name.
func (d dump) sets(tables map[string]*FoundTable) (map[string][]setElement, error) {
	list, err := d.list(unix.NFT_MSG_GETSET, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("listing sets: %w", err)
	}
	anonymous := map[string][]setElement{}
	for _, o := range list {
		t, name, flags := tables[o.table()], o.text(unix.NFTA_SET_NAME), o.number(unix.NFTA_SET_FLAGS)
		if t == nil {
			return nil, unix.EINTR
		}
		constant := flags&setTimeout == 0 && (flags&(setMap|setRange|setAnon) != 0)
		var content []setElement
		if constant {
			if content, err = d.elements(o.family, o.text(1), name); err != nil {
				return nil, fmt.Errorf("listing the elements of %s in %s: %w", name, o.table(), err)
			}
		}
		if flags&setAnon != 0 {
			anonymous[o.table()+" "+name] = content
			continue
		}
		t.Sets[name] = o.chosen(defining)
		if constant {
			t.Content[name] = contentText(content)
		}
	}
	return anonymous, nil
}

// chosen is the given attributes, one after the other, with their numbers and lengths.
func (o object) chosen(numbers []uint16) []byte {
	var b []byte
	for _, n := range numbers {
		if v, ok := o.attrs[n]; ok {
			b = binary.BigEndian.AppendUint16(b, n)
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		}
	}
	return b
}

// setElement is one element, as far as its writer chose it.
type setElement struct {
	key   []byte
	bytes []byte
}

func contentText(list []setElement) []string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = string(e.bytes)
	}
	slices.Sort(out)
	return out
}

func (d dump) elements(family byte, table, set string) ([]setElement, error) {
	list, err := d.list(unix.NFT_MSG_GETSETELEM, family,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(table), 0)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)})
	if err != nil {
		return nil, err
	}
	var out []setElement
	for _, o := range list {
		elements, err := items(o.attrs[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			x := setElement{bytes: object{0, e}.chosen([]uint16{unix.NFTA_SET_ELEM_KEY, unix.NFTA_SET_ELEM_DATA, unix.NFTA_SET_ELEM_FLAGS, 10})} // 10: NFTA_SET_ELEM_KEY_END
			if key, err := attributes(e[unix.NFTA_SET_ELEM_KEY]); err == nil {
				x.key = key[unix.NFTA_DATA_VALUE]
			}
			out = append(out, x)
		}
	}
	return out, nil
}

var hookNames = map[bool][]string{
	false: {"prerouting", "input", "forward", "output", "postrouting", "ingress"},
	true:  {"ingress", "egress"}, // netdev
}

func (d dump) chains(tables map[string]*FoundTable) error {
	list, err := d.list(unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("listing chains: %w", err)
	}
	for _, o := range list {
		t := tables[o.table()]
		if t == nil {
			return unix.EINTR
		}
		c := FoundChain{Name: o.text(unix.NFTA_CHAIN_NAME), Type: o.text(unix.NFTA_CHAIN_TYPE)}
		if hook, ok := o.attrs[unix.NFTA_CHAIN_HOOK]; ok {
			h, err := attributes(hook)
			if err != nil {
				return err
			}
			at := object{0, h}
			c.Hook, c.Priority = fmt.Sprintf("number %d", at.number(unix.NFTA_HOOK_HOOKNUM)), int32(at.number(unix.NFTA_HOOK_PRIORITY))
			if names := hookNames[o.family == unix.NFPROTO_NETDEV]; int(at.number(unix.NFTA_HOOK_HOOKNUM)) < len(names) {
				c.Hook = names[at.number(unix.NFTA_HOOK_HOOKNUM)]
			}
			_, policy := o.attrs[unix.NFTA_CHAIN_POLICY]
			c.Drop = policy && o.number(unix.NFTA_CHAIN_POLICY) == 0 // NF_DROP
		}
		t.Chains = append(t.Chains, c)
	}
	return nil
}

func (d dump) rules(tables map[string]*FoundTable, anonymous map[string][]setElement) error {
	list, err := d.list(unix.NFT_MSG_GETRULE, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("listing rules: %w", err)
	}
	for _, o := range list {
		t := tables[o.table()]
		if t == nil {
			return unix.EINTR
		}
		i := slices.IndexFunc(t.Chains, func(c FoundChain) bool { return c.Name == o.text(unix.NFTA_RULE_CHAIN) })
		if i < 0 {
			return unix.EINTR
		}
		expressions, err := items(o.attrs[unix.NFTA_RULE_EXPRESSIONS])
		if err != nil {
			return err
		}
		r, err := readRule(expressions, o.attrs[unix.NFTA_RULE_USERDATA], func(set string) []setElement { return anonymous[o.table()+" "+set] })
		if err != nil {
			return err
		}
		t.Chains[i].Rules = append(t.Chains[i].Rules, r)
	}
	return nil
}
