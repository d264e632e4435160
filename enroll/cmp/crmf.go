package cmp

import (
	"crypto"
	"crypto/x509"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// CertRequest is a CertReqMsg of CRMF (RFC 4211): one request with its proof of possession.
// NewCertRequest builds one, Parse reads one.
type CertRequest struct {
	ID       int64
	Template Template
	Old      *CertID // control oldCertID, in KUR

	raw       []byte // DER of CertRequest, which the proof signs
	proof     proof
	algorithm []byte // DER of AlgorithmIdentifier
	signature []byte
}

// proof is the kind of ProofOfPossession.
type proof uint8

const (
	noProof proof = iota
	signed
	otherProof // by the registration authority's word, by encryption, or over another input
)

// Template is what a CertTemplate may ask for here. Its version, times and signature
// algorithm are skipped, since the CA decides those; unique identifiers are refused.
type Template struct {
	Issuer     []byte // DER Name, in RR
	Serial     []byte // content of the DER INTEGER, in RR
	Subject    []byte // DER Name; nil for none
	PublicKey  []byte // DER SubjectPublicKeyInfo
	Extensions []Extension
}

// Extension is one certificate extension; unlike pkix.Extension it can hold any OID.
type Extension struct {
	ID       OID
	Critical bool
	Value    []byte
}

// CertID names a certificate by issuer and serial number.
type CertID struct {
	Issuer GeneralName
	Serial []byte // content of the DER INTEGER
}

// Revocation asks for the end of the certificate that Template names.
type Revocation struct {
	Template Template
	Reason   int // RFC 5280 CRLReason; -1 for none given
}

// NewCertRequest builds a request and signs it with the key that is to be certified;
// t.PublicKey is set from key.
func NewCertRequest(id int64, t Template, old *CertID, key crypto.Signer) (CertRequest, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return CertRequest{}, fmt.Errorf("encoding public key: %w", err)
	}
	t.PublicKey = spki
	r := CertRequest{ID: id, Template: t, Old: old, proof: signed}
	var b builder
	r.addRequest(&b)
	if r.raw, err = checked(b.Bytes()); err != nil {
		return CertRequest{}, err
	}
	alg, err := signatureFor(key.Public())
	if err != nil {
		return CertRequest{}, err
	}
	r.algorithm = alg.identifier()
	if r.signature, err = alg.sign(key, r.raw); err != nil {
		return CertRequest{}, fmt.Errorf("signing certificate request: %w", err)
	}
	return r, nil
}

// VerifyPOP checks the signature over the request by the key it asks a certificate for. A
// request that proves possession otherwise, or not at all, is ErrPOP; one with a key or an
// algorithm this package does not do is ErrAlgorithm.
func (r CertRequest) VerifyPOP() error {
	if r.proof != signed {
		return fmt.Errorf("%w: the request is not signed by the key it asks for", ErrPOP)
	}
	pub, err := x509.ParsePKIXPublicKey(r.Template.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: public key of a kind that is not supported", ErrAlgorithm)
	}
	alg, err := parseSignature(r.algorithm)
	if err != nil {
		return err
	}
	ok, err := alg.verify(pub, r.raw, r.signature)
	if err != nil {
		return err
	}
	if !ok {
		return ErrPOP
	}
	return nil
}

