package console

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Wrong tokens cost a read of the store each, so that an address has so many and then one
// more each attemptEvery. A token that was right before is not held up by strangers at the
// same address.
const (
	attemptBurst = 20
	attemptEvery = 5 * time.Second
	attemptKeys  = 1 << 14 // addresses, and right tokens, remembered; beyond, the maps start over
)

var errTooManyWrong = errors.New("too many wrong tokens came from this address")

// attempts bounds how often wrong tokens are looked up.
type attempts struct {
	now    func() time.Time
	failed atomic.Uint64

	mu    sync.Mutex
	each  map[netip.Prefix]*allowance
	known map[[32]byte]bool
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, each: map[netip.Prefix]*allowance{}, known: map[[32]byte]bool{}}
}

// neighbourhood is what one sender can pick addresses from: an IPv4 address, or a /64.
func neighbourhood(remote string) netip.Prefix {
	from, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := from.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // the bits fit the family
	return p
}

// allowed reports whether a token is to be looked up.
func (a *attempts) allowed(remote string, sum [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[sum] {
		return true
	}
	return a.at(remote).left >= 1
}

// at is what an address has left. The caller holds mu.
func (a *attempts) at(remote string) *allowance {
	key, now := neighbourhood(remote), a.now()
	l := a.each[key]
	if l == nil {
		if len(a.each) >= attemptKeys {
			clear(a.each)
		}
		l = &allowance{left: attemptBurst, at: now}
		a.each[key] = l
	}
	l.left = min(attemptBurst, l.left+now.Sub(l.at).Seconds()/attemptEvery.Seconds())
	l.at = now
	return l
}

// wrong notes that a token was nobody's.
func (a *attempts) wrong(remote string, sum [32]byte) {
	a.count()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, sum)
	a.at(remote).left--
}

// right notes that a token was somebody's.
func (a *attempts) right(sum [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= attemptKeys {
		clear(a.known)
	}
	a.known[sum] = true
}

func (a *attempts) count() { a.failed.Add(1) }

// WrongCredentials is how many tokens and certificates that are nobody's were shown to the
// administration API since the start.
func (s *Server) WrongCredentials() uint64 { return s.attempts.failed.Load() }
