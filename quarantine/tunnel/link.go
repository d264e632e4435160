package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// Kind says who runs the WireGuard protocol of a Link.
type Kind string

const (
	Kernel    Kind = "kernel"    // in the kernel; outlives the process
	Userspace Kind = "userspace" // wireguard-go in this process; ends with it
)

var (
	// ErrNoPeer reports a key that is no peer of the link.
	ErrNoPeer = errors.New("no such peer")
	// ErrPeer reports a peer that the link may not be given: a weak key, the link's
	// own key, or an address that is no whole address.
	ErrPeer = errors.New("peer refused")
	// ErrLost reports a link whose interface was taken away under it, or whose userspace
	// half ended. Nothing brings it back: close it, and open it anew.
	ErrLost = errors.New("the interface is gone")
)

// Config says what Open opens.
type Config struct {
	Name           string         // required: interface name, at most 15 bytes
	PrivateKey     PrivateKey     // required
	ListenPort     uint16         // UDP; zero: any free port
	MTU            int            // 1280 to 9000 bytes; zero: 1420
	Addresses      []netip.Prefix // own addresses, with the length of the on-link prefix; may be set later
	Mark           uint32         // firewall mark of the tunnel's own packets; zero: none
	ForceUserspace bool           // do not look for kernel WireGuard
	// Grow lets a userspace link take more than the 65,536 peers of one wireguard-go
	// device: when they are there, it adds another device behind the same interface, port
	// and key. Its peers may then have whole addresses only (/32 and /128).
	Grow bool
	Log  *slog.Logger // optional

	shardSize int // peers of one device; zero: 65,536; tests make do with fewer
}

// DefaultMTU leaves room for WireGuard over IPv6 on an Ethernet of 1500 bytes.
const DefaultMTU = 1420

const (
	minMTU = 1280 // IPv6 has no smaller (RFC 8200, section 5)
	maxMTU = 9000 // larger is no Ethernet's
)

// Link is one WireGuard interface and its peers. Its methods may be called at any
// time from anywhere; changes are made one after the other.
type Link struct {
	name string
	kind Kind

	mu      sync.Mutex // one change at a time
	public  Key        // guarded by mu
	back    backend
	network network
	closed  bool // guarded by mu

	lost    chan struct{} // closed at loss
	closing chan struct{} // closed by Close: ends the watching
	watched chan struct{} // closed when the watching has ended
}

// backend is the WireGuard half of a Link: who runs the protocol.
type backend interface {
	// apply makes the changes in order and returns those that failed; each of them may
	// have happened in part.
	apply([]PeerChange) Failures
	// peers and handshakes only read, and may be called at any time.
	peers() ([]PeerStatus, error)
	handshakes([]Key) (map[Key]time.Time, error)
	setKey(PrivateKey) error
	// mtuChanged says that the interface's MTU may be another.
	mtuChanged()
	// present reports whether the interface is there, as far as that costs nothing to
	// know; ended is closed when this process's part ends by itself (nil: it cannot).
	present() bool
	ended() <-chan struct{}
	// close ends this process's part: the end of a userspace link.
	close() error
}

// network is the interface half of a Link: addresses and routes.
type network interface {
	setAddresses([]netip.Prefix) error
	setRoutes([]Route) error
	remove() error
}

// Route is a route through the link, with scope link.
type Route struct {
	To     netip.Prefix
	Source netip.Addr // preferred source address; zero: the kernel chooses
	Table  int        // routing table; zero: main
}

// Open makes the interface, or adopts a kernel one of that name with its peers, sets
// key, port, addresses and mark, and brings it up. It uses kernel WireGuard where the
// kernel has it, else runs wireguard-go in this process, which then must live wholly
// in the interface's network namespace.
func Open(ctx context.Context, c Config) (*Link, error) {
	if c.Name == "" || len(c.Name) > 15 {
		return nil, fmt.Errorf("opening tunnel %q: the name must have 1 to 15 bytes", c.Name)
	}
	if c.PrivateKey.IsZero() {
		return nil, fmt.Errorf("opening tunnel %s: no private key", c.Name)
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return nil, fmt.Errorf("opening tunnel %s: an MTU of %d bytes, want %d to %d", c.Name, c.MTU, minMTU, maxMTU)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("opening tunnel %s: %w", c.Name, err)
	}
	l, err := open(c)
	if err != nil {
		return nil, fmt.Errorf("opening tunnel %s: %w", c.Name, err)
	}
	return l, nil
}

