package daemon

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"lazaret/enroll"
	"lazaret/internal/store"
	"lazaret/pki"
)

// Names of the organization's secrets in the store, each sealed.
const (
	secretRoot           = "ca/root" // the key may be removed once it is exported
	secretDevices        = "ca/devices"
	secretServers        = "ca/servers"
	secretAdministrators = "ca/administrators"
	secretResponder      = "ca/responder"
	secretProof          = "enroll/proof"
)

// keyPair is how a certificate and its key are kept. Key is empty where it was removed.
type keyPair struct {
	Version     int    `json:"v"`
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS#8
}

func savePair(ctx context.Context, s *store.Secrets, name string, p pki.KeyPair) error {
	key, err := pki.MarshalKey(p.Key)
	if err != nil {
		return fmt.Errorf("keeping %s: %w", name, err)
	}
	return saveBlob(ctx, s, name, keyPair{Version: 1, Certificate: p.Certificate.Raw, Key: key})
}

func saveBlob(ctx context.Context, s *store.Secrets, name string, v any) error {
	blob, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("keeping %s: %w", name, err)
	}
	if err := s.Put(ctx, name, blob); err != nil {
		return fmt.Errorf("keeping %s: %w", name, err)
	}
	return nil
}

func loadBlob(ctx context.Context, s *store.Secrets, name string, v any) error {
	blob, err := s.Get(ctx, name)
	if err != nil {
		return fmt.Errorf("loading %s: %w", name, err)
	}
	if err := json.Unmarshal(blob, v); err != nil {
		return fmt.Errorf("loading %s: %w", name, err)
	}
	return nil
}

func loadCertificate(ctx context.Context, s *store.Secrets, name string) (*x509.Certificate, keyPair, error) {
	var p keyPair
	if err := loadBlob(ctx, s, name, &p); err != nil {
		return nil, p, err
	}
	cert, err := x509.ParseCertificate(p.Certificate)
	if err != nil {
		return nil, p, fmt.Errorf("loading %s: %w", name, err)
	}
	return cert, p, nil
}

func loadPair(ctx context.Context, s *store.Secrets, name string) (pki.KeyPair, error) {
	cert, p, err := loadCertificate(ctx, s, name)
	if err != nil {
		return pki.KeyPair{}, err
	}
	key, err := pki.ParseKey(p.Key)
	if err != nil {
		return pki.KeyPair{}, fmt.Errorf("loading %s: %w", name, err)
	}
	return pki.KeyPair{Certificate: cert, Key: key}, nil
}

// authorities is what signs: the three issuing authorities, the CMP responder, and the
// key of the WireGuard proof. The root's key is not among them.
type authorities struct {
	*pki.Authority
	proof []enroll.ProofKey

	mu        sync.Mutex // guards responder
	responder pki.KeyPair
}

// Responder is what signs CMP answers at present.
func (a *authorities) Responder() enroll.Responder {
	a.mu.Lock()
	defer a.mu.Unlock()
	return enroll.Responder{Key: a.responder.Key, Certs: []*x509.Certificate{a.responder.Certificate, a.Issuing(pki.Responder)}}
}

// responderLife is the life of a CMP responder's certificate; a new one is made when two
// thirds of it are over.
const responderLife = 365 * 24 * time.Hour

// renewResponder makes a new CMP responder if the present one nears its end.
func (a *authorities) renewResponder(ctx context.Context, s *store.Secrets, now time.Time) error {
	a.mu.Lock()
	cert := a.responder.Certificate
	a.mu.Unlock()
	if now.Before(cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)) {
		return nil
	}
	next, err := a.NewResponder(ctx, responderLife)
	if err != nil {
		return fmt.Errorf("renewing the CMP responder: %w", err)
	}
	if err := savePair(ctx, s, secretResponder, next); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.responder = next
	return nil
}

// keepResponder looks after the CMP responder once a day.
func (k *control) keepResponder(ctx context.Context) error {
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		if err := k.ca.renewResponder(ctx, k.store.Secrets(), time.Now()); err != nil && ctx.Err() == nil {
			k.log.Error("CMP responder", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-day.C:
		}
	}
}

func loadAuthorities(ctx context.Context, s *store.Secrets) (*authorities, error) {
	root, _, err := loadCertificate(ctx, s, secretRoot)
	if err != nil {
		return nil, err
	}
	var pairs [4]pki.KeyPair
	for i, name := range []string{secretDevices, secretServers, secretAdministrators, secretResponder} {
		if pairs[i], err = loadPair(ctx, s, name); err != nil {
			return nil, err
		}
	}
	a, err := pki.New(pki.Config{Root: root, Devices: pairs[0], Servers: pairs[1], Administrators: pairs[2]})
	if err != nil {
		return nil, err
	}
	proof, err := loadProof(ctx, s)
	if err != nil {
		return nil, err
	}
	return &authorities{Authority: a, responder: pairs[3], proof: proof}, nil
}

// saveHierarchy keeps what NewHierarchy made, each pair sealed under a name of its own.
func saveHierarchy(ctx context.Context, s *store.Secrets, h pki.Hierarchy) error {
	for name, pair := range map[string]pki.KeyPair{
		secretRoot: h.Root, secretDevices: h.Devices, secretServers: h.Servers,
		secretAdministrators: h.Administrators, secretResponder: h.Responder,
	} {
		if err := savePair(ctx, s, name, pair); err != nil {
			return err
		}
	}
	return nil
}

// proofKeys is how the X25519 keys of the WireGuard proof are kept, current first.
type proofKeys struct {
	Version int        `json:"v"`
	Keys    []proofKey `json:"keys"`
}

type proofKey struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

func newProof(ctx context.Context, s *store.Secrets) error {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making the proof key: %w", err)
	}
	return saveBlob(ctx, s, secretProof, proofKeys{Version: 1, Keys: []proofKey{{ID: "1", Key: key.Bytes()}}})
}

func loadProof(ctx context.Context, s *store.Secrets) ([]enroll.ProofKey, error) {
	var kept proofKeys
	if err := loadBlob(ctx, s, secretProof, &kept); err != nil {
		return nil, err
	}
	var out []enroll.ProofKey
	for _, k := range kept.Keys {
		key, err := ecdh.X25519().NewPrivateKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("loading proof key %s: %w", k.ID, err)
		}
		out = append(out, enroll.ProofKey{ID: k.ID, Key: key})
	}
	return out, nil
}

// secretFile is one named secret as pki.KeyStore wants it.
type secretFile struct {
	secrets *store.Secrets
	name    string
}

func (f secretFile) Load(ctx context.Context) ([]byte, error) {
	b, err := f.secrets.Get(ctx, f.name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", f.name, fs.ErrNotExist)
	}
	return b, err
}

func (f secretFile) Save(ctx context.Context, blob []byte) error {
	return f.secrets.Put(ctx, f.name, blob)
}
