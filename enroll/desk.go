package enroll

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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

// Sealer seals secrets for the store. The context is bound to the sealed value: Open
// refuses another one. *seal.Ring is one.
type Sealer interface {
	Seal(context string, plaintext []byte) ([]byte, error)
	Open(context string, sealed []byte) ([]byte, error)
}

// Organization is what the desk reads of the organization's decisions.
type Organization interface {
	// Profile returns a profile; ErrNoProfile if there is none of that name.
	Profile(ctx context.Context, name string) (quarantine.Profile, error)
	// Pools returns every pool by name.
	Pools(ctx context.Context) (map[string]quarantine.Pool, error)
}

// Gate places devices; *quarantine.Gate is one.
type Gate interface {
	// Admit settles a record that is about to be stored for the first time, or anew.
	Admit(r quarantine.Record) (quarantine.Record, error)
	// Confirm notes that the device has its certificate.
	Confirm(ctx context.Context, by quarantine.Actor, id quarantine.ID) (quarantine.Placement, error)
	// Revoke takes the device's place away for ever, and frees what was unique to it.
	Revoke(ctx context.Context, by quarantine.Actor, id quarantine.ID, why string) (quarantine.Placement, error)
}

// Event is one entry for the audit log that no write of the store carries: a
// refusal and its reason, an alarm. It never holds a secret or a MAC.
type Event struct {
	By     quarantine.Actor
	Action string            // "enroll.refuse", "enroll.alarm", "enroll.note", "enroll.leftout"
	Device quarantine.ID     // if known
	OTP    string            // reference, if known; as received, so perhaps of no OTP
	Why    string            // one sentence
	Detail map[string]string // may be nil
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

// DefaultCertificateLife is how long a device certificate lasts.
const DefaultCertificateLife = 90 * 24 * time.Hour

// Config is what a Desk needs.
type Config struct {
	Store        Store                // required
	Issuer       Issuer               // required
	Gate         Gate                 // required
	Organization Organization         // required
	Sealer       Sealer               // required
	Audit        Auditor              // required
	Log          *slog.Logger         // required
	Responder    func() Responder     // required: signs answers to signed messages; the present one
	ProofKeys    []ProofKey           // required: current one first
	Gateways     func() []cmp.Gateway // required
	ListenerKeys func() [][]byte      // required: SHA-256 of every SPKI the listeners may show
	Life         time.Duration        // of a certificate; DefaultCertificateLife
	RepeatFor    time.Duration        // how long a lost answer can be asked for again; RepeatFor, and never more
	MTU          int                  // told to devices; DefaultMTU
	AllowSHA1    bool                 // accepts HMAC-SHA-1, OpenSSL 3.0's default; off in strict mode
	Exporter     bool                 // for ServeHTTP; Handler takes it by listener
	Proxies      []netip.Prefix       // whose X-Forwarded-For counts; none
	Limits       Limits
	Sweep        time.Duration    // between two rounds of housekeeping; 1 minute
	Clock        func() time.Time // time.Now
}

// Desk admits devices. Its methods are safe for concurrent use. It remembers counters
// of failures; all else is in the Store, so that any
// gateway can answer any enrollment.
type Desk struct {
	cfg    Config
	limits *limiter
	dummy  atomic.Pointer[[]byte] // a sealed secret that no OTP has: unknown references cost as much as known ones
	turns  [64]sync.Mutex
	later  chan *confirmation // confirmations the gate is told of after the answer
	keeps  atomic.Bool        // Run reads later
}

// New returns a desk. A missing required field is an error.
func New(cfg Config) (*Desk, error) {
	missing := []string{}
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"Store", cfg.Store != nil}, {"Issuer", cfg.Issuer != nil}, {"Gate", cfg.Gate != nil},
		{"Organization", cfg.Organization != nil}, {"Sealer", cfg.Sealer != nil}, {"Audit", cfg.Audit != nil},
		{"Log", cfg.Log != nil}, {"Responder", cfg.Responder != nil},
		{"ProofKeys", len(cfg.ProofKeys) > 0}, {"Gateways", cfg.Gateways != nil}, {"ListenerKeys", cfg.ListenerKeys != nil},
	} {
		if !f.ok {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("making the enrollment desk: not set: %s", strings.Join(missing, ", "))
	}
	for _, k := range cfg.ProofKeys {
		if k.Key == nil || k.Key.Curve() != ecdh.X25519() || k.ID == "" {
			return nil, fmt.Errorf("making the enrollment desk: proof key %q is not a named X25519 key", k.ID)
		}
	}
	if cfg.Life <= 0 {
		cfg.Life = DefaultCertificateLife
	}
	if cfg.RepeatFor <= 0 || cfg.RepeatFor > RepeatFor {
		cfg.RepeatFor = RepeatFor
	}
	if cfg.Sweep <= 0 {
		cfg.Sweep = time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	d := &Desk{cfg: cfg, limits: newLimiter(cfg.Limits), later: make(chan *confirmation, 1024)}
	if err := d.sealDummy(); err != nil {
		return nil, fmt.Errorf("making the enrollment desk: sealing a dummy secret: %w", err)
	}
	return d, nil
}

func (d *Desk) sealDummy() error {
	sealed, err := d.cfg.Sealer.Seal(dummyContext, []byte(dummySecret))
	if err == nil {
		d.dummy.Store(&sealed)
	}
	return err
}

// openDummy does the work of opening a secret. When the key it was sealed under has been
// retired, it is sealed anew.
func (d *Desk) openDummy() []byte {
	secret, err := d.cfg.Sealer.Open(dummyContext, *d.dummy.Load())
	if err == nil {
		return secret
	}
	if err := d.sealDummy(); err != nil {
		d.cfg.Log.Error("sealing a dummy secret", "error", err)
	}
	return []byte(dummySecret)
}

// turn makes messages of one OTP that may change it wait for each other, so that a
// hundred copies of a request sign one certificate. The Store's transaction is what
// guarantees it. What was read of the OTP before the turn may be stale.
func (d *Desk) turn(reference string) (done func()) {
	sum := sha256.Sum256([]byte(reference))
	m := &d.turns[sum[0]%byte(len(d.turns))]
	m.Lock()
	return m.Unlock
}

func (d *Desk) now() time.Time { return d.cfg.Clock().UTC() }

// SecretContext binds a sealed secret to its OTP: moved to another user or to a later
// expiry, it does not open.
func SecretContext(o OTP) string {
	return fmt.Sprintf("lazaret otp %s %d %q", o.Reference, o.Expires.UTC().UnixNano(), o.User)
}

const (
	dummyContext = "lazaret otp none"
	dummySecret  = "0000000000000000" // never drawn: it has no letters
)
