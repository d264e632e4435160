package main

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// inKernel counts the elements of sets and says which are not as many as they should be:
// what is fast because it is empty proves nothing.
func inKernel(table string, want map[string]int) error {
	for name, n := range want {
		got, err := countElements(table, name)
		if err != nil {
			return fmt.Errorf("counting the elements of %s: %w", name, err)
		}
		if got != n {
			return fmt.Errorf("%d elements in %s, want %d", got, name, n)
		}
	}
	return nil
}

// From linux/netfilter/nf_tables.h.
const (
	setTable = 1  // NFTA_SET_TABLE
	setName  = 2  // NFTA_SET_NAME
	setCount = 20 // NFTA_SET_COUNT, since Linux 6.17
)

// countElements asks for the number alone; a kernel that does not tell it has to list them
// all, which takes seconds.
func countElements(table, name string) (int, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	e := netlink.NewAttributeEncoder()
	e.String(setTable, table)
	e.String(setName, name)
	b, err := e.Encode()
	if err != nil {
		return 0, err
	}
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSET, Flags: netlink.Request},
		Data:   append([]byte{unix.NFPROTO_INET, 0, 0, 0}, b...),
	})
	if err != nil {
		return 0, err
	}
	for _, m := range answers {
		n, ok, err := parseCount(m.Data)
		if err != nil || ok {
			return n, err
		}
	}
	return listElements(table, name)
}

// parseCount finds the number in an answer.
func parseCount(b []byte) (n int, ok bool, err error) {
	if len(b) < 4 {
		return 0, false, fmt.Errorf("an answer of %d bytes", len(b))
	}
	d, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return 0, false, err
	}
	for d.Next() {
		if d.Type() == setCount && len(d.Bytes()) == 4 {
			v := d.Bytes()
			return int(v[0])<<24 | int(v[1])<<16 | int(v[2])<<8 | int(v[3]), true, nil
		}
	}
	return 0, false, d.Err()
}

func listElements(table, name string) (int, error) {
	c, err := nftables.New()
	if err != nil {
		return 0, err
	}
	all, err := c.GetSetElements(&nftables.Set{Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: table}, Name: name})
	return len(all), err
}