// Name returns the interface's name.
func (l *Link) Name() string { return l.name }

// Kind says who runs the protocol.
func (l *Link) Kind() Kind { return l.kind }

// Public returns the link's own public key.
func (l *Link) Public() Key {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.public
}

// SetPeer makes this one peer as p says; its other allowed addresses go, and an
// address that another peer has moves here. Its session lives on.
func (l *Link) SetPeer(p Peer) error { return l.Apply([]PeerChange{{Peer: p}}) }

// RemovePeer removes a peer and its session. A peer that is not there is no error.
func (l *Link) RemovePeer(k Key) error {
	return l.Apply([]PeerChange{{Peer: Peer{Key: k}, Remove: true}})
}

// Apply makes many changes, in order. One that fails costs no other: what could be
// made was made, nothing is undone, and the error is a Failures that names every
// change that could not. A change that fails with ErrPeer was not begun.
func (l *Link) Apply(changes []PeerChange) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed Failures
	good := make([]PeerChange, 0, len(changes))
	for _, c := range changes {
		if err := l.check(c); err != nil {
			failed = append(failed, Failure{c, err})
		} else {
			good = append(good, c)
		}
	}
	if err := l.gone(); err != nil {
		return allFailed(changes, err)
	}
	failed = append(failed, l.back.apply(good)...)
	if err := l.gone(); err != nil {
		return allFailed(changes, err)
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

// check refuses what WireGuard would take and silently not do, before anything happens. The
// caller holds mu.
func (l *Link) check(c PeerChange) error {
	if c.Remove {
		return nil
	}
	if !c.Peer.Key.Valid() {
		return fmt.Errorf("%w: key %s is of low order", ErrPeer, c.Peer.Key)
	}
	if c.Peer.Key == l.public {
		return fmt.Errorf("%w: key %s is the link's own", ErrPeer, c.Peer.Key)
	}
	for _, a := range c.Peer.AllowedIPs {
		if !a.IsValid() || a != a.Masked() || a.Addr().Is4In6() {
			return fmt.Errorf("%w: allowed address %s of %s", ErrPeer, a, c.Peer.Key)
		}
	}
	return nil
}

// Peers returns every peer with what the link saw of it. It reads the whole link:
// about 3 microseconds a peer.
func (l *Link) Peers() ([]PeerStatus, error) {
	if err := l.gone(); err != nil {
		return nil, fmt.Errorf("reading peers: %w", err)
	}
	return l.back.peers()
}

// Handshakes returns when those of keys that are peers last shook hands; one that
// never did is not in the map. A userspace link looks at these peers alone, a kernel
// link is read as a whole.
func (l *Link) Handshakes(keys []Key) (map[Key]time.Time, error) {
	if err := l.gone(); err != nil {
		return nil, fmt.Errorf("reading handshakes: %w", err)
	}
	return l.back.handshakes(keys)
}

// Status returns what the link saw of one peer, or ErrNoPeer. It costs as much as Peers.
func (l *Link) Status(k Key) (PeerStatus, error) {
	all, err := l.Peers()
	if err != nil {
		return PeerStatus{}, err
	}
	for _, s := range all {
		if s.Key == k {
			return s, nil
		}
	}
	return PeerStatus{}, fmt.Errorf("asking for peer %s: %w", k, ErrNoPeer)
}

// SetAddresses makes these the interface's addresses, and no others but link-local
// ones, and brings it up. The kernel routes each one's prefix into the tunnel.
func (l *Link) SetAddresses(own []netip.Prefix) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.gone(); err != nil {
		return fmt.Errorf("setting addresses: %w", err)
	}
	return l.network.setAddresses(own)
}

// SetRoutes makes these the routes that this package set through the interface.
func (l *Link) SetRoutes(routes []Route) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.gone(); err != nil {
		return fmt.Errorf("setting routes: %w", err)
	}
	return l.network.setRoutes(routes)
}
