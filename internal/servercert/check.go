package servercert

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lazaret/pki"
)

// check is what a bundle is held to.
type check struct {
	names []string       // that it has to cover
	now   time.Time      // it is to be valid then
	roots *x509.CertPool // that its last issuer is under, unless the file holds it; nil: not looked at
}

// run finds all that is wrong, and returns the bundle without the root at its end, which no
// client needs. The error is *Faults.
func (c check) run(b Bundle) (Bundle, error) {
	var f Faults
	root := b.root()
	out := Bundle{Chain: b.Chain, Key: b.Key}
	if root != nil {
		out.Chain = b.Chain[:len(b.Chain)-1]
	}
	leaf := b.Chain[0]
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		f.add("the first certificate, of %s, is an authority's", "put the server's certificate first; a certificate that may sign others is not taken", who(leaf))
	}
	c.key(&f, b)
	c.naming(&f, leaf)
	c.usage(&f, leaf)
	c.validity(&f, b.Chain)
	signatures(&f, b.Chain, root)
	if order(&f, b.Chain) && len(f) == 0 && c.roots != nil {
		c.complete(&f, out.Chain, root)
	}
	return out, f.err()
}

// root is the self-signed certificate at the end of a chain, or nil.
func (b Bundle) root() *x509.Certificate {
	last := b.Chain[len(b.Chain)-1]
	if len(b.Chain) > 1 && bytes.Equal(last.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(last) == nil {
		return last
	}
	return nil
}

func who(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return fmt.Sprintf("%.80q", c.Subject.CommonName)
	}
	if len(c.DNSNames) > 0 {
		return fmt.Sprintf("%.80q", c.DNSNames[0])
	}
	return fmt.Sprintf("%.80q", c.Subject.String())
}

func (c check) key(f *Faults, b Bundle) {
	leaf := b.Chain[0]
	if b.Key == nil {
		f.add("the gateway has no key for the certificate of %s", "give the key with --key-file, or ask the authority with what lazaretctl certificate csr prints", who(leaf))
	} else if !fits(leaf, b.Key) {
		f.add("the key is not that of the certificate of %s", "give the key that this certificate was asked for with", who(leaf))
	}
	if _, ok := leaf.PublicKey.(ed25519.PublicKey); ok {
		f.add("the certificate has an Ed25519 key, which browsers do not know", "ask for one with P-256, P-384 or RSA")
	} else if err := pki.CheckKey(leaf.PublicKey, pki.Allow{RSA: true}); err != nil {
		f.add("the key of the certificate of %s is not strong enough: %v", "ask for one with P-256, P-384 or RSA of 2048 to 4096 bits", who(leaf), err)
	}
}

func (c check) naming(f *Faults, leaf *x509.Certificate) {
	var missing []string
	for _, n := range c.names {
		if leaf.VerifyHostname(n) != nil {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		has := "none"
		if len(leaf.DNSNames) > 0 {
			has = strings.Join(leaf.DNSNames[:min(len(leaf.DNSNames), 8)], ", ")
		}
		f.add("the certificate does not bear %s, only %.300s", "ask for one with all names of enroll.names as subjectAltName", strings.Join(missing, ", "), has)
	}
}

// oidFeature is TLS features (RFC 7633); with status_request, clients insist on a stapled
// OCSP answer.
var oidFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

func (c check) usage(f *Faults, leaf *x509.Certificate) {
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		f.add("the certificate is not for servers", "ask for one with extended key usage serverAuth")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		f.add("the certificate's key may not sign, as TLS 1.3 does", "ask for one with key usage digitalSignature")
	}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(oidFeature) {
			f.add("the certificate demands a stapled OCSP answer, which the gateway does not send", "ask for one without \"must staple\"")
		}
	}
}

// leeway is how far ahead of the gateway's clock that of an authority may be: a certificate that
// begins so soon is taken, and shown once it has begun.
const leeway = 5 * time.Minute

func (c check) validity(f *Faults, chain []*x509.Certificate) {
	for _, x := range chain {
		switch {
		case c.now.Add(leeway).Before(x.NotBefore):
			f.add("the certificate of %s is valid from %s on, and it is %s", "wait until then, or see that the gateway's clock is right", who(x), stamp(x.NotBefore), stamp(c.now))
		case !c.now.Before(x.NotAfter):
			f.add("the certificate of %s ended on %s, and it is %s", "give the one that came after it", who(x), stamp(x.NotAfter), stamp(c.now))
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// good are the signature algorithms that count.
var good = []x509.SignatureAlgorithm{
	x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
}

// signatures looks at how certificates are signed, and with what keys. A root vouches for
// itself by being known, so that its own signature counts for nothing.
func signatures(f *Faults, chain []*x509.Certificate, root *x509.Certificate) {
	for i, x := range chain {
		if x != root && !slices.Contains(good, x.SignatureAlgorithm) {
			f.add("the certificate of %s is signed with %s", "ask for one that is signed with SHA-256 or better", who(x), x.SignatureAlgorithm)
		}
		if k, ok := x.PublicKey.(*rsa.PublicKey); i > 0 && ok && k.N.BitLen() < 2048 {
			f.add("the authority %s has an RSA key of %d bits", "ask an authority that has one of 2048 to %d bits", who(x), k.N.BitLen(), maxRSA)
		}
	}
}

// order says whether each certificate is signed by the next.
func order(f *Faults, chain []*x509.Certificate) bool {
	for i := range chain[:len(chain)-1] {
		child, parent := chain[i], chain[i+1]
		if bytes.Equal(child.RawIssuer, parent.RawSubject) && child.CheckSignatureFrom(parent) == nil {
			continue
		}
		f.add("certificate %d, of %s, is not signed by certificate %d, of %s", "put the certificate first, then its issuer, then that one's, and nothing else: "+better(chain),
			i+1, who(child), i+2, who(parent))
		return false
	}
	return true
}

// better says in which order the certificates of a file make a chain.
func better(chain []*x509.Certificate) string {
	at := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return !c.IsCA })
	if at < 0 {
		return "there is no server's certificate among them"
	}
	last := chain[at]
	words := []string{who(last)}
	for len(words) < len(chain) {
		i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c != last && bytes.Equal(c.RawSubject, last.RawIssuer) })
		if i < 0 {
			break
		}
		last = chain[i]
		words = append(words, who(last))
	}
	if !bytes.Equal(last.RawIssuer, last.RawSubject) {
		words = append(words, fmt.Sprintf("then %.80q if that is no root", last.Issuer.CommonName))
	}
	return strings.Join(words, ", ")
}

// complete verifies the chain as a client does that knows the root.
func (c check) complete(f *Faults, chain []*x509.Certificate, root *x509.Certificate) {
	begin, _ := span(chain)
	o := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool(), CurrentTime: latest(c.now, begin), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if root != nil {
		o.Roots = x509.NewCertPool()
		o.Roots.AddCert(root)
	}
	for _, x := range chain[1:] {
		o.Intermediates.AddCert(x)
	}
	_, err := chain[0].Verify(o)
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		last := chain[len(chain)-1]
		f.add("the chain ends with %s, whose issuer %.80q is no public authority that the gateway knows", "add the certificates of its issuers; where the root is your organization's own, add that, too, as the last", who(last), last.Issuer.CommonName)
	} else if err != nil {
		f.add("clients would refuse the chain: %v", "ask the authority why it issues this", err)
	}
}
