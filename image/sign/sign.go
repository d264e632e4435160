package sign

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	encoding "encoding/asn1"
	"errors"
	"fmt"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers of PKCS #7 (RFC 2315), PKCS #9 (RFC 2985) and Authenticode.
var (
	oidSignedData    = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirect      = encoding.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}  // SPC_INDIRECT_DATA_OBJID
	oidImage         = encoding.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15} // SPC_PE_IMAGE_DATA_OBJID
	oidSHA256        = encoding.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// Sign returns pe with a signature by key, whose certificate is cert. Firmware knows RSA
// with 2048 bits or more and SHA-256, and nothing else everywhere.
func Sign(pe []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	out, err := signed(pe, key, cert)
	if err != nil {
		return nil, fmt.Errorf("signing an EFI program: %w", err)
	}
	return out, nil
}

func signed(pe []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	public, ok := key.Public().(*rsa.PublicKey)
	switch {
	case !ok || public.N.BitLen() < 2048:
		return nil, errors.New("firmware wants an RSA key of 2048 bits or more")
	case !public.Equal(cert.PublicKey):
		return nil, errors.New("the certificate is another key's")
	}
	p, err := parse(padded(pe))
	if err != nil {
		return nil, err
	}
	content, err := indirect(p.digest())
	if err != nil {
		return nil, err
	}
	attributes, err := attributesOf(content)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(attributes)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	der, err := signedData(content, attributes, signature, cert)
	if err != nil {
		return nil, err
	}
	return p.attach(der), nil
}

// add adds what has a tag and is made of parts.
func add(b *cryptobyte.Builder, tag asn1.Tag, parts ...func(*cryptobyte.Builder)) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		for _, part := range parts {
			part(b)
		}
	})
}

func algorithm(id encoding.ObjectIdentifier) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			b.AddASN1NULL()
		})
	}
}

// explicit is the tag of a constructed, context-specific field.
func explicit(n uint8) asn1.Tag { return asn1.Tag(n).Constructed().ContextSpecific() }

// indirect is SpcIndirectDataContent: it says that what is signed is a PE image, and its digest.
func indirect(digest [sha256.Size]byte) ([]byte, error) {
	var obsolete []byte // what every signer writes where a file's name once stood
	for _, u := range utf16.Encode([]rune("<<<Obsolete>>>")) {
		obsolete = append(obsolete, byte(u>>8), byte(u))
	}
	var b cryptobyte.Builder
	add(&b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidImage)
			add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddUint8(0) }) // no flags
				add(b, explicit(0), func(b *cryptobyte.Builder) {
					add(b, explicit(2), func(b *cryptobyte.Builder) {
						b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(obsolete) })
					})
				})
			})
		})
		add(b, asn1.SEQUENCE, algorithm(oidSHA256), func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest[:]) })
	})
	return b.Bytes()
}

// attributesOf are the authenticated attributes as they are signed: a SET OF, whose two
// members stand in the order that DER wants.
func attributesOf(content []byte) ([]byte, error) {
	inner := cryptobyte.String(content)
	var body cryptobyte.String // PKCS #7 digests a content without its tag and length
	if !inner.ReadASN1(&body, asn1.SEQUENCE) {
		return nil, errors.New("the content is malformed")
	}
	digest := sha256.Sum256(body)
	var b cryptobyte.Builder
	add(&b, asn1.SET, func(b *cryptobyte.Builder) {
		add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidContentType)
			add(b, asn1.SET, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidIndirect) })
		})
		add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidMessageDigest)
			add(b, asn1.SET, func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest[:]) })
		})
	})
	return b.Bytes()
}

// signedData is the PKCS #7 message (RFC 2315, section 9).
func signedData(content, attributes, signature []byte, cert *x509.Certificate) ([]byte, error) {
	set := cryptobyte.String(attributes)
	var members cryptobyte.String
	if !set.ReadASN1(&members, asn1.SET) {
		return nil, errors.New("the attributes are malformed")
	}
	var b cryptobyte.Builder
	add(&b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		add(b, explicit(0), func(b *cryptobyte.Builder) {
			add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				add(b, asn1.SET, algorithm(oidSHA256))
				add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidIndirect)
					add(b, explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(content) })
				})
				add(b, explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(cert.Raw) })
				add(b, asn1.SET, signer(members, signature, cert))
			})
		})
	})
	return b.Bytes()
}

// signer is the one SignerInfo.
func signer(attributes, signature []byte, cert *x509.Certificate) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(1)
			add(b, asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(cert.RawIssuer)
				b.AddASN1BigInt(cert.SerialNumber)
			})
		}, algorithm(oidSHA256), func(b *cryptobyte.Builder) {
			add(b, explicit(0), func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
		}, algorithm(oidRSA), func(b *cryptobyte.Builder) { b.AddASN1OctetString(signature) })
	}
}
