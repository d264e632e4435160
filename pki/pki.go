// Package pki makes certificates: the organization's root and issuing authorities,
// and every leaf below them. It builds each certificate from what was admitted, never
// from what a device asked for, and asserts every field of the result before it hands
// it out. It keeps no records and knows nothing of devices, users or protocols. It is
// the only importer of smallstep, whose softcas does the signing.
package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"time"
)

var errSkeleton = errors.New("not built")

// Kind is what a leaf certificate is for. The zero Kind is issued to nobody.
type Kind string

const (
	Device        Kind = "device"        // clientAuth, by the devices' authority
	Server        Kind = "server"        // serverAuth, by the servers' authority
	Administrator Kind = "administrator" // clientAuth, by the administrators' authority
	Responder     Kind = "responder"     // id-kp-cmcRA, by the servers' authority: signs CMP answers
)

var (
	// ErrKey reports a public key that the key policy refuses.
	ErrKey = errors.New("public key not accepted")
	// ErrPOP reports a certificate request whose signature does not prove possession of its key.
	ErrPOP = errors.New("no proof of possession of the private key")
	// ErrRequest reports a Request that no certificate can be issued for.
	ErrRequest = errors.New("certificate cannot be issued")
)

// KeyPair is a certificate and the private key of its public key.
type KeyPair struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// HierarchyConfig says what NewHierarchy makes.
type HierarchyConfig struct {
	Organization  string           // required: at most 64 characters
	Now           func() time.Time // optional: time.Now
	RootLife      time.Duration    // optional: 20 years
	IssuerLife    time.Duration    // optional: 10 years
	ResponderLife time.Duration    // optional: 1 year
}

// Hierarchy is an organization's authorities with their keys. Once it is made,
// Root.Key may be taken away and kept elsewhere: nothing in daily use needs it.
type Hierarchy struct {
	Root, Devices, Servers, Administrators KeyPair
	Responder                              KeyPair // signs CMP answers
}

// NewHierarchy makes a root, three issuing authorities and a CMP responder.
func NewHierarchy(c HierarchyConfig) (Hierarchy, error) { return Hierarchy{}, errSkeleton }

// MarshalKey returns a private key in PKCS#8 (RFC 5958), DER, in the clear.
func MarshalKey(key crypto.Signer) ([]byte, error) { return nil, errSkeleton }

// ParseKey reads what MarshalKey wrote.
func ParseKey(der []byte) (crypto.Signer, error) { return nil, errSkeleton }

// Config says what an Authority issues from.
type Config struct {
	Root           *x509.Certificate // required
	Devices        KeyPair           // required
	Servers        KeyPair           // required
	Administrators KeyPair           // required
	Now            func() time.Time  // optional: time.Now
}

// Authority issues and verifies leaf certificates. It is safe for concurrent use.
type Authority struct{}

// New checks that certificates and keys belong together.
func New(c Config) (*Authority, error) { return nil, errSkeleton }

// Request is all that a leaf certificate is made from.
type Request struct {
	Kind       Kind
	PublicKey  crypto.PublicKey
	AllowRSA   bool         // the profile allows RSA keys
	CommonName string       // required: 1 to 64 characters
	URIs       []*url.URL   // Device and Administrator only
	DNSNames   []string     // Server only
	IPs        []netip.Addr // Server only
	NotBefore  time.Time    // zero: a little before now
	NotAfter   time.Time    // required; cut to the issuing authority's
}

// Issue makes a certificate from r alone. It is the only way to a leaf.
func (a *Authority) Issue(ctx context.Context, r Request) (*x509.Certificate, error) {
	return nil, errSkeleton
}

// Root returns the root certificate.
func (a *Authority) Root() *x509.Certificate { return nil }

// Issuing returns the certificate of the authority that issues leaves of a kind, nil for an unknown kind.
func (a *Authority) Issuing(k Kind) *x509.Certificate { return nil }

// DevicePool returns the devices' authority alone, as tls.Config.ClientCAs wants it.
func (a *Authority) DevicePool() *x509.CertPool { return nil }

// AdministratorPool returns the administrators' authority alone.
func (a *Authority) AdministratorPool() *x509.CertPool { return nil }

