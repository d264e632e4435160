package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// want is what a leaf certificate must be.
type want struct {
	profile
	issuer              *issuer
	serial              *big.Int
	commonName          string
	spki, keyID         []byte
	dnsNames, urls      []string
	addresses           []netip.Addr
	notBefore, notAfter time.Time
}

var (
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// wireUsages gives the object identifiers of the usages that profiles name.
var wireUsages = map[x509.ExtKeyUsage]asn1.ObjectIdentifier{
	x509.ExtKeyUsageServerAuth: {1, 3, 6, 1, 5, 5, 7, 3, 1},
	x509.ExtKeyUsageClientAuth: {1, 3, 6, 1, 5, 5, 7, 3, 2},
}

// Tags of GeneralName (RFC 5280, section 4.2.1.6).
const (
	tagDNS = der.Tag(2) | 0x80
	tagURI = der.Tag(6) | 0x80
	tagIP  = der.Tag(7) | 0x80
)

var errForm = errors.New("not of the form of RFC 5280, section 4.1")

// assert reads a signed leaf anew and refuses it unless everything in it is as w says and
// nothing else is in it. It takes the certificate apart by itself, since crypto/x509 passes
// over what it does not know; signature and chain are then checked on crypto/x509's reading
// of the same bytes.
func assert(raw []byte, w want) (*x509.Certificate, error) {
	if err := w.matchFields(raw); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid {
		return nil, errors.New("it could sign certificates")
	}
	if !leaf.NotBefore.Equal(w.notBefore) || !leaf.NotAfter.Equal(w.notAfter) {
		return nil, fmt.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
	// The issuing authority is the trust anchor: New verified it against the root.
	opts := x509.VerifyOptions{Roots: w.issuer.pool, CurrentTime: w.notBefore, KeyUsages: w.usage}
	if len(w.usage) == 0 { // matchFields compared it: crypto/x509 cannot ask for it
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	if _, err := leaf.Verify(opts); err != nil {
		return nil, err
	}
	return leaf, nil
}

// matchFields compares everything but the times and the signature's value.
func (w *want) matchFields(raw []byte) error {
	var cert, tbs, algorithm cryptobyte.String
	var signature []byte
	input := cryptobyte.String(raw)
	if !input.ReadASN1(&cert, der.SEQUENCE) || !input.Empty() ||
		!cert.ReadASN1(&tbs, der.SEQUENCE) || !cert.ReadASN1Element(&algorithm, der.SEQUENCE) ||
		!cert.ReadASN1BitStringAsBytes(&signature) || !cert.Empty() {
		return errForm
	}
	var version, signed, issuer, validity, subject, spki, outer, extensions cryptobyte.String
	var number int
	serial := new(big.Int)
	if !tbs.ReadASN1(&version, der.Tag(0).Constructed().ContextSpecific()) ||
		!version.ReadASN1Integer(&number) || !version.Empty() ||
		!tbs.ReadASN1Integer(serial) || !tbs.ReadASN1Element(&signed, der.SEQUENCE) ||
		!tbs.ReadASN1Element(&issuer, der.SEQUENCE) || !tbs.ReadASN1(&validity, der.SEQUENCE) ||
		!tbs.ReadASN1Element(&subject, der.SEQUENCE) || !tbs.ReadASN1Element(&spki, der.SEQUENCE) ||
		!tbs.ReadASN1(&outer, der.Tag(3).Constructed().ContextSpecific()) ||
		!outer.ReadASN1(&extensions, der.SEQUENCE) || !outer.Empty() || !tbs.Empty() {
		return errForm // a unique identifier of X.509v2 ends here too
	}
	switch {
	case number != 2:
		return fmt.Errorf("version %d", number+1)
	case serial.Cmp(w.serial) != 0:
		return errors.New("other serial number")
	case !bytes.Equal(signed, algorithm):
		return errors.New("two signature algorithms")
	case !bytes.Equal(issuer, w.issuer.cert.RawSubject):
		return errors.New("other issuer")
	case !bytes.Equal(spki, w.spki):
		return errors.New("other public key")
	}
	if err := w.matchSubject(subject); err != nil {
		return err
	}
	return w.matchExtensions(extensions)
}

// matchSubject wants one relative distinguished name of one attribute, the common name.
func (w *want) matchSubject(subject cryptobyte.String) error {
	var names, set, attribute, value cryptobyte.String
	var kind asn1.ObjectIdentifier
	var tag der.Tag
	if !subject.ReadASN1(&names, der.SEQUENCE) || !names.ReadASN1(&set, der.SET) || !names.Empty() ||
		!set.ReadASN1(&attribute, der.SEQUENCE) || !set.Empty() ||
		!attribute.ReadASN1ObjectIdentifier(&kind) || !attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
		return errors.New("subject is more than a common name")
	}
	if !kind.Equal(oidCommonName) || (tag != der.PrintableString && tag != der.UTF8String) || string(value) != w.commonName {
		return errors.New("other subject")
	}
	return nil
}

// extension is one that must be there; a nil value is the alternative names'.
type extension struct {
	id       asn1.ObjectIdentifier
	critical bool
	value    []byte
}

// matchExtensions wants exactly those of wire, once each, and the names of w.
func (w *want) matchExtensions(extensions cryptobyte.String) error {
	missing, err := w.wire()
	if err != nil {
		return err
	}
	for !extensions.Empty() {
		var e cryptobyte.String
		var id asn1.ObjectIdentifier
		var critical bool
		var value []byte
		if !extensions.ReadASN1(&e, der.SEQUENCE) || !e.ReadASN1ObjectIdentifier(&id) ||
			(e.PeekASN1Tag(der.BOOLEAN) && !e.ReadASN1Boolean(&critical)) ||
			!e.ReadASN1Bytes(&value, der.OCTET_STRING) || !e.Empty() {
			return errForm
		}
		i := slices.IndexFunc(missing, func(x extension) bool { return x.id.Equal(id) })
		if i < 0 {
			return fmt.Errorf("extension %s is unexpected, or there twice", id)
		}
		if critical != missing[i].critical {
			return fmt.Errorf("extension %s: critical is %t", id, critical)
		}
		if missing[i].value == nil {
			err = w.matchNames(value)
		} else if !bytes.Equal(value, missing[i].value) {
			err = fmt.Errorf("extension %s: other value", id)
		}
		if err != nil {
			return err
		}
		missing = slices.Delete(missing, i, i+1)
	}
	if len(missing) > 0 {
		return fmt.Errorf("extension %s is missing", missing[0].id)
	}
	return nil
}

// wire returns the extensions in DER, built without crypto/x509.
func (w *want) wire() ([]extension, error) {
	var usage cryptobyte.Builder
	usage.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, u := range w.usage {
			b.AddASN1ObjectIdentifier(wireUsages[u]) // an unknown one is an error
		}
		for _, id := range w.unknown {
			b.AddASN1ObjectIdentifier(id)
		}
	})
	var subject, authority cryptobyte.Builder
	subject.AddASN1OctetString(w.keyID)
	authority.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(w.issuer.cert.SubjectKeyId) })
	})
	var errs [3]error
	var values [3][]byte
	for i, b := range []*cryptobyte.Builder{&usage, &subject, &authority} {
		values[i], errs[i] = b.Bytes()
	}
	all := []extension{
		{oidKeyUsage, true, []byte{3, 2, 7, 0x80}}, // digitalSignature
		{oidExtKeyUsage, false, values[0]},
		{oidBasicConstraints, true, []byte{0x30, 0}}, // no authority
		{oidSubjectKeyID, false, values[1]},
		{oidAuthorityKeyID, false, values[2]},
	}
	if len(w.dnsNames)+len(w.urls)+len(w.addresses) > 0 {
		all = append(all, extension{id: oidSubjectAltName})
	}
	return all, errors.Join(errs[:]...)
}

// matchNames wants exactly the names of w, in any order.
func (w *want) matchNames(value []byte) error {
	var wanted, found []string // tag and bytes
	add := func(list *[]string, tag der.Tag, b string) { *list = append(*list, string([]byte{byte(tag)})+b) }
	for _, s := range w.dnsNames {
		add(&wanted, tagDNS, s)
	}
	for _, s := range w.urls {
		add(&wanted, tagURI, s)
	}
	for _, ip := range w.addresses {
		add(&wanted, tagIP, string(ip.AsSlice()))
	}
	var names cryptobyte.String
	input := cryptobyte.String(value)
	if !input.ReadASN1(&names, der.SEQUENCE) || !input.Empty() {
		return errForm
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag der.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return errForm
		}
		add(&found, tag, string(name))
	}
	slices.SortFunc(wanted, strings.Compare)
	slices.SortFunc(found, strings.Compare)
	if !slices.Equal(wanted, found) {
		return errors.New("other names than admitted")
	}
	return nil
}
