package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/internal/agentapi"
	"lazaret/quarantine/tunnel"
)

const (
	// handover is the time from the gateway's word that it holds the next key to the first
	// packet with it: its data plane learns of the key a moment after its record shows it,
	// and a handshake that comes too early is tried again only after five seconds.
	handover = 300 * time.Millisecond
	// keyPatience is how long no answer comes before the other key is tried: two handshakes.
	keyPatience = 12 * time.Second
	// keyAgain is how long handOver leaves a next key that brought no answer alone, whatever
	// the gateway says. While nothing at all is answered, fallBack tries both in turn.
	keyAgain = time.Minute
)

// keys are the tunnel's private keys. A device that renews asks the gateway for a second
// one. From then on either may be the one that works: the first until the gateway has seen
// a handshake with the second, which moves the device's addresses, and the second after.
// So both stay on the disk until an answer came that only the second can have brought.
type keys struct {
	current tunnel.PrivateKey
	next    tunnel.PrivateKey // zero: there is none
	asked   bool              // the gateway may hold next: it was sent a request for it
	onNext  bool              // the link uses next
	turn    int               // counts the changes of the link's key
	turned  time.Time         // when it last changed
	told    bool              // the gateway said that it holds next
	again   time.Time         // next is not tried before
}

// used is the key of the link.
func (k keys) used() tunnel.PrivateKey {
	if k.onNext {
		return k.next
	}
	return k.current
}

// loadKeys reads the keys. The certificate says which one the gateway took last.
func (s store) loadKeys(st state) (keys, error) {
	current, err := s.wireguard(wireguardFile)
	if err != nil {
		return keys{}, err
	}
	moving, err := s.has(nextWireguard)
	if err != nil || !moving {
		return keys{current: current}, err
	}
	next, err := s.wireguard(nextWireguard)
	if err != nil {
		return keys{}, err
	}
	leaf, err := x509.ParseCertificate(st.Certificate)
	if err != nil {
		return keys{}, fmt.Errorf("reading the device's certificate: %w", err)
	}
	uri := cmp.WireGuardURI(next.Public())
	named := slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == uri })
	begun, err := s.has(nextKeyFile) // made before the request, which may have been sent
	return keys{current: current, next: next, asked: named || begun, onNext: named}, err
}

// answered notes that something asked over the link's key number turn was answered: if
// that is the next key, it has become the only one. The caller holds mu.
func (a *Agent) answered(turn int) {
	k := &a.keys
	if !k.onNext || turn != k.turn {
		return
	}
	a.step("turned")
	if err := a.store.rename(nextWireguard, wireguardFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("keeping the tunnel's new key", "err", err)
		return // both stay, and the next answer tries again
	}
	k.current, k.next, k.onNext, k.told = k.next, tunnel.PrivateKey{}, false, false
	k.asked = false
	a.log.Info("the tunnel's key was rotated", "key", k.current.Public())
	a.tell()
	a.step("rotated")
}

// handOver moves the link to the next key when the gateway's word in st is that it holds
// it, and says whether to ask again at once: to hear it a second time, or over the new key.
func (a *Agent) handOver(ctx context.Context, st agentapi.Status) (ask bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := &a.keys
	next := k.next.Public().String()
	switch {
	case k.next.IsZero() || k.onNext || st.Next != next && st.Key != next || time.Now().Before(k.again):
		k.told = false
		return false, nil
	case !k.told:
		k.told, k.asked = true, true
		a.mu.Unlock()
		err := wait(ctx, handover)
		a.mu.Lock()
		return true, err
	}
	a.step("told")
	return true, a.swapKey()
}

// fallBack moves the link to its other key when nothing was answered for a while, and says
// whether it did. A next key that the gateway cannot hold is not tried.
func (a *Agent) fallBack(lost time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := &a.keys
	if lost.Before(k.turned) {
		lost = k.turned
	}
	if k.next.IsZero() || !k.onNext && !k.asked || time.Since(lost) < keyPatience {
		return false
	}
	if k.onNext {
		k.again = time.Now().Add(keyAgain)
	}
	a.log.Warn("no answer over the tunnel's key: trying the other", "key", k.used().Public())
	if err := a.swapKey(); err != nil {
		a.log.Error("changing the tunnel's key", "err", err)
		return false
	}
	return true
}

// swapKey makes the link use the other key. The caller holds mu.
func (a *Agent) swapKey() error {
	k := &a.keys
	k.onNext = !k.onNext
	if err := a.net.SetKey(k.used()); err != nil {
		k.onNext = !k.onNext
		return err
	}
	k.turn, k.turned, k.told = k.turn+1, time.Now(), false
	return nil
}
