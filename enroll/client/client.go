// Package client is the device's half of enrollment: with a one-time password it finds
// out whether the gateway is the right one, asks for a certificate, and confirms it; later
// it renews the certificate. It knows no CA and keeps nothing: keys and certificates are
// the caller's Store's.
package client

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"time"

	"lazaret/enroll/cmp"
)

var (
	// ErrInBetween: the answer is not the gateway's, or the connection is not. Before a
	// certificate is there a wrong code looks the same, and the error says so; the code
	// stays usable.
	ErrInBetween = errors.New("someone is in between: nothing was accepted")
	// ErrRefused: the gateway said no, and does not tell strangers why.
	ErrRefused = errors.New("the gateway refused: the code is wrong, expired, cancelled or used, or this device is not admitted; check the code, or ask for a new one")
	// ErrRootChanged: a later answer comes from under another root than the recorded one.
	ErrRootChanged = errors.New("THE GATEWAY'S ROOT CERTIFICATE HAS CHANGED: someone may be in between. Nothing was accepted; ask the administrator, who can issue a code to enroll again")
	// ErrUnconfirmed comes with a Result: the certificate is good and saved, but the gateway
	// may not know. It withdraws what is neither confirmed nor used within a day.
	ErrUnconfirmed = errors.New("certificate received but not confirmed: connect to the gateway within a day")
)

// WaitingError says that a person has to approve first. Ask again, with the same code and
// keys, after that time.
type WaitingError struct{ After time.Duration }

func (e *WaitingError) Error() string {
	return fmt.Sprintf("enrollment waits for approval: ask again in %s", e.After)
}

// Keys are the device's two private keys.
type Keys struct {
	Certificate crypto.Signer    // P-256, P-384, Ed25519, or RSA where the profile allows it
	WireGuard   *ecdh.PrivateKey // X25519
}

// Store keeps what an enrollment or renewal makes. Both methods return once it is safe on
// disk, and may be called again after a failure.
type Store interface {
	// Keys returns the keys to enroll or renew with, made when first asked for and the
	// same ever after: a lost answer is asked for again with the same keys.
	Keys(ctx context.Context) (Keys, error)
	// Save keeps the result, before the gateway is told that it arrived.
	Save(ctx context.Context, r *Result) error
}

// Result is what a device holds once enrolled.
type Result struct {
	Certificate *x509.Certificate
	Chain       []*x509.Certificate // issuers, without the root
	Root        *x509.Certificate
	Welcome     cmp.Welcome
	Settings    cmp.Settings
}

// Config makes a Client.
type Config struct {
	Server   string        // required: https://host or https://host:port
	Log      *slog.Logger  // required
	RootPin  []byte        // optional: SHA-256 of the root's DER, from a QR code or link
	Claim    *cmp.Claim    // optional: what the device says of itself; identifies and proves nothing
	Attempts int           // optional: tries of each message, 5 by default
	Backoff  time.Duration // optional: before the second try, doubled each time; 1 s by default
	Timeout  time.Duration // optional: of one try, 30 s by default
	// Dial opens the TCP connection; optional, net.Dialer by default.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Now  func() time.Time // optional: time.Now by default
}

// Client enrolls at one gateway. It is safe for one enrollment or renewal at a time.
type Client struct {
	cfg  Config
	url  *url.URL
	addr string
}

// New checks the configuration; nothing is sent.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("gateway address %q: want https://host or https://host:port", cfg.Server)
	}
	if cfg.Log == nil {
		return nil, errors.New("enrollment client needs a log")
	}
	if len(cfg.RootPin) != 0 && len(cfg.RootPin) != 32 {
		return nil, fmt.Errorf("expected root: want a SHA-256 of 32 bytes, got %d", len(cfg.RootPin))
	}
	cfg.Attempts = max(cfg.Attempts, 0)
	if cfg.Attempts == 0 {
		cfg.Attempts = 5
	}
	if cfg.Backoff <= 0 {
		cfg.Backoff = time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return &Client{cfg: cfg, url: u.JoinPath("/.well-known/cmp"), addr: net.JoinHostPort(u.Hostname(), port)}, nil
}
