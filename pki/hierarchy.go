package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"lazaret/internal/form"
)

const (
	day           = 24 * time.Hour
	rootLife      = 20 * 365 * day
	issuerLife    = 10 * 365 * day
	responderLife = 365 * day
)

// HierarchyConfig says what NewHierarchy makes.
type HierarchyConfig struct {
	Organization  string           // required: 1 to 64 printable characters
	Now           func() time.Time // optional: time.Now
	RootLife      time.Duration    // optional: 20 years
	IssuerLife    time.Duration    // optional: 10 years, never past the root's end
	ResponderLife time.Duration    // optional: 1 year
}

// Hierarchy is an organization's authorities with their keys. Once it is made,
// Root.Key may be taken away and kept elsewhere: nothing in daily use needs it.
type Hierarchy struct {
	Root, Devices, Servers, Administrators KeyPair
	Responder                              KeyPair // signs CMP answers
}

// NewHierarchy makes a root, three issuing authorities (all P-256) and a CMP
// responder. Each authority's certificate names the usages it may issue for, and none may
// make another authority (RFC 5280, sections 4.2.1.9 and 4.2.1.12).
func NewHierarchy(c HierarchyConfig) (Hierarchy, error) {
	if err := form.Common(c.Organization); err != nil {
		return Hierarchy{}, fmt.Errorf("making authorities: organization: %w", err)
	}
	if c.RootLife < 0 || c.IssuerLife < 0 || c.ResponderLife < 0 {
		return Hierarchy{}, errors.New("making authorities: a lifetime is negative")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m := maker{organization: c.Organization, now: c.Now().UTC().Truncate(time.Second)}
	var h Hierarchy
	h.Root = m.authority(KeyPair{}, "Root CA", or(c.RootLife, rootLife))
	life := or(c.IssuerLife, issuerLife)
	h.Devices = m.authority(h.Root, "Devices CA", life, x509.ExtKeyUsageClientAuth)
	h.Servers = m.authority(h.Root, "Servers CA", life, x509.ExtKeyUsageServerAuth)
	h.Administrators = m.authority(h.Root, "Administrators CA", life, x509.ExtKeyUsageClientAuth)
	if m.err != nil {
		return Hierarchy{}, fmt.Errorf("making authorities: %w", m.err)
	}
	a, err := New(Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers,
		Administrators: h.Administrators, Now: c.Now})
	if err != nil {
		return Hierarchy{}, fmt.Errorf("making authorities: %w", err)
	}
	h.Responder, err = a.NewResponder(context.Background(), or(c.ResponderLife, responderLife))
	if err != nil {
		return Hierarchy{}, fmt.Errorf("making authorities: %w", err)
	}
	return h, nil
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// maker makes authorities until the first error, which it keeps.
type maker struct {
	organization string
	now          time.Time
	err          error
}

// authority makes a root when parent is zero, and an issuing authority otherwise.
func (m *maker) authority(parent KeyPair, name string, life time.Duration, usage ...x509.ExtKeyUsage) KeyPair {
	if m.err != nil {
		return KeyPair{}
	}
	made, err := m.make(parent, name, life, usage)
	if err != nil {
		m.err = fmt.Errorf("making %s: %w", name, err)
		return KeyPair{}
	}
	return made
}

func (m *maker) make(parent KeyPair, name string, life time.Duration, usage []x509.ExtKeyUsage) (KeyPair, error) {
	key, err := GenerateKey()
	if err != nil {
		return KeyPair{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return KeyPair{}, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return KeyPair{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{m.organization}, CommonName: name},
		NotBefore:             m.now.Add(-backdate),
		NotAfter:              m.now.Add(life),
		PublicKey:             key.Public(),
		SubjectKeyId:          id,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           usage,
	}
	if parent.Certificate == nil {
		template.MaxPathLen = 1
		parent = KeyPair{Certificate: template, Key: key} // it signs itself
	} else {
		template.MaxPathLenZero = true
		if end := parent.Certificate.NotAfter; template.NotAfter.After(end) {
			template.NotAfter = end
		}
		if usage[0] == x509.ExtKeyUsageServerAuth {
			template.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidCMCRA, oidConfigSigning} // see Responder and Manager
		}
	}
	der, err := parent.sign(template)
	if err != nil {
		return KeyPair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return KeyPair{Certificate: cert, Key: key}, err
}

// NewResponder makes a key and a certificate for signing CMP answers, which takes over
// from one that nears its end.
func (a *Authority) NewResponder(ctx context.Context, life time.Duration) (KeyPair, error) {
	key, err := GenerateKey()
	if err != nil {
		return KeyPair{}, fmt.Errorf("making CMP responder: %w", err)
	}
	cert, err := a.Issue(ctx, Request{Kind: Responder, PublicKey: key.Public(), CommonName: "CMP responder",
		NotAfter: a.now().Add(life)})
	if err != nil {
		return KeyPair{}, fmt.Errorf("making CMP responder: %w", err)
	}
	return KeyPair{Certificate: cert, Key: key}, nil
}

// newSerial returns 128 random bits, and draws again below 2^64 (RFC 5280, section
// 4.1.2.2, wants a positive number of at most 20 bytes).
func newSerial() (*big.Int, error) {
	for {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("drawing serial number: %w", err)
		}
		if n := new(big.Int).SetBytes(b[:]); n.BitLen() > 64 {
			return n, nil
		}
	}
}

// keyID returns the subject key identifier of pub: the first 160 bits of SHA-256 of the
// key's bits (RFC 7093, section 2, method 1).
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	sum := sha256.Sum256(spki.Key.Bytes)
	return sum[:20], nil
}
