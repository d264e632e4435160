// Package api holds the shapes of the administration API, /api/v1: what lazaretctl and
// a management server send and receive. Request and answer types are apart from those
// the store keeps, so that a request can set nothing it does not name.
package api

import (
	"net/netip"
	"time"
)

// OTPRequest asks for a one-time password (M1).
type OTPRequest struct {
	User      string `json:"user"`
	Profile   string `json:"profile,omitempty"` // default: "default"
	Device    string `json:"device,omitempty"`  // an existing device to enroll again, by id or name
	Name      string `json:"name,omitempty"`
	Serial    string `json:"serial,omitempty"`
	Platform  string `json:"platform,omitempty"`
	Ownership string `json:"ownership,omitempty"`
	Life      string `json:"life,omitempty"` // like "8h"; 7 days at most
}

// OTPCreated is the only answer that ever bears the code.
type OTPCreated struct {
	OTP
	Code   string `json:"code"`
	Server string `json:"server"`      // URL to enroll at
	Root   string `json:"root_sha256"` // hexadecimal, for a link that pins the root
}

// OTP is a one-time password without its secret.
type OTP struct {
	Reference string    `json:"reference"`
	User      string    `json:"user"`
	Profile   string    `json:"profile"`
	State     string    `json:"state"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
	Expires   time.Time `json:"expires"`
	Device    string    `json:"device,omitempty"` // the device it yielded, or is for
	Serial    string    `json:"serial,omitempty"`
	Platform  string    `json:"platform,omitempty"`
	Ownership string    `json:"ownership,omitempty"`
}

// Device is one device as administrators see it.
type Device struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Owner       string       `json:"owner"`
	Stage       string       `json:"stage"`
	Pool        string       `json:"pool"`
	Since       time.Time    `json:"since"`
	Until       time.Time    `json:"until,omitzero"`
	Reason      string       `json:"reason"`
	Profile     string       `json:"profile"`
	Platform    string       `json:"platform,omitempty"`
	Ownership   string       `json:"ownership,omitempty"`
	Serial      string       `json:"serial,omitempty"`
	Seat        uint32       `json:"seat"`
	Key         string       `json:"wireguard_key"`
	Addresses   []netip.Addr `json:"addresses"`
	Certificate string       `json:"certificate_serial"`
	NotAfter    time.Time    `json:"certificate_not_after"`
	Proven      bool         `json:"proven"`
	Groups      []string     `json:"groups,omitempty"` // its own; those of its profile come to them
	Seen        time.Time    `json:"seen,omitzero"`    // last contact of its agent, to within some hours
	Wipe        bool         `json:"wipe,omitempty"`   // it is told to wipe what enrollment gave
	Revision    int64        `json:"revision"`
}

// Tunnel is what a stock WireGuard app on a device needs (X5). The private key is not in
// it: it is the device's own, and the gateway knows only Key, its public half.
type Tunnel struct {
	Device         string                `json:"device"`
	Name           string                `json:"name"`
	Key            string                `json:"wireguard_key"`
	Addressing     string                `json:"addressing"`     // "follow": a configuration for each pool; "fixed": one for all
	Configurations []TunnelConfiguration `json:"configurations"` // quarantine first
}

// TunnelConfiguration is one WireGuard configuration.
type TunnelConfiguration struct {
	Name      string         `json:"name"` // of its pool, or "fixed"
	Addresses []netip.Prefix `json:"addresses"`
	DNS       []netip.Addr   `json:"dns"`
	MTU       int            `json:"mtu"`
	Peer      TunnelPeer     `json:"peer"`
}

// TunnelPeer is the gateway as a WireGuard peer.
type TunnelPeer struct {
	Key        string         `json:"key"`
	Endpoint   string         `json:"endpoint"`
	AllowedIPs []netip.Prefix `json:"allowed_ips"`
	KeepAlive  int            `json:"keepalive"` // seconds
}

// Explanation answers why a device is where it is (X7).
type Explanation struct {
	Device   Device    `json:"device"`
	Decided  Decision  `json:"decided"`  // from all facts, as of now
	Reports  []Report  `json:"reports"`  // latest of each source
	Pending  []string  `json:"pending"`  // tightenings applied but not yet recorded
	Enforced bool      `json:"enforced"` // the data plane confirmed it
	Problem  string    `json:"problem,omitempty"`
	Failing  []Failing `json:"failing"`            // rules of policy sets that fail, also those that only report
	Waivers  []Waiver  `json:"waivers"`            // rules that do not count for a while
	Session  *Session  `json:"session,omitempty"`  // of its user; none: nobody is signed in
	Remedies []string  `json:"remedies,omitempty"` // what would change it
}

// Decision is a placement with its reasons, rule by rule.
type Decision struct {
	Stage   string    `json:"stage"`
	Pool    string    `json:"pool"`
	Until   time.Time `json:"until,omitzero"`
	Reasons []Reason  `json:"reasons"`
}

// Reason is one rule and what it found.
type Reason struct {
	Rule    string    `json:"rule"`
	Holds   bool      `json:"holds"`
	Text    string    `json:"text"`
	Source  string    `json:"source,omitempty"` // whose report it rests on
	At      time.Time `json:"at,omitzero"`      // of that report
	Set     string    `json:"set,omitempty"`    // policy set, its version, and the fact that decided
	Version int64     `json:"version,omitempty"`
	Fact    string    `json:"fact,omitempty"`
	Remedy  string    `json:"remedy,omitempty"` // what would change it
	Fault   bool      `json:"fault,omitempty"`  // the policy's, not the device's: it could not be evaluated
}

// ActionRequest is the body of approve, quarantine, block, unblock, wipe, unwipe and revoke.
type ActionRequest struct {
	Why string `json:"why,omitempty"`
}

// ReportRequest is a management server's word on a device. The source is the token's own.
type ReportRequest struct {
	Device   string            `json:"device"` // id, name or serial number
	Verdict  string            `json:"verdict"`
	At       time.Time         `json:"at,omitzero"` // default: now
	Sequence uint64            `json:"sequence,omitempty"`
	Validity string            `json:"validity,omitempty"` // like "1h"; default and ceiling: the source's
	Facts    map[string]string `json:"facts,omitempty"`
	Detail   string            `json:"detail,omitempty"`
	Source   string            `json:"source,omitempty"` // administrators only
}

// Reported is what became of one report of many: a decision, or a problem.
type Reported struct {
	Device   string    `json:"device"` // id, or what the report named where nothing is known by it
	Decision *Decision `json:"decision,omitempty"`
	Enforced bool      `json:"enforced"` // as in Placed
	Problem  *Problem  `json:"problem,omitempty"`
}

// Report is a report as kept.
type Report struct {
	Source   string            `json:"source"`
	Verdict  string            `json:"verdict"`
	At       time.Time         `json:"at"`
	Sequence uint64            `json:"sequence,omitempty"`
	Validity string            `json:"validity"`
	Received time.Time         `json:"received"`
	Releases bool              `json:"releases"` // its source may release
	Facts    map[string]string `json:"facts,omitempty"`
	Detail   string            `json:"detail,omitempty"`
}

// Placed answers a report or an action.
type Placed struct {
	Device   string   `json:"device"`
	Decision Decision `json:"decision"`
	Enforced bool     `json:"enforced"` // false: recorded, and enforced as soon as the data plane answers
}

// Pool is a pool as administrators write it.
type Pool struct {
	Name       string       `json:"name"`
	Quarantine bool         `json:"quarantine"`
	IPv4       netip.Prefix `json:"ipv4,omitzero"`
	IPv6       netip.Prefix `json:"ipv6,omitzero"`
	Reach      []string     `json:"reach"` // like "192.0.2.10/32 tcp/443" or "mdm.example.com tcp/443"; a full pool's empty list: everything but devices and the gateway
	Routes     []string     `json:"routes"`
	DNS        []netip.Addr `json:"dns"`
	Masquerade bool         `json:"masquerade"`
	NeedUser   bool         `json:"need_user"` // only devices whose user has a fresh session are routed in it
	Revision   int64        `json:"revision,omitempty"`

	Allow   []netip.Prefix `json:"allow"`   // private networks that names in reach may lead into
	Forward bool           `json:"forward"` // the gateway's resolver answers its devices every name
}

// Name is a name in a pool's reach and what it resolves to.
type Name struct {
	Name      string        `json:"name"`
	Answered  time.Time     `json:"answered,omitzero"` // when a server last said what it resolves to
	Problem   string        `json:"problem,omitempty"` // what the last question met
	Addresses []NameAddress `json:"addresses"`
}

// NameAddress is one address of a name.
type NameAddress struct {
	Address netip.Addr `json:"address"`
	Since   time.Time  `json:"since"`
	Good    time.Time  `json:"good_until"`        // end of the TTL of the last answer that bore it
	Until   time.Time  `json:"until"`             // when it is closed if no answer bears it any more
	Current bool       `json:"current"`           // stands in the latest answer
	Open    bool       `json:"open"`              // enforced at this moment
	Refused string     `json:"refused,omitempty"` // why it may not be opened
}

// Profile is an enrollment profile.
type Profile struct {
	Name           string   `json:"name"`
	Pool           string   `json:"pool"`
	SkipQuarantine bool     `json:"skip_quarantine"`
	NeedApproval   bool     `json:"need_approval"`
	Platforms      []string `json:"platforms"`
	Ownerships     []string `json:"ownerships"`
	NeedSerial     bool     `json:"need_serial"`
	AllowRSA       bool     `json:"allow_rsa"`
	Addressing     string   `json:"addressing,omitempty"`
	Groups         []string `json:"groups"` // of its devices
	Revision       int64    `json:"revision,omitempty"`
}

// AuditEntry is one line of the audit log.
type AuditEntry struct {
	Revision int64             `json:"revision"` // of the store
	At       time.Time         `json:"at"`
	By       string            `json:"by"`
	Address  string            `json:"address,omitempty"`
	Action   string            `json:"action"`
	Device   string            `json:"device,omitempty"`
	Subject  string            `json:"subject,omitempty"`
	Detail   map[string]string `json:"detail,omitempty"`
}

// Status is the gateway's own state.
type Status struct {
	Gateway string         `json:"gateway"`
	Version string         `json:"version"`
	Ready   bool           `json:"ready"`
	Devices map[string]int `json:"devices"` // by stage
}

// Problem is the body of every answer that is no success: what was wrong, and what to do.
type Problem struct {
	Error  string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
}
