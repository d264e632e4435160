package agent

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
)

// EnrollOptions says how to enroll this device.
type EnrollOptions struct {
	Dir     string // required: state directory
	Server  string // required: URL of the gateway
	Code    code.Code
	RootPin []byte // optional: SHA-256 of the root, from a link
	Force   bool   // replace an enrollment that is there
	Log     *slog.Logger
}

// Enroll exchanges a one-time password for a certificate and keeps both keys, the
// certificate, the trust root and the settings. On failure what was there stays.
func Enroll(ctx context.Context, o EnrollOptions) (*client.Result, error) {
	s, err := openStore(o.Dir)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := s.load(); err == nil && !o.Force {
		return nil, fmt.Errorf("this device is enrolled already (%s): add --force to enroll it anew", o.Dir)
	}
	said := claim(ctx)
	c, err := client.New(client.Config{Server: o.Server, Log: o.Log, RootPin: o.RootPin, Claim: &said})
	if err != nil {
		return nil, err
	}
	return c.Enroll(ctx, o.Code, &enrollment{store: s, server: o.Server})
}

// enrollment keeps what an enrollment makes.
type enrollment struct {
	store  store
	server string
}

// Keys makes both keys, or returns those of an enrollment that was cut short.
func (e *enrollment) Keys(context.Context) (client.Keys, error) {
	key, err := e.store.key(keyFile, newCertificateKey)
	if err != nil {
		return client.Keys{}, err
	}
	return e.store.withWireGuard(key)
}

func (e *enrollment) Save(_ context.Context, r *client.Result) error {
	st := state{Server: e.server, User: owner(), Enrolled: time.Now().UTC()}
	return e.store.save(st.with(r))
}

// with takes a new certificate and what came with it.
func (st state) with(r *client.Result) state {
	st.Root, st.Certificate, st.Settings, st.Obtained = r.Root.Raw, r.Certificate.Raw, r.Settings, time.Now().UTC()
	st.Listeners, st.ProofKeyID, st.ProofKey = r.Welcome.ListenerKeys, r.Welcome.ProofKeyID, r.Welcome.ProofKey
	st.Chain = nil
	for _, c := range r.Chain {
		st.Chain = append(st.Chain, c.Raw)
	}
	return st
}

// result is the enrollment in the client's shape, for a renewal.
func (st state) result() (*client.Result, error) {
	root, err := x509.ParseCertificate(st.Root)
	if err != nil {
		return nil, fmt.Errorf("reading the pinned root: %w", err)
	}
	leaf, err := x509.ParseCertificate(st.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading the device's certificate: %w", err)
	}
	r := &client.Result{Certificate: leaf, Root: root, Settings: st.Settings}
	r.Welcome = cmp.Welcome{Version: 1, ListenerKeys: st.Listeners, ProofKeyID: st.ProofKeyID, ProofKey: st.ProofKey}
	for _, der := range st.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading the issuing certificate: %w", err)
		}
		r.Chain = append(r.Chain, c)
	}
	return r, nil
}

func newCertificateKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// withWireGuard adds the tunnel's key, which a renewal keeps.
func (s store) withWireGuard(key crypto.Signer) (client.Keys, error) {
	wg, err := s.wireguard()
	if err != nil {
		return client.Keys{}, err
	}
	x, err := ecdh.X25519().NewPrivateKey(wg.Bytes())
	if err != nil {
		return client.Keys{}, fmt.Errorf("reading the tunnel's key: %w", err)
	}
	return client.Keys{Certificate: key, WireGuard: x}, nil
}

// owner is who enrolls: behind sudo, the user who called it.
func owner() int {
	if uid, err := strconv.Atoi(os.Getenv("SUDO_UID")); err == nil && os.Getuid() == 0 {
		return uid
	}
	return os.Getuid()
}

// renewals renews the certificate at two thirds of its life, and on failure again at
// intervals that shrink with what is left.
func (a *Agent) renewals(ctx context.Context) error {
	for {
		st := a.snapshot()
		cert, err := a.store.certificate(st)
		if err != nil {
			return err
		}
		if err := wait(ctx, max(time.Until(renewAt(st.Obtained, cert.Leaf)), time.Second)); err != nil {
			return err
		}
		if err := a.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.log.Warn("renewing the certificate", "err", err, "expires", cert.Leaf.NotAfter)
			if err := wait(ctx, renewAgain(time.Until(cert.Leaf.NotAfter))); err != nil {
				return err
			}
		}
	}
}

// renewAt is two thirds into the life of a certificate that came at that time. Its
// NotBefore lies further back, for devices whose clock is behind, and would not do.
func renewAt(obtained time.Time, leaf *x509.Certificate) time.Time {
	if obtained.Before(leaf.NotBefore) || obtained.After(leaf.NotAfter) {
		obtained = leaf.NotBefore
	}
	return obtained.Add(leaf.NotAfter.Sub(obtained) * 2 / 3)
}

// renewAgain is how long to wait after a renewal that failed, with so much of the
// certificate's life left. Past its end only a new one-time password helps.
func renewAgain(left time.Duration) time.Duration {
	if left <= 0 {
		return 10 * time.Minute
	}
	return min(max(left/20, 5*time.Second), time.Hour)
}

func (a *Agent) snapshot() state {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// renew exchanges the certificate for one with a new key; the old one stays until the
// new one is safe.
func (a *Agent) renew(ctx context.Context) error {
	a.renewing.Store(true)
	defer a.renewing.Store(false)
	st := a.snapshot()
	current, err := st.result()
	if err != nil {
		return err
	}
	key, err := a.store.key(keyFile, nil)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{Server: st.Server, Log: a.log, Attempts: 3})
	if err != nil {
		return err
	}
	if _, err := c.Renew(ctx, current, key, &renewal{agent: a}); err != nil && !errors.Is(err, client.ErrUnconfirmed) {
		return err
	}
	a.log.Info("certificate renewed")
	return a.connect()
}

// renewal keeps what a renewal makes.
type renewal struct{ agent *Agent }

func (r *renewal) Keys(context.Context) (client.Keys, error) {
	key, err := r.agent.store.key(nextKeyFile, newCertificateKey)
	if err != nil {
		return client.Keys{}, err
	}
	return r.agent.store.withWireGuard(key)
}

// Save keeps the certificate, then its key: between the two the start-up check of
// certificate and key finds the next key by itself.
func (r *renewal) Save(_ context.Context, res *client.Result) error {
	a := r.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.state.with(res)
	if len(next.Listeners) == 0 {
		next.Listeners = a.state.Listeners
	}
	if err := a.store.save(next); err != nil {
		return err
	}
	a.state = next
	return a.store.settleKey(next)
}
