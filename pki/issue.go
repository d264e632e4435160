package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"lazaret/internal/form"
)

const (
	maxNames = 64   // of each sort in one certificate
	maxURI   = 1024 // bytes
)

// Request is all that a leaf certificate is made from. There is no place in it for a
// certificate request: what a device asked for and nobody admitted cannot get in.
type Request struct {
	Kind       Kind             // required
	PublicKey  crypto.PublicKey // required: one that CheckKey accepts
	AllowRSA   bool             // the profile allows RSA keys
	CommonName string           // required: 1 to 64 printable characters
	URIs       []*url.URL       // Device and Administrator only
	DNSNames   []string         // Server only, which needs a name or an address
	IPs        []netip.Addr     // Server only
	NotBefore  time.Time        // zero: five minutes ago, for clocks that lag
	NotAfter   time.Time        // required; cut to the end of the issuing authority
}

// Issue makes a certificate from r alone. It is the only way to a leaf, for every door
// and every kind. Each field of the result has been compared with r. Errors wrap ErrKey
// or ErrRequest where r is at fault; anything else is a fault of the signer, and nothing
// it made may be used.
func (a *Authority) Issue(ctx context.Context, r Request) (*x509.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("issuing certificate: %w", err)
	}
	w, err := a.plan(r)
	if err != nil {
		return nil, fmt.Errorf("issuing %q certificate: %w", r.Kind, err)
	}
	template, err := w.template(r.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("issuing %s certificate: %w", r.Kind, err)
	}
	der, err := w.issuer.signer.sign(template)
	if err != nil {
		return nil, fmt.Errorf("issuing %s certificate: signing: %w", r.Kind, err)
	}
	leaf, err := assert(der, w)
	if err != nil {
		return nil, fmt.Errorf("issuing %s certificate: the signed certificate is not what was asked for: %w", r.Kind, err)
	}
	return leaf, nil
}

// plan turns a request into what the certificate must be, or refuses it.
func (a *Authority) plan(r Request) (want, error) {
	p, ok := r.Kind.profile()
	if !ok {
		return want{}, fmt.Errorf("%w: unknown kind", ErrRequest)
	}
	if err := CheckKey(r.PublicKey, Allow{RSA: r.AllowRSA}); err != nil {
		return want{}, err
	}
	if err := form.Common(r.CommonName); err != nil {
		return want{}, fmt.Errorf("%w: common name: %w", ErrRequest, err)
	}
	w := want{profile: p, issuer: a.issuers[p.issuer], commonName: r.CommonName}
	if err := w.names(r); err != nil {
		return want{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := w.validity(r, a.now()); err != nil {
		return want{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	var err error
	if w.spki, err = x509.MarshalPKIXPublicKey(r.PublicKey); err != nil {
		return want{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if w.keyID, err = keyID(r.PublicKey); err != nil {
		return want{}, err
	}
	w.serial, err = newSerial()
	return w, err
}

// names copies the names into w, checked.
func (w *want) names(r Request) error {
	if !w.uris && len(r.URIs) > 0 {
		return errors.New("this kind has no URIs")
	}
	if !w.hosts && len(r.DNSNames)+len(r.IPs) > 0 {
		return errors.New("this kind has no DNS names or addresses")
	}
	if w.hosts && len(r.DNSNames)+len(r.IPs) == 0 {
		return errors.New("this kind needs a DNS name or an address")
	}
	if max(len(r.URIs), len(r.DNSNames), len(r.IPs)) > maxNames {
		return fmt.Errorf("more than %d names", maxNames)
	}
	for _, name := range r.DNSNames {
		if err := checkDNS(name); err != nil {
			return fmt.Errorf("DNS name %.80q: %w", name, err)
		}
		w.dnsNames = append(w.dnsNames, name)
	}
	for _, ip := range r.IPs {
		if !ip.IsValid() || ip.Zone() != "" || ip.IsUnspecified() {
			return fmt.Errorf("address %s cannot be in a certificate", ip)
		}
		w.addresses = append(w.addresses, ip.Unmap())
	}
	for _, u := range r.URIs {
		if err := checkURI(u); err != nil {
			return fmt.Errorf("URI: %w", err)
		}
		w.urls = append(w.urls, u.String())
	}
	return nil
}

// validity sets the times, in whole seconds and within the issuing authority's.
func (w *want) validity(r Request, now time.Time) error {
	earliest := now.Add(-backdate)
	switch {
	case r.NotAfter.IsZero():
		return errors.New("no end")
	case r.NotBefore.IsZero():
		r.NotBefore = earliest
	case r.NotBefore.Before(earliest):
		return errors.New("begins in the past")
	}
	w.notBefore, w.notAfter = r.NotBefore.UTC().Truncate(time.Second), r.NotAfter.UTC().Truncate(time.Second)
	if start := w.issuer.cert.NotBefore; w.notBefore.Before(start) {
		w.notBefore = start
	}
	if end := w.issuer.cert.NotAfter; w.notAfter.After(end) {
		w.notAfter = end
	}
	if !w.notAfter.After(now) {
		return errors.New("ends in the past, or its authority does")
	}
	if !w.notAfter.After(w.notBefore) {
		return errors.New("ends before it begins")
	}
	return nil
}

// template is w as crypto/x509 wants it.
func (w *want) template(pub crypto.PublicKey) (*x509.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber:          w.serial,
		Subject:               pkix.Name{CommonName: w.commonName},
		NotBefore:             w.notBefore,
		NotAfter:              w.notAfter,
		PublicKey:             pub,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           w.usage,
		UnknownExtKeyUsage:    w.unknown,
		SubjectKeyId:          w.keyID,
		DNSNames:              w.dnsNames,
	}
	for _, ip := range w.addresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	for _, s := range w.urls {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("%w: URI: %w", ErrRequest, err)
		}
		t.URIs = append(t.URIs, u)
	}
	return t, nil
}

// checkDNS accepts a host name in lower case (RFC 1123, section 2.1), without wildcard.
func checkDNS(s string) error {
	if len(s) == 0 || len(s) > 253 {
		return errors.New("is empty or longer than 253 bytes")
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return errors.New("is an address")
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("has a label that is empty, too long, or begins or ends with a hyphen")
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return errors.New("holds something other than a-z, 0-9, hyphen and dot")
			}
		}
	}
	return nil
}

// checkURI accepts an absolute URI that is read back exactly as it is written.
func checkURI(u *url.URL) error {
	if u == nil || u.Scheme == "" {
		return errors.New("has no scheme")
	}
	s := u.String()
	if len(s) > maxURI {
		return fmt.Errorf("is longer than %d bytes", maxURI)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return errors.New("holds a byte that is not printable ASCII")
		}
	}
	back, err := url.Parse(s)
	if err != nil || back.String() != s {
		return errors.New("is not read back as it was written")
	}
	return nil
}
