package network

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"lazaret/internal/form"
)

// Numbers of rtnetlink that golang.org/x/sys does not have.
const (
	newUserOption   = 68 // RTM_NEWNDUSEROPT
	groupUserOption = 20 // RTNLGRP_ND_USEROPT
	optionRDNSS     = 25 // RFC 8106
	optionDNSSL     = 31
	userOptionSize  = 16 // struct nduseroptmsg
	maxAdvertised   = 8  // servers or domains of one link
)

// advertised is what routers on one link said of names, each until a time.
type advertised struct {
	servers map[netip.Addr]time.Time
	domains map[string]time.Time
}

// next is how long until something of it ends; something that ended is left out by those who read.
func (a advertised) next() time.Duration {
	d := again
	now := time.Now()
	for _, t := range a.servers {
		if t.After(now) {
			d = min(d, t.Sub(now)+time.Millisecond)
		}
	}
	return d
}

// userOption is what the kernel passes on of a router advertisement, which it has checked to
// come from a router on the link.
type userOption struct {
	index   int
	servers []netip.Addr
	domains []string
	life    time.Duration
}

// parseUserOption reads a message of type RTM_NEWNDUSEROPT behind its header.
func parseUserOption(b []byte) (userOption, bool) {
	if len(b) < userOptionSize+8 || b[0] != unix.AF_INET6 {
		return userOption{}, false
	}
	o := userOption{index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
	if size := int(binary.NativeEndian.Uint16(b[2:])); size < 8 || userOptionSize+size > len(b) {
		return userOption{}, false
	} else {
		b = b[userOptionSize : userOptionSize+size]
	}
	length := int(b[1]) * 8
	if length < 16 || length > len(b) {
		return userOption{}, false
	}
	o.life = time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second
	rest := b[8:length]
	switch b[0] {
	case optionRDNSS:
		for ; len(rest) >= 16 && len(o.servers) < maxAdvertised; rest = rest[16:] {
			if a := netip.AddrFrom16([16]byte(rest[:16])); host(a) {
				o.servers = append(o.servers, a)
			}
		}
	case optionDNSSL:
		o.domains = labels(rest)
	default:
		return userOption{}, false
	}
	return o, len(o.servers)+len(o.domains) > 0
}

// labels reads names in the wire format without compression, padded with zeros (RFC 8106 section 5.2).
func labels(b []byte) []string {
	var out []string
	name := ""
	for len(b) > 0 && len(out) < maxAdvertised {
		n := int(b[0])
		b = b[1:]
		if n == 0 {
			if form.HostName(name) {
				out = append(out, name)
			}
			name = ""
			continue
		}
		if n > 63 || n > len(b) {
			break
		}
		if name != "" {
			name += "."
		}
		name += string(b[:n])
		b = b[n:]
	}
	return out
}

// listen follows what routers say of names until ctx ends.
func (m *Manager) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s, err := nl.Subscribe(unix.NETLINK_ROUTE, groupUserOption)
		if err != nil {
			m.config.Log.Warn("cannot hear which name servers routers advertise", "error", err)
			return
		}
		stop := context.AfterFunc(ctx, s.Close)
		for {
			messages, _, err := s.Receive()
			if err != nil {
				break
			}
			for _, x := range messages {
				if x.Header.Type != newUserOption {
					continue
				}
				if o, ok := parseUserOption(x.Data); ok {
					m.hear(o)
				}
			}
		}
		if stop() {
			s.Close()
		}
	}
}

// hear takes one option; a lifetime of none takes back.
func (m *Manager) hear(o userOption) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.routers[o.index]
	if !ok {
		a = advertised{servers: make(map[netip.Addr]time.Time), domains: make(map[string]time.Time)}
		m.routers[o.index] = a
	}
	until := time.Now().Add(o.life)
	for _, s := range o.servers {
		put(a.servers, s, o.life, until)
	}
	for _, d := range o.domains {
		put(a.domains, d, o.life, until)
	}
	m.wake()
	m.announce()
}

func put[K comparable](in map[K]time.Time, key K, life time.Duration, until time.Time) {
	now := time.Now()
	for k, t := range in {
		if !t.After(now) {
			delete(in, k)
		}
	}
	if _, there := in[key]; life == 0 {
		delete(in, key)
	} else if there || len(in) < maxAdvertised {
		in[key] = until
	}
}

// live are the keys whose time is not over, sorted.
func live[K comparable](in map[K]time.Time, compare func(a, b K) int) []K {
	var out []K
	for k, t := range in {
		if t.After(time.Now()) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, compare)
	return out
}
