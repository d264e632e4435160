package pki

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	maxCSR   = 16 << 10 // bytes
	maxExtra = 32       // entries
	maxShown = 128      // bytes of each, before quoting
)

// CSR is what is taken from a PKCS#10 request (RFC 2986). Only the key and the WireGuard
// URIs are for use; the rest says what else was asked for, so that it can be refused or
// logged. None of it reaches a certificate by itself.
type CSR struct {
	PublicKey  crypto.PublicKey
	SPKI       [32]byte   // SHA-256 of the SubjectPublicKeyInfo
	WireGuard  []*url.URL // requested URIs of scheme wireguard, not checked further
	RequestsCA bool       // asks for a certificate that could sign others
	Extra      []string   // everything else: at most 33 entries, quoted where a stranger wrote them
}

// CheckCSR parses a PKCS#10 request of at most 16 KiB, DER, and verifies its own
// signature. Errors wrap ErrKey where the key and ErrPOP where the signature is at fault.
func CheckCSR(raw []byte, allow Allow) (*CSR, error) {
	if len(raw) > maxCSR {
		return nil, fmt.Errorf("checking certificate request: %d bytes are more than %d", len(raw), maxCSR)
	}
	req, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		return nil, fmt.Errorf("checking certificate request: %w", err)
	}
	if err := CheckKey(req.PublicKey, allow); err != nil {
		return nil, fmt.Errorf("checking certificate request: %w", err)
	}
	spki, err := canonicalSPKI(req.PublicKey, req.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, fmt.Errorf("checking certificate request: %w", err)
	}
	switch req.SignatureAlgorithm { // crypto/x509 still takes SHA-1 from a request
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
	default:
		return nil, fmt.Errorf("checking certificate request: %w: signature algorithm %s", ErrPOP, req.SignatureAlgorithm)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking certificate request: %w: %w", ErrPOP, err)
	}
	c := &CSR{PublicKey: req.PublicKey, SPKI: sha256.Sum256(spki)}
	c.take(req)
	return c, nil
}

// take sorts what else was requested into c.
func (c *CSR) take(req *x509.CertificateRequest) {
	if s := req.Subject.String(); s != "" {
		c.extra("subject", s)
	}
	for _, s := range req.DNSNames {
		c.extra("DNS", s)
	}
	for _, s := range req.EmailAddresses {
		c.extra("email", s)
	}
	for _, ip := range req.IPAddresses {
		c.extra("IP", ip.String())
	}
	for _, u := range req.URIs {
		if u.Scheme == schemeWireGuard {
			c.WireGuard = append(c.WireGuard, u)
		} else {
			c.extra("URI", u.String())
		}
	}
	for _, e := range req.Extensions {
		switch {
		case e.Id.Equal(oidSubjectAltName):
			c.takeOtherNames(e.Value)
		case e.Id.Equal(oidBasicConstraints):
			c.RequestsCA = c.RequestsCA || asksCA(e.Value)
		case e.Id.Equal(oidKeyUsage):
			c.RequestsCA = c.RequestsCA || asksCertSign(e.Value)
			c.extra("extension", e.Id.String())
		default:
			c.extra("extension", e.Id.String())
		}
	}
	if c.RequestsCA {
		c.extra("basic constraints", "CA")
	}
}

func (c *CSR) extra(what, value string) {
	switch {
	case len(c.Extra) < maxExtra:
		c.Extra = append(c.Extra, fmt.Sprintf("%s %q", what, strings.ToValidUTF8(value[:min(len(value), maxShown)], "?")))
	case len(c.Extra) == maxExtra:
		c.Extra = append(c.Extra, "and more")
	}
}

// takeOtherNames lists the sorts of alternative name that crypto/x509 passes over.
func (c *CSR) takeOtherNames(value []byte) {
	var names cryptobyte.String
	input := cryptobyte.String(value)
	if !input.ReadASN1(&names, der.SEQUENCE) {
		return
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag der.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return
		}
		if n := tag & 0x1f; n != 1 && n != 2 && n != 6 && n != 7 {
			c.extra("alternative name", fmt.Sprintf("of type %d", n))
		}
	}
}

// asksCA reads BasicConstraints; what it cannot read asks.
func asksCA(value []byte) bool {
	var constraints struct {
		IsCA       bool `asn1:"optional"`
		MaxPathLen int  `asn1:"optional,default:-1"`
	}
	rest, err := asn1.Unmarshal(value, &constraints)
	return err != nil || len(rest) > 0 || constraints.IsCA
}

// asksCertSign reads KeyUsage; what it cannot read asks. Bit 5 is keyCertSign, bit 6 cRLSign.
func asksCertSign(value []byte) bool {
	var bits asn1.BitString
	rest, err := asn1.Unmarshal(value, &bits)
	return err != nil || len(rest) > 0 || bits.At(5) != 0 || bits.At(6) != 0
}
