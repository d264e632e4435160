package agent

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
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
	s, err := makeStore(o.Dir)
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
	return e.store.withWireGuard(key, wireguardFile)
}

func (e *enrollment) Save(_ context.Context, r *client.Result) error {
	// What an earlier enrollment was moving to is over: a later renewal must not ask for it.
	for _, old := range []string{nextWireguard, nextKeyFile, managedFile, wipedFile} {
		if err := e.store.remove(old); err != nil {
			return err
		}
	}
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

// withWireGuard adds one of the tunnel's keys, made if it is not there.
func (s store) withWireGuard(key crypto.Signer, name string) (client.Keys, error) {
	wg, err := s.wireguard(name)
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
