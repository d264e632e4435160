// Package door bounds how many messages of strangers are read at once, together and of one
// address: each takes memory before anything is known of who sent it.
package door

import (
	"net/netip"
	"sync"
)

// Door has places for messages that are being read. Without bounds it lets nobody in.
type Door struct {
	Total int // required: places in all
	Each  int // required: of one IPv4 address, or one IPv6 /64

	mu   sync.Mutex
	held int
	by   map[netip.Prefix]int
}

// Enter takes a place for a remote address with its port; nil: there is none. leave gives it
// back, once.
func (d *Door) Enter(remote string) (leave func()) {
	from := network(remote)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held >= d.Total || d.by[from] >= d.Each {
		return nil
	}
	if d.by == nil {
		d.by = map[netip.Prefix]int{}
	}
	d.held++
	d.by[from]++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held--
		if d.by[from]--; d.by[from] == 0 {
			delete(d.by, from)
		}
	})
}

// Held is how many places are taken, and by how many addresses.
func (d *Door) Held() (places, addresses int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held, len(d.by)
}

// network is who counts as one: an IPv4 address or an IPv6 /64; those that cannot be read
// count together.
func network(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	a, bits := at.Addr().Unmap().WithZone(""), 64
	if a.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(a, bits).Masked()
}
