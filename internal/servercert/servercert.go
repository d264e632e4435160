// Package servercert looks after the server certificate that the gateway shows to those who
// do not know its own root: one that an administrator brings, or one that it gets by ACME
// (RFC 8555). It decides to whom that is shown, and to whom the gateway's own, which devices
// know (G8). It never is why a handshake fails: without a certificate that is good at this
// moment, the gateway's own is shown.
package servercert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Store keeps blobs that hold private keys in the clear: an implementation seals them.
type Store interface {
	// Get returns what Put was last given, or an error that wraps fs.ErrNotExist.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put replaces a blob, wholly or not at all, and returns when it would survive a crash.
	Put(ctx context.Context, name string, blob []byte) error
	// Delete forgets a blob; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

// Names of the blobs.
const (
	blobShown    = "shown"
	blobRequests = "requests"
	blobACME     = "acme"
)

var (
	// ErrACME refuses what cannot be while the gateway gets its certificate by ACME.
	ErrACME = errors.New("this gateway gets its certificate by ACME; end that first: lazaretctl certificate acme unset")
	// ErrNone reports that there is nothing to change.
	ErrNone = errors.New("the gateway's own certificate is shown, and no other is kept")
	// ErrNoACME reports that no certificate is got by ACME.
	ErrNoACME = errors.New("this gateway gets no certificate by ACME; set that up with: lazaretctl certificate acme set")
	// ErrInvalid reports what cannot be taken as it is: every *Faults is one.
	ErrInvalid = errors.New("not acceptable")
	// ErrSoon refuses to ask an ACME server again so soon.
	ErrSoon = errors.New("an attempt runs, or began less than a minute ago")
)

// Note writes an audit entry of a change, before that is made.
type Note func(ctx context.Context, action string, detail map[string]string) error

// Config is what a Keeper needs.
type Config struct {
	Own   func(*tls.ClientHelloInfo) (*tls.Certificate, error) // required: the gateway's own certificate
	Names []string                                             // required: DNS names that a certificate has to cover
	Store Store                                                // required
	Log   *slog.Logger                                         // required
	// Proxy is the way out for HTTPS; optional, none.
	Proxy func(*http.Request) (*url.URL, error)
	Note  Note             // required: of what the Keeper does by itself
	Roots *x509.CertPool   // optional: the public authorities; the system's
	Now   func() time.Time // optional: time.Now
	// Share returns a number in [0,1), for times that are to differ between gateways;
	// optional, a random one.
	Share func() float64
}

// Keeper holds the certificate and renews it where it can. Its methods may be called at the
// same time.
type Keeper struct {
	config  Config
	changes sync.Mutex // held while something is changed
	shown   atomic.Pointer[kept]
	acme    atomic.Pointer[account]
	noShown atomic.Pointer[fault] // nil: the certificate that is kept is in use
	noACME  atomic.Pointer[fault] // likewise of what is set for ACME
	asking  atomic.Bool           // an attempt runs
	proofs  proofs
	kick    chan struct{}
	ask     func(ctx context.Context, a account) (Bundle, string, error) // obtain
}

// New loads what is kept. What cannot be read is logged and told by State, and not replaced;
// where the store was at fault, Run and every change try again.
func New(ctx context.Context, c Config) (*Keeper, error) {
	if c.Own == nil || c.Store == nil || c.Log == nil || c.Note == nil {
		return nil, errors.New("making the keeper of server certificates: own certificate, store, log and note are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Share == nil {
		c.Share = rand.Float64
	}
	c.Names = lower(c.Names)
	k := &Keeper{config: c, kick: make(chan struct{}, 1)}
	k.ask = k.obtain
	k.load(ctx)
	return k, nil
}

// now is the wall clock, which is what times that are kept are held against: a reading of the
// monotonic one would stand still while the machine is paused, and does not outlive a start.
func (k *Keeper) now() time.Time { return k.config.Now().UTC() }

func lower(names []string) []string {
	var out []string
	for _, n := range names {
		if n = strings.ToLower(strings.TrimSuffix(n, ".")); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
