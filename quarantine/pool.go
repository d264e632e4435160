package quarantine

import (
	"net/netip"

	"lazaret/firewall"
)

// Pool is a named pair of prefixes and what a device in it may reach. Exactly one
// pool is the quarantine pool.
type Pool struct {
	Name       string
	Quarantine bool
	IPv4, IPv6 netip.Prefix     // either may be the zero Prefix
	Reach      []firewall.Reach // quarantine: the management servers
	Named      []NamedReach     `json:",omitempty"` // the same by name; names open what they resolve to, see Names
	Allow      []netip.Prefix   `json:",omitempty"` // where names may lead although that is no public address
	Routes     []netip.Prefix   // what an agent sends into the tunnel while in this pool
	DNS        []netip.Addr
	Forward    bool          `json:",omitempty"` // the gateway's resolver answers its devices every name; full pools only
	Gateways   []string      // names of full-service gateways, later
	Mark       firewall.Mark // given by the store, never reused; zero for the quarantine pool
	Masquerade bool
	NeedUser   bool `json:",omitempty"` // only devices whose user has a fresh session are routed in it (G3); full pools only
}

// Addressing says whether a device's address follows its pool or stays.
type Addressing string

const (
	Follow Addressing = ""      // quarantine address always, pool address while routed
	Fixed  Addressing = "fixed" // one address, only its placement changes
)

// Profile is an enrollment profile: what an OTP's device starts with.
type Profile struct {
	Name           string
	Pool           string // full pool its devices are released into
	SkipQuarantine bool   // M12: starts routed, with the certificate's life as lease
	NeedApproval   bool   // X10: starts pending
	Platforms      []string
	Ownerships     []string // "corporate", "personal"; empty: any
	NeedSerial     bool     // the OTP must name a hardware serial
	AllowRSA       bool
	Addressing     Addressing
	Groups         []string // of its devices
}