// URIs returns the URIs of the subjectAltName asked for, none without that extension.
// Names of other kinds in it are skipped.
func (t Template) URIs() ([]string, error) {
	var out []string
	for _, e := range t.Extensions {
		if e.ID != idAltName {
			continue
		}
		left := maxElements
		if err := strict(e.Value, maxDepth, &left); err != nil {
			return nil, err
		}
		r := newReader(e.Value)
		r.list(asn1.SEQUENCE, "subjectAltName", func(l *reader) {
			name := l.name("subjectAltName")
			if len(name) > 0 && name[0] == byte(primitive(6)) {
				out = append(out, string(l.sub(cryptobyte.String(name)).bytes(primitive(6), "URI")))
			}
		})
		r.end("subjectAltName")
		if err := r.err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// URIExtension is a subjectAltName of URIs, as Template.URIs reads it.
func URIExtension(uris ...string) Extension {
	var b builder
	addList(&b, uris, func(b *builder, uri string) {
		b.AddASN1(primitive(6), func(b *builder) { b.AddBytes([]byte(uri)) })
	})
	return Extension{ID: idAltName, Value: b.BytesOrPanic()}
}

// CertIDOf names a certificate for CertRequest.Old or a Revocation.
func CertIDOf(cert *x509.Certificate) *CertID {
	return &CertID{Issuer: DirectoryName(cert.RawIssuer), Serial: serial(cert)}
}

// Names reports whether the ID names cert.
func (c CertID) Names(cert *x509.Certificate) bool {
	return string(c.Issuer) == string(DirectoryName(cert.RawIssuer)) && string(c.Serial) == string(serial(cert))
}

// serial is the content of the certificate's DER serial number.
func serial(cert *x509.Certificate) []byte {
	var b builder
	b.AddASN1BigInt(cert.SerialNumber)
	return newReader(b.BytesOrPanic()).bytes(asn1.INTEGER, "serialNumber")
}

func (r *reader) request() CertRequest {
	var c CertRequest
	r = r.enter(asn1.SEQUENCE, "certReqMsg")
	c.raw = r.elementOf(asn1.SEQUENCE, "certReq")
	q := r.sub(c.raw).enter(asn1.SEQUENCE, "certReq")
	c.ID = q.integer("certReqId")
	c.Template = q.template()
	if !q.in.Empty() {
		c.Old = q.controls()
	}
	q.end("certReq")
	if !r.in.Empty() && !r.in.PeekASN1Tag(asn1.SEQUENCE) {
		r.popo(&c)
	}
	if !r.in.Empty() {
		r.elementOf(asn1.SEQUENCE, "regInfo")
	}
	r.end("certReqMsg")
	return c
}

func (r *reader) popo(c *CertRequest) {
	c.proof = otherProof
	s, ok := r.optional(context(1), "proof of possession")
	if !ok {
		r.element("proof of possession")
		return
	}
	if in, ok := s.optional(context(0), "poposkInput"); ok {
		in.in = nil
	} else {
		c.proof = signed
	}
	c.algorithm = s.elementOf(asn1.SEQUENCE, "algorithm of the proof")
	c.signature = s.bits("signature of the proof")
	s.end("the proof")
}

// controls reads Controls and returns oldCertID; the others are skipped.
func (r *reader) controls() *CertID {
	var old *CertID
	r.list(asn1.SEQUENCE, "controls", func(l *reader) {
		l = l.enter(asn1.SEQUENCE, "control")
		if l.oid("control") != idOldCertID {
			l.element("control")
			l.end("a control")
			return
		}
		if old != nil {
			l.fail("oldCertID twice")
		}
		id := l.certID()
		old = &id
		l.end("oldCertID")
	})
	return old
}

func (r *reader) certID() CertID {
	r = r.enter(asn1.SEQUENCE, "certId")
	c := CertID{Issuer: r.name("issuer"), Serial: r.bytes(asn1.INTEGER, "serialNumber")}
	r.end("a certId")
	return c
}

func (r *reader) template() Template {
	var t Template
	r = r.enter(asn1.SEQUENCE, "certTemplate")
	field := func(tag asn1.Tag, what string, read func(*reader)) {
		if f, ok := r.optional(tag, what); ok {
			read(f)
			f.end(what)
		}
	}
	skip := func(f *reader) { f.in = nil }
	field(primitive(0), "version", skip)
	field(primitive(1), "serialNumber", func(f *reader) { t.Serial, f.in = f.in, nil })
	field(context(2), "signingAlg", skip)
	field(context(3), "issuer", func(f *reader) { t.Issuer = f.elementOf(asn1.SEQUENCE, "issuer") })
	field(context(4), "validity", skip)
	field(context(5), "subject", func(f *reader) { t.Subject = f.elementOf(asn1.SEQUENCE, "subject") })
	field(context(6), "publicKey", func(f *reader) { t.PublicKey, f.in = retag(asn1.SEQUENCE, f.in), nil })
	if r.in.PeekASN1Tag(context(9)) {
		t.Extensions = r.extensions(context(9))
	}
	r.end("the template's last field")
	return t
}

// retag wraps content that travelled under an implicit tag.
func retag(tag asn1.Tag, content []byte) []byte {
	var b builder
	b.AddASN1(tag, func(b *builder) { b.AddBytes(content) })
	return b.BytesOrPanic()
}

func (r *reader) extensions(tag asn1.Tag) []Extension {
	var out []Extension
	seen := map[OID]bool{}
	r.list(tag, "extensions", func(l *reader) {
		l = l.enter(asn1.SEQUENCE, "extension")
		e := Extension{ID: l.oid("extension")}
		if l.in.PeekASN1Tag(asn1.BOOLEAN) {
			e.Critical = l.bytes(asn1.BOOLEAN, "critical")[0] != 0
			if !e.Critical {
				l.fail("a default value encoded")
			}
		}
		e.Value = l.octets("extension")
		l.end("an extension")
		if seen[e.ID] {
			l.fail("an extension twice")
		}
		seen[e.ID] = true
		out = append(out, e)
	})
	return out
}

func (c CertRequest) addRequest(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddASN1Int64(c.ID)
		c.Template.add(b)
		if c.Old == nil {
			return
		}
		addList(b, []CertID{*c.Old}, func(b *builder, id CertID) {
			b.AddASN1(asn1.SEQUENCE, func(b *builder) {
				addOID(b, idOldCertID)
				id.add(b)
			})
		})
	})
}

func (c CertRequest) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		if c.raw != nil {
			b.AddBytes(c.raw)
		} else {
			c.addRequest(b)
		}
		if c.proof == signed {
			b.AddASN1(context(1), func(b *builder) {
				b.AddBytes(c.algorithm)
				b.AddASN1BitString(c.signature)
			})
		}
	})
}

func (c CertID) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddBytes(c.Issuer)
		b.AddASN1(asn1.INTEGER, func(b *builder) { b.AddBytes(c.Serial) })
	})
}

func (t Template) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		if t.Serial != nil {
			b.AddASN1(primitive(1), func(b *builder) { b.AddBytes(t.Serial) })
		}
		if t.Issuer != nil {
			b.AddASN1(context(3), func(b *builder) { b.AddBytes(t.Issuer) })
		}
		if t.Subject != nil {
			b.AddASN1(context(5), func(b *builder) { b.AddBytes(t.Subject) })
		}
		if t.PublicKey != nil {
			spki := newReader(t.PublicKey)
			content := spki.bytes(asn1.SEQUENCE, "public key")
			if spki.end("the public key"); !spki.ok() {
				b.SetError(spki.err())
				return
			}
			b.AddASN1(context(6), func(b *builder) { b.AddBytes(content) })
		}
		if len(t.Extensions) > 0 {
			b.AddASN1(context(9), func(b *builder) {
				for _, e := range t.Extensions {
					e.add(b)
				}
			})
		}
	})
}

func (e Extension) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		addOID(b, e.ID)
		if e.Critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1OctetString(e.Value)
	})
}
