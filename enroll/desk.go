package enroll

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/pki"
	"lazaret/quarantine"
)

// Issuer signs what was admitted; *pki.Authority is one.
type Issuer interface {
	Issue(ctx context.Context, r pki.Request) (*x509.Certificate, error)
	VerifyDevice(leaf *x509.Certificate, now time.Time) error
	Root() *x509.Certificate
	Issuing(k pki.Kind) *x509.Certificate
}

// Sealer seals secrets for the store (AES-256-GCM). The context is bound to the
// sealed value: Open refuses another one.
type Sealer interface {
	Seal(plain, context []byte) ([]byte, error)
	Open(sealed, context []byte) ([]byte, error)
}

// Organization is what the desk reads of the organization's decisions.
type Organization interface {
	// Profile returns a profile; ErrNoProfile if there is none of that name.
	Profile(ctx context.Context, name string) (quarantine.Profile, error)
	// Pools returns every pool by name.
	Pools(ctx context.Context) (map[string]quarantine.Pool, error)
}

// Gate moves devices that exist.
type Gate interface {
	// Change takes c in: the desk sends Confirm and Revoke.
	Change(ctx context.Context, c quarantine.Change) error
}

// Event is one entry for the audit log that no write of the store carries: a
// refusal and its reason, an alarm. It never holds a secret or a MAC.
type Event struct {
	By      quarantine.Actor
	Action  string            // "enroll.refused", "enroll.alarm"
	Subject string            // reference of the OTP, or device
	Why     string            // one sentence
	Detail  map[string]string // may be nil
}

// Auditor takes events into the audit log.
type Auditor interface {
	Audit(ctx context.Context, e Event) error
}

// ProofKey is the gateway's half of the proof of a WireGuard key. The first one
// configured is told to devices; the others are accepted, so that a change overlaps.
type ProofKey struct {
	ID  string
	Key *ecdh.PrivateKey // X25519
}

// Responder is the key that signs what CMP signs, with its certificate
// (digitalSignature, id-kp-cmcRA), followed by issuing certificates below the root.
type Responder struct {
	Key   crypto.Signer
	Certs []*x509.Certificate
}

// ErrNoProfile is returned for a profile that does not exist.
var ErrNoProfile = errors.New("no such enrollment profile")

// Limits bound what strangers can make the desk do. Zero fields take the defaults.
type Limits struct {
	InFlight  int           // messages worked on at once; 64. A quarter of it for addresses that fail often
	Slowed    int           // answers held back at once; 256. Beyond: 429
	SlowAfter int           // failures of one reference or address within Window that slow it down; 5
	AlertAt   int           // failures within Window that raise an alert; 50
	Window    time.Duration // 10 minutes
	Delay     time.Duration // how long a slowed answer is held back; 2 seconds
	Keys      int           // references and addresses remembered; 65536
	Refusals  int           // refusals written to the audit log per minute; 600. The rest is counted
}

// Config is what a Desk needs.
type Config struct {
	Store        Store                // required
	Issuer       Issuer               // required
	Gate         Gate                 // required
	Organization Organization         // required
	Sealer       Sealer               // required
	Audit        Auditor              // required
	Log          *slog.Logger         // required
	Responder    Responder            // required: signs answers to signed messages
	ProofKeys    []ProofKey           // required: current one first
	Gateways     func() []cmp.Gateway // required
	ListenerKeys func() [][]byte      // required: SHA-256 of every SPKI the listeners may show
	Life         time.Duration        // of a certificate; 90 days
	MTU          int                  // told to devices; 1420
	Strict       bool                 // refuses HMAC-SHA-1
	Exporter     bool                 // ServeHTTP compares TLS exporters; see Listener for others
	Proxies      []netip.Prefix       // whose X-Forwarded-For counts; none
	Limits       Limits               // optional
	Sweep        time.Duration        // between two rounds of housekeeping; 1 minute
	Clock        func() time.Time     // time.Now
}

// Desk admits devices. It keeps no state but counters of failures: everything else
// is in the Store, so that any gateway can answer any message.
type Desk struct {
	cfg Config
}

// New returns a desk. A missing required field is an error.
func New(cfg Config) (*Desk, error) { return nil, errors.ErrUnsupported }

// Run keeps house until ctx ends: marks expired OTPs, erases secrets that are over,
// and revokes devices that were issued a certificate and never heard of again.
func (d *Desk) Run(ctx context.Context) error { return errors.ErrUnsupported }
