package firewall

import (
	"net/netip"
	"time"
)

// Mark names a full pool in the kernel. Zero names none, and nothing routes it.
type Mark uint32

// Protocol is the transport a Reach or Service speaks: "tcp", "udp", "icmp" (both
// families' echo), or empty for any, which a quarantine pool may not use.
type Protocol string

// Reach is one thing a pool may open: a destination prefix, a protocol and, for tcp
// and udp, a port range. The zero Reach allows nothing.
type Reach struct {
	To       netip.Prefix
	Protocol Protocol
	From, Up uint16 // first and last port, inclusive; Up zero: From alone; both zero: every port (full pools only)
}

// Pool is what the kernel needs to know of one pool.
type Pool struct {
	Name       string
	Mark       Mark // zero: the quarantine pool
	IPv4, IPv6 netip.Prefix
	Reach      []Reach // empty: nothing in quarantine; in a full pool everything but devices, pools and the gateway
	Masquerade bool    // what devices placed here open goes out under the gateway's address
}

// Service is a port of the gateway itself that may be reached.
type Service struct {
	Protocol Protocol
	Port     uint16         // zero with icmp
	From     []netip.Prefix // empty: from anywhere on that side
}

// Ruleset is the constant part of the table: everything but the elements.
// Whatever it does not list meets the drop policy.
type Ruleset struct {
	Table          string        // "lazaret"
	Tunnel         string        // interface name of the WireGuard link, e.g. "lz0"
	ListenPort     uint16        // WireGuard's UDP port, reachable from outside
	Gateway        []netip.Addr  // the gateway's own addresses inside the tunnel
	Pools          []Pool        // exactly one with Mark zero once a plan is applied; none before
	Outside        []Service     // services on the gateway's other interfaces
	Inside         []Service     // services on Gateway addresses, for quarantined and routed devices alike
	Out            []Service     // what the gateway itself may open outside; From lists destinations here
	Freshness      time.Duration // default timeout of @fresh; a floor against a permanent element
	QuarantineLife time.Duration // default timeout of @alive, the quarantine's own freshness
}

// Routed is one timed element of @routed: this address carries this mark until the deadline.
type Routed struct {
	Addr  netip.Addr
	Mark  Mark
	Until Deadline
}

// Deadline is an instant of CLOCK_BOOTTIME in nanoseconds. Zero is no deadline at
// all, which is refused: a timed element without one would be permanent.
type Deadline int64

// Elements is the changing part of the table, whole.
type Elements struct {
	Quarantined []netip.Addr
	Routed      []Routed
	Fresh       Deadline // zero: not fresh, nothing is routed
	Alive       Deadline // zero: not alive, nothing passes at all
}

// Change is a step from one set of elements to the next, committed in one transaction.
type Change struct {
	AddQuarantined, DelQuarantined []netip.Addr
	AddRouted                      []Routed
	DelRouted                      []netip.Addr
}
