package chaos

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/firewall"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

// failure is a refusal of the kernel's: the next call of that name fails, before anything
// or after everything was done.
type failure struct {
	Call  string
	Errno unix.Errno
	After bool
	Times int
}

type failures struct {
	mu  sync.Mutex
	one failure
	hit int
}

func (f *failures) next(one *failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one != nil {
		f.one, f.hit = *one, 0
	}
}

// failed is the answer to an order: how often the failure was met.
type failed struct {
	Hit, Shrunk int
	Err         string
}

func (f *failures) met() failed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return failed{Hit: f.hit}
}

func (f *failures) due(call string) (failure, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.one.Call != call || f.hit >= f.one.Times {
		return failure{}, false
	}
	f.hit++
	return f.one, true
}

// table fails as the firewall's writer does: after an error nothing is certain.
func (f *failures) table(call string, do func() error) error {
	one, due := f.due(call)
	if !due {
		return do()
	}
	err := fmt.Errorf("%s: %w: %w", call, firewall.ErrDoubt, one.Errno)
	if one.After {
		_ = do()
	}
	return err
}

func (f *failures) link(call string, do func() error) error {
	one, due := f.due(call)
	if !due {
		return do()
	}
	if one.After {
		_ = do()
	}
	return fmt.Errorf("%s: %w", call, one.Errno)
}

type failingTable struct {
	dataplane.Table
	*failures
}

func (t failingTable) Adopt(r firewall.Ruleset) error {
	return t.table("adopt", func() error { return t.Table.Adopt(r) })
}

func (t failingTable) Fill(r firewall.Ruleset, e firewall.Elements) error {
	return t.table("fill", func() error { return t.Table.Fill(r, e) })
}

func (t failingTable) Apply(c firewall.Change) error {
	return t.table("apply", func() error { return t.Table.Apply(c) })
}

func (t failingTable) Refresh(fresh, alive firewall.Deadline) error {
	return t.table("refresh", func() error { return t.Table.Refresh(fresh, alive) })
}

func (t failingTable) Verify() error { return t.table("verify", t.Table.Verify) }

type failingLink struct {
	dataplane.Link
	*failures
}

func (l failingLink) Apply(c []tunnel.PeerChange) error {
	return l.link("peers", func() error { return l.Link.Apply(c) })
}

func (l failingLink) Peers() (out []tunnel.PeerStatus, err error) {
	err = l.link("read peers", func() (err error) { out, err = l.Link.Peers(); return err })
	return out, err
}

func (l failingLink) SetAddresses(own []netip.Prefix) error {
	return l.link("addresses", func() error { return l.Link.SetAddresses(own) })
}

// shrinking leaves this process's nftables sockets next to no room for answers, again and
// again for a while, since the library makes room before each transaction.
func shrinking(d time.Duration) failed {
	out := shrink()
	go func() { // ends by itself
		for end := time.Now().Add(d); time.Now().Before(end); {
			shrink()
		}
	}()
	return out
}

func shrink() (out failed) {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return out
	}
	for _, entry := range all {
		fd, _ := strconv.Atoi(entry.Name())
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		protocol, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil || err2 != nil || domain != unix.AF_NETLINK || protocol != unix.NETLINK_NETFILTER {
			continue
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) == nil {
			out.Shrunk++
		}
	}
	return out
}
