package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// KeyStore keeps one listener's keys. The blob holds private keys in the clear: an
// implementation seals it.
type KeyStore interface {
	// Load returns what Save was last given, or an error that wraps fs.ErrNotExist.
	Load(ctx context.Context) ([]byte, error)
	// Save replaces the blob, wholly or not at all, and returns when it would survive a crash.
	Save(ctx context.Context, blob []byte) error
}

// ListenerConfig says what a Listener shows.
type ListenerConfig struct {
	Authority *Authority       // required
	Name      string           // required: the common name
	Names     []string         // DNS names; at least one name or address is required
	IPs       []netip.Addr     // addresses
	Life      time.Duration    // required: of each certificate
	Store     KeyStore         // required
	Now       func() time.Time // optional: time.Now
	Log       *slog.Logger     // required
}

// Listener holds the server certificate that a gateway's listeners show. There are always
// two keys, the current one and the next: devices learn both, so that a device which was
// away while the key changed still knows the gateway.
type Listener struct {
	config ListenerConfig
	renews sync.Mutex // held while shown is replaced
	shown  atomic.Pointer[shown]
}

// shown is never changed once it is published.
type shown struct {
	certificate   *tls.Certificate // its PrivateKey is current
	current, next crypto.Signer
	sums          [2][32]byte
}

// maxWait is how long Run sleeps at most: timers stand still while a machine is paused,
// and the wall clock does not.
const maxWait = time.Hour

// NewListener loads the keys, or makes and saves them, and has a valid certificate when
// it returns. Keys that cannot be read are an error and are not replaced, since devices
// know them.
func NewListener(ctx context.Context, c ListenerConfig) (*Listener, error) {
	if c.Authority == nil || c.Store == nil || c.Log == nil || c.Life <= 0 {
		return nil, errors.New("making listener certificate: authority, store, log and life are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Names, c.IPs = slices.Clone(c.Names), slices.Clone(c.IPs)
	l := &Listener{config: c}
	if err := l.open(ctx); err != nil {
		return nil, fmt.Errorf("making listener certificate: %w", err)
	}
	return l, nil
}

func (l *Listener) open(ctx context.Context) error {
	blob, err := l.config.Store.Load(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		current, err := GenerateKey()
		if err != nil {
			return err
		}
		next, err := GenerateKey()
		if err != nil {
			return err
		}
		return l.show(ctx, current, next)
	}
	if err != nil {
		return fmt.Errorf("loading keys: %w", err)
	}
	s, leaf, err := parseShown(blob)
	if err != nil {
		return err
	}
	if err := l.fits(leaf, s.sums[0]); err != nil {
		l.config.Log.Info("listener certificate made anew", "reason", err)
		return l.show(ctx, s.current, s.next)
	}
	s.certificate = l.chain(leaf, s.current)
	l.shown.Store(s)
	return nil
}

// fits returns why leaf cannot be shown: nil when it can.
func (l *Listener) fits(leaf *x509.Certificate, key [32]byte) error {
	c := l.config
	if err := c.Authority.VerifyServer(leaf, c.Now()); err != nil {
		return err
	}
	if CertificateSPKISum(leaf) != key {
		return errors.New("it is for another key")
	}
	addresses := make([]netip.Addr, 0, len(leaf.IPAddresses))
	for _, ip := range leaf.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		addresses = append(addresses, a.Unmap())
	}
	wanted := make([]netip.Addr, 0, len(c.IPs))
	for _, a := range c.IPs {
		wanted = append(wanted, a.Unmap())
	}
	if leaf.Subject.CommonName != c.Name || !slices.Equal(leaf.DNSNames, c.Names) || !slices.Equal(addresses, wanted) {
		return errors.New("its names are no longer those configured")
	}
	return nil
}

// Run renews at two thirds of the certificate's life, until ctx ends. A renewal that fails
// is logged and tried again; the old certificate is shown meanwhile.
func (l *Listener) Run(ctx context.Context) error {
	wait := l.wait()
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		wait = l.tick(ctx)
	}
}

// tick renews if it is time, and returns how long to wait until the next look.
func (l *Listener) tick(ctx context.Context) time.Duration {
	if l.config.Now().Before(l.due()) {
		return l.wait()
	}
	leaf := l.shown.Load().certificate.Leaf
	if !leaf.NotAfter.Before(l.config.Authority.Issuing(Server).NotAfter) {
		l.config.Log.Error("listener certificate cannot be renewed: the servers' authority ends with it",
			"not_after", leaf.NotAfter)
		return maxWait
	}
	if err := l.rotate(ctx); err != nil {
		l.config.Log.Error("listener certificate not renewed", "error", err, "not_after", leaf.NotAfter)
		return min(time.Minute, l.config.Life/10)
	}
	return l.wait()
}

