package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Config says what an Authority issues from.
type Config struct {
	Root           *x509.Certificate // required
	Devices        KeyPair           // required
	Servers        KeyPair           // required
	Administrators KeyPair           // required
	Now            func() time.Time  // optional: time.Now
}

// Authority issues and verifies leaf certificates. It is safe for concurrent use.
type Authority struct {
	root    *x509.Certificate
	issuers map[Kind]*issuer // Device, Server, Administrator
	now     func() time.Time
}

// issuer is one issuing authority.
type issuer struct {
	cert   *x509.Certificate
	pool   *x509.CertPool // cert alone
	signer signer
}

// New checks the certificates against each other and against their keys: a root that signed
// itself, three authorities below it, each with the usages of its kind and no others. It
// looks at no clock: an Authority past its end exists, and issues and verifies nothing.
func New(c Config) (*Authority, error) {
	if err := checkRoot(c.Root); err != nil {
		return nil, fmt.Errorf("checking root: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Authority{root: c.Root, issuers: make(map[Kind]*issuer), now: c.Now}
	for _, each := range []struct {
		kind Kind
		pair KeyPair
	}{{Device, c.Devices}, {Server, c.Servers}, {Administrator, c.Administrators}} {
		is, err := newIssuer(each.kind, each.pair, c.Root)
		if err != nil {
			return nil, fmt.Errorf("checking the authority of kind %s: %w", each.kind, err)
		}
		for kind, other := range a.issuers { // or one's leaves would pass as the other's
			if bytes.Equal(is.cert.RawSubjectPublicKeyInfo, other.cert.RawSubjectPublicKeyInfo) {
				return nil, fmt.Errorf("checking the authority of kind %s: same key as %s", each.kind, kind)
			}
		}
		a.issuers[each.kind] = is
	}
	return a, nil
}

func checkRoot(root *x509.Certificate) error {
	if root == nil {
		return errors.New("certificate missing")
	}
	if err := checkAuthority(root); err != nil {
		return err
	}
	if len(root.ExtKeyUsage)+len(root.UnknownExtKeyUsage) != 0 {
		return errors.New("restricted to some usages")
	}
	if root.MaxPathLen != 1 {
		return errors.New("path length is not 1")
	}
	if !bytes.Equal(root.RawIssuer, root.RawSubject) {
		return errors.New("signed by another")
	}
	return root.CheckSignatureFrom(root)
}

func newIssuer(kind Kind, pair KeyPair, root *x509.Certificate) (*issuer, error) {
	if err := pair.check(); err != nil {
		return nil, err
	}
	cert := pair.Certificate
	if err := checkAuthority(cert); err != nil {
		return nil, err
	}
	if cert.MaxPathLen != 0 || !cert.MaxPathLenZero {
		return nil, errors.New("may make further authorities: path length is not 0")
	}
	usage, unknown := usages(kind)
	same := func(ids []asn1.ObjectIdentifier) bool {
		return slices.EqualFunc(cert.UnknownExtKeyUsage, ids, asn1.ObjectIdentifier.Equal)
	}
	older := len(unknown) == 2 && same(unknown[:1]) // made before there was a Manager
	if !slices.Equal(cert.ExtKeyUsage, usage) || !same(unknown) && !older {
		return nil, errors.New("allows other usages than its kind")
	}
	if cert.NotAfter.After(root.NotAfter) {
		return nil, errors.New("ends after the root")
	}
	if !bytes.Equal(cert.RawIssuer, root.RawSubject) {
		return nil, errors.New("issued by another root")
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &issuer{cert: cert, pool: pool, signer: pair}, nil
}

// usages returns what the authority that issues a kind may issue for: the usages of all
// kinds it issues.
func usages(issuer Kind) (known []x509.ExtKeyUsage, unknown []asn1.ObjectIdentifier) {
	for _, k := range []Kind{Device, Server, Administrator, Responder, Manager} {
		if p, _ := k.profile(); p.issuer == issuer {
			known = append(known, p.usage...)
			unknown = append(unknown, p.unknown...)
		}
	}
	return known, unknown
}

func checkAuthority(cert *x509.Certificate) error {
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return errors.New("not an authority's certificate")
	}
	if cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		return errors.New("key usage is not to sign certificates and revocation lists")
	}
	if len(cert.SubjectKeyId) == 0 {
		return errors.New("no subject key identifier")
	}
	return CheckKey(cert.PublicKey, Allow{})
}

// Root returns the root certificate. It is not to be changed.
func (a *Authority) Root() *x509.Certificate { return a.root }

// Issuing returns the certificate of the authority that issues leaves of a kind, and nil
// for an unknown kind. It is not to be changed.
func (a *Authority) Issuing(k Kind) *x509.Certificate {
	if is := a.issuer(k); is != nil {
		return is.cert
	}
	return nil
}

func (a *Authority) issuer(k Kind) *issuer {
	p, ok := k.profile()
	if !ok {
		return nil
	}
	return a.issuers[p.issuer]
}

// DevicePool returns the devices' authority alone, as tls.Config.ClientCAs wants it.
func (a *Authority) DevicePool() *x509.CertPool { return a.issuers[Device].pool.Clone() }

// AdministratorPool returns the administrators' authority alone, as tls.Config.ClientCAs
// wants it.
func (a *Authority) AdministratorPool() *x509.CertPool { return a.issuers[Administrator].pool.Clone() }

// ServerPool returns the servers' authority alone, as tls.Config.RootCAs wants it.
func (a *Authority) ServerPool() *x509.CertPool { return a.issuers[Server].pool.Clone() }

// RootPool returns the root alone. Every certificate of the organization chains to it,
// devices' and administrators' alike: it decides nothing about who somebody is.
func (a *Authority) RootPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// VerifyDevice returns nil only for a leaf of the devices' authority, valid at now. It
// knows nothing of revocation.
func (a *Authority) VerifyDevice(leaf *x509.Certificate, now time.Time) error {
	return a.verify(Device, leaf, now)
}

// VerifyAdministrator returns nil only for a leaf of the administrators' authority, valid
// at now. It knows nothing of revocation.
func (a *Authority) VerifyAdministrator(leaf *x509.Certificate, now time.Time) error {
	return a.verify(Administrator, leaf, now)
}

// VerifyServer returns nil only for a server's leaf of the servers' authority, valid at
// now. It compares no names.
func (a *Authority) VerifyServer(leaf *x509.Certificate, now time.Time) error {
	return a.verify(Server, leaf, now)
}

// VerifyResponder returns nil only for a CMP responder's leaf, valid at now.
func (a *Authority) VerifyResponder(leaf *x509.Certificate, now time.Time) error {
	return a.verify(Responder, leaf, now)
}

// verify trusts the kind's own authority and nothing else. That authority was checked
// against the root by New, and ends before it.
func (a *Authority) verify(k Kind, leaf *x509.Certificate, now time.Time) error {
	if leaf == nil {
		return fmt.Errorf("verifying %s certificate: there is none", k)
	}
	p, ok := k.profile()
	is := a.issuer(k)
	switch {
	case !ok || is == nil:
		return fmt.Errorf("verifying certificate: unknown kind %q", k)
	case now.Before(a.root.NotBefore): // also the zero time, for which Verify would take its own
		return fmt.Errorf("verifying %s certificate: the root is not valid yet", k)
	case !leaf.BasicConstraintsValid || leaf.IsCA: // Verify accepts a trusted authority as a leaf
		return fmt.Errorf("verifying %s certificate: not a leaf", k)
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("verifying %s certificate: other key usage", k)
	case !slices.Equal(leaf.ExtKeyUsage, p.usage),
		!slices.EqualFunc(leaf.UnknownExtKeyUsage, p.unknown, asn1.ObjectIdentifier.Equal):
		return fmt.Errorf("verifying %s certificate: issued for another use", k)
	}
	opts := x509.VerifyOptions{Roots: is.pool, CurrentTime: now, KeyUsages: p.usage}
	if len(p.usage) == 0 { // compared above: crypto/x509 cannot ask for it
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	if _, err := leaf.Verify(opts); err != nil {
		return fmt.Errorf("verifying %s certificate: %w", k, err)
	}
	return nil
}
