package ssf

import (
	"net/netip"
	"sync"
)

// door bounds how many tokens are read at once, together and of one address. Its zero value
// is ready.
type door struct {
	mu    sync.Mutex
	total int
	by    map[netip.Prefix]int
}

// enter takes a place; nil: there is none. leave gives it back, once.
func (d *door) enter(remote string) (leave func()) {
	from := network(remote)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= doorTotal || d.by[from] >= doorEach {
		return nil
	}
	if d.by == nil {
		d.by = map[netip.Prefix]int{}
	}
	d.total++
	d.by[from]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.total--
		if d.by[from]--; d.by[from] == 0 {
			delete(d.by, from)
		}
	}
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