// ServerPool returns the servers' authority alone.
func (a *Authority) ServerPool() *x509.CertPool { return nil }

// RootPool returns the root alone.
func (a *Authority) RootPool() *x509.CertPool { return nil }

// VerifyDevice returns nil only for a leaf of the devices' authority, valid at now.
func (a *Authority) VerifyDevice(leaf *x509.Certificate, now time.Time) error { return errSkeleton }

// VerifyAdministrator returns nil only for a leaf of the administrators' authority, valid at now.
func (a *Authority) VerifyAdministrator(leaf *x509.Certificate, now time.Time) error {
	return errSkeleton
}

// VerifyServer returns nil only for a server leaf of the servers' authority, valid at now.
func (a *Authority) VerifyServer(leaf *x509.Certificate, now time.Time) error { return errSkeleton }

// VerifyResponder returns nil only for a CMP responder's leaf, valid at now.
func (a *Authority) VerifyResponder(leaf *x509.Certificate, now time.Time) error { return errSkeleton }

// Allow says which keys beyond P-256, P-384 and Ed25519 are accepted.
type Allow struct {
	RSA bool // 2048 to 4096 bits
}

// CheckKey returns an error that wraps ErrKey unless the policy accepts pub.
func CheckKey(pub crypto.PublicKey, allow Allow) error { return errSkeleton }

// SPKISum returns SHA-256 of pub's SubjectPublicKeyInfo. pub must have passed CheckKey.
func SPKISum(pub crypto.PublicKey) ([32]byte, error) { return [32]byte{}, errSkeleton }

// CertificateSPKISum returns SHA-256 of the certificate's SubjectPublicKeyInfo.
func CertificateSPKISum(cert *x509.Certificate) [32]byte { return [32]byte{} }

// CSR is what is taken from a PKCS#10 request (RFC 2986). Only the key and the
// WireGuard URIs are for use; the rest says what else was asked for.
type CSR struct {
	PublicKey  crypto.PublicKey
	SPKI       [32]byte   // SHA-256 of the SubjectPublicKeyInfo
	WireGuard  []*url.URL // requested URIs of scheme wireguard, not checked further
	RequestsCA bool       // asks for a certificate that could sign others
	Extra      []string   // everything else, for the log: bounded and quoted
}

// CheckCSR parses a PKCS#10 request of at most 16 KiB and verifies its own signature.
// Errors wrap ErrKey or ErrPOP where the key or the signature is at fault.
func CheckCSR(der []byte, allow Allow) (*CSR, error) { return nil, errSkeleton }

// WireGuardURI returns wireguard:<base64url key without padding>.
func WireGuardURI(key [32]byte) *url.URL { return nil }

// ParseWireGuardURI reads what WireGuardURI wrote, and nothing else.
func ParseWireGuardURI(u *url.URL) ([32]byte, error) { return [32]byte{}, errSkeleton }

// KeyStore keeps one listener's keys. The blob holds private keys: seal it.
type KeyStore interface {
	// Load returns what Save was last given, or an error that wraps fs.ErrNotExist.
	Load(ctx context.Context) ([]byte, error)
	// Save replaces the blob, wholly or not at all.
	Save(ctx context.Context, blob []byte) error
}

// ListenerConfig says what a Listener shows.
type ListenerConfig struct {
	Authority *Authority       // required
	Name      string           // required: the common name
	Names     []string         // DNS names; at least one name or address
	IPs       []netip.Addr     // addresses
	Life      time.Duration    // required: of each certificate
	Store     KeyStore         // required
	Now       func() time.Time // optional: time.Now
	Log       *slog.Logger     // required
}

// Listener holds the server certificate of a gateway's listeners and renews it.
type Listener struct{}

// NewListener loads the keys, or makes them, and has a valid certificate when it returns.
func NewListener(ctx context.Context, c ListenerConfig) (*Listener, error) { return nil, errSkeleton }

// Run renews at two thirds of the certificate's life, until ctx ends.
func (l *Listener) Run(ctx context.Context) error { return errSkeleton }

// Keys returns the SPKI sums of the current key and of the one that follows it.
func (l *Listener) Keys() [][32]byte { return nil }

// GetCertificate is for tls.Config.
func (l *Listener) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errSkeleton
}