// due returns when two thirds of the configured life are over, and no later than when a
// third of the certificate's own is left.
func (l *Listener) due() time.Time {
	leaf, life := l.shown.Load().certificate.Leaf, l.config.Life
	byConfig := leaf.NotBefore.Add(backdate + life - life/3)
	byLeaf := leaf.NotAfter.Add(-min(life, leaf.NotAfter.Sub(leaf.NotBefore)) / 3)
	if byConfig.Before(byLeaf) {
		return byConfig
	}
	return byLeaf
}

func (l *Listener) wait() time.Duration {
	return min(max(l.due().Sub(l.config.Now()), 0), maxWait)
}

// rotate makes the next key the current one and a new key the next one.
func (l *Listener) rotate(ctx context.Context) error {
	l.renews.Lock()
	defer l.renews.Unlock()
	next, err := GenerateKey()
	if err != nil {
		return err
	}
	if err := l.show(ctx, l.shown.Load().next, next); err != nil {
		return err
	}
	l.config.Log.Info("listener certificate renewed", "not_after", l.shown.Load().certificate.Leaf.NotAfter)
	return nil
}

// show issues a certificate for current, saves both keys, and only then shows it: a
// crash in between leaves the old keys, which devices know.
func (l *Listener) show(ctx context.Context, current, next crypto.Signer) error {
	c := l.config
	leaf, err := c.Authority.Issue(ctx, Request{Kind: Server, PublicKey: current.Public(), CommonName: c.Name,
		DNSNames: c.Names, IPs: c.IPs, NotAfter: c.Now().Add(c.Life)})
	if err != nil {
		return err
	}
	s, err := newShown(current, next)
	if err != nil {
		return err
	}
	blob, err := s.marshal(leaf)
	if err != nil {
		return err
	}
	if err := c.Store.Save(ctx, blob); err != nil {
		return fmt.Errorf("saving keys: %w", err)
	}
	s.certificate = l.chain(leaf, current)
	l.shown.Store(s)
	return nil
}

func (l *Listener) chain(leaf *x509.Certificate, key crypto.Signer) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, l.config.Authority.Issuing(Server).Raw},
		PrivateKey: key, Leaf: leaf}
}

// Keys returns SHA-256 of the SubjectPublicKeyInfo of the current key and of the next.
func (l *Listener) Keys() [][32]byte {
	s := l.shown.Load()
	return [][32]byte{s.sums[0], s.sums[1]}
}

// Certificate returns the leaf that is shown now. It is not to be changed.
func (l *Listener) Certificate() *x509.Certificate { return l.shown.Load().certificate.Leaf }

// GetCertificate is for tls.Config. It shows one certificate, with its issuing
// authority's, whatever name the client asks for.
func (l *Listener) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return l.shown.Load().certificate, nil
}

// savedKeys is the blob of a KeyStore.
type savedKeys struct {
	Version     int    `json:"v"` // 1
	Current     []byte `json:"current"`
	Next        []byte `json:"next"`        // both PKCS#8
	Certificate []byte `json:"certificate"` // DER, for Current
}

func newShown(current, next crypto.Signer) (*shown, error) {
	s := &shown{current: current, next: next}
	for i, key := range []crypto.Signer{current, next} {
		var err error
		if s.sums[i], err = SPKISum(key.Public()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *shown) marshal(leaf *x509.Certificate) ([]byte, error) {
	current, err := MarshalKey(s.current)
	if err != nil {
		return nil, err
	}
	next, err := MarshalKey(s.next)
	if err != nil {
		return nil, err
	}
	return json.Marshal(savedKeys{Version: 1, Current: current, Next: next, Certificate: leaf.Raw})
}

func parseShown(blob []byte) (*shown, *x509.Certificate, error) {
	var saved savedKeys
	if err := json.Unmarshal(blob, &saved); err != nil {
		return nil, nil, errors.New("reading saved keys: not in the form they were saved") // the cause could quote a key
	}
	if saved.Version != 1 {
		return nil, nil, fmt.Errorf("reading saved keys: version %d is unknown", saved.Version)
	}
	current, err := ParseKey(saved.Current)
	if err != nil {
		return nil, nil, fmt.Errorf("reading saved keys: %w", err)
	}
	next, err := ParseKey(saved.Next)
	if err != nil {
		return nil, nil, fmt.Errorf("reading saved keys: %w", err)
	}
	leaf, err := x509.ParseCertificate(saved.Certificate)
	if err != nil {
		return nil, nil, fmt.Errorf("reading saved keys: %w", err)
	}
	s, err := newShown(current, next)
	return s, leaf, err
}
