package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// elements splits the contents of a SEQUENCE.
func elements(t *testing.T, raw []byte) [][]byte {
	t.Helper()
	var inner cryptobyte.String
	input := cryptobyte.String(raw)
	if !input.ReadASN1(&inner, der.SEQUENCE) {
		t.Fatal("not a SEQUENCE")
	}
	var all [][]byte
	for !inner.Empty() {
		var e cryptobyte.String
		var tag der.Tag
		if !inner.ReadAnyASN1Element(&e, &tag) {
			t.Fatal("not DER")
		}
		all = append(all, e)
	}
	return all
}

// tlv wraps the parts.
func tlv(t *testing.T, tag der.Tag, parts ...[]byte) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		for _, p := range parts {
			b.AddBytes(p)
		}
	})
	raw, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// resign takes a certificate apart, lets edit change the parts of its TBSCertificate
// (version, serial, algorithm, issuer, validity, subject, key, extensions), and signs it
// again: what crypto/x509 would never write.
func resign(t *testing.T, raw []byte, by KeyPair, edit func(parts [][]byte) [][]byte) []byte {
	t.Helper()
	cert := elements(t, raw)
	tbs := tlv(t, der.SEQUENCE, edit(elements(t, cert[0]))...)
	sum := sha256.Sum256(tbs)
	signature, err := by.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return tlv(t, der.SEQUENCE, tbs, cert[1], tlv(t, der.BIT_STRING, []byte{0}, signature))
}

// addExtension appends one extension to the last part.
func addExtension(t *testing.T, e pkix.Extension) func([][]byte) [][]byte {
	return func(parts [][]byte) [][]byte {
		raw, err := asn1.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		explicit := cryptobyte.String(parts[7])
		var list cryptobyte.String
		if !explicit.ReadASN1(&list, der.Tag(3).Constructed().ContextSpecific()) {
			t.Fatal("no extensions")
		}
		parts[7] = tlv(t, der.Tag(3).Constructed().ContextSpecific(),
			tlv(t, der.SEQUENCE, append(elements(t, list), raw)...))
		return parts
	}
}

func replace(i int, part []byte) func([][]byte) [][]byte {
	return func(parts [][]byte) [][]byte {
		parts[i] = part
		return parts
	}
}

// TestAssertRefuses hands assert certificates that the right authority did sign, each
// with one thing in it that nobody admitted.
func TestAssertRefuses(t *testing.T) {
	h, a := hierarchy(t), authority(t)
	r := deviceRequest(t)
	w, err := a.plan(r)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(by KeyPair, edit func(*x509.Certificate)) []byte {
		t.Helper()
		template, err := w.template(r.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		edit(template)
		raw, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, template.PublicKey, by.Key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	unchanged := sign(h.Devices, func(*x509.Certificate) {})
	if _, err := assert(unchanged, w); err != nil {
		t.Fatalf("the right certificate is refused: %v", err)
	}
	same := resign(t, unchanged, h.Devices, func(parts [][]byte) [][]byte { return parts })
	if _, err := assert(same, w); err != nil {
		t.Fatalf("the right certificate, signed again, is refused: %v", err)
	}

	otherURI, err := url.Parse("wireguard:other")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*x509.Certificate){
		"an authority":          func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = true, true },
		"no basic constraints":  func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"may sign certificates": func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"key encipherment":      func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment },
		"no key usage":          func(c *x509.Certificate) { c.KeyUsage = 0 },
		"server too":            func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage[:1:1], x509.ExtKeyUsageServerAuth) },
		"any usage":             func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"no usage":              func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"unknown usage":         func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidCMCRA} },
		"other common name":     func(c *x509.Certificate) { c.Subject.CommonName = "d-2" },
		"no subject":            func(c *x509.Certificate) { c.Subject = pkix.Name{} },
		"organization":          func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} },
		"second common name":    func(c *x509.Certificate) { c.Subject.ExtraNames = twoNames("d-1", "admin") },
		"other attribute": func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: "d-1"}}
			c.Subject.CommonName = ""
		},
		"DNS name":                func(c *x509.Certificate) { c.DNSNames = []string{"gw.example.com"} },
		"e-mail address":          func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} },
		"address":                 func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} },
		"other URI":               func(c *x509.Certificate) { c.URIs = []*url.URL{otherURI} },
		"URI too many":            func(c *x509.Certificate) { c.URIs = append(c.URIs, otherURI) },
		"URI twice":               func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"no URI":                  func(c *x509.Certificate) { c.URIs = nil },
		"other key":               func(c *x509.Certificate) { c.PublicKey = newKey(t).Public() },
		"other serial number":     func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) },
		"other key identifier":    func(c *x509.Certificate) { c.SubjectKeyId = []byte{1} },
		"no key identifier":       func(c *x509.Certificate) { c.SubjectKeyId = nil },
		"longer":                  func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
		"shorter":                 func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-time.Second) },
		"earlier":                 func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Second) },
		"ends when it begins":     func(c *x509.Certificate) { c.NotAfter = c.NotBefore },
		"policy":                  func(c *x509.Certificate) { c.Policies = []x509.OID{anyPolicy(t)} },
		"revocation list address": func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://example.com"} },
		"OCSP address":            func(c *x509.Certificate) { c.OCSPServer = []string{"http://example.com"} },
		"issuer's address":        func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://example.com"} },
		"name constraints":        func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} },
		"private extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Value: []byte{5, 0}}}
		},
		"SAN with a directory name": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{sanWithDirectoryName(t, c.URIs[0].String())}
		},
		"SAN critical": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: uriName(t, c.URIs[0].String())}}
		},
		"constraints not critical": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{0x30, 0}}}
		},
		"usage not critical": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidKeyUsage, Value: []byte{3, 2, 7, 0x80}}}
		},
	} {
		if leaf, err := assert(sign(h.Devices, edit), w); err == nil || leaf != nil {
			t.Errorf("%s: accepted", name)
		}
	}

	uniqueID := tlv(t, der.Tag(2).ContextSpecific(), []byte{0, 1})
	commonName := elements(t, elements(t, unchanged)[0])[5]
	setBody := append([]byte(nil), commonName[4:]...) // the attribute within SEQUENCE and SET
	for name, edit := range map[string]func([][]byte) [][]byte{
		"subject unique identifier": func(parts [][]byte) [][]byte { return slices.Insert(parts, 7, uniqueID) },
		"version 2":                 replace(0, []byte{0xa0, 3, 2, 1, 1}),
		"no version":                func(parts [][]byte) [][]byte { return parts[1:] },
		"no extensions":             func(parts [][]byte) [][]byte { return parts[:7] },
		"something after the end":   func(parts [][]byte) [][]byte { return append(parts, []byte{5, 0}) },
		"other inner algorithm":     replace(2, []byte{0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3}), // ECDSA with SHA-384
		"issuer by another name":    replace(3, h.Root.Certificate.RawSubject),
		"two attributes in one set": replace(5, tlv(t, der.SEQUENCE, tlv(t, der.SET, setBody, setBody))),
		"usages twice":              addExtension(t, pkix.Extension{Id: oidExtKeyUsage, Value: []byte{0x30, 0}}),
		"critical and unknown":      addExtension(t, pkix.Extension{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}),
		"constraints twice":         addExtension(t, pkix.Extension{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}),
	} {
		if leaf, err := assert(resign(t, unchanged, h.Devices, edit), w); err == nil || leaf != nil {
			t.Errorf("%s: accepted", name)
		}
	}

	impostor := KeyPair{Certificate: h.Devices.Certificate, Key: newKey(t)}
	for name, raw := range map[string][]byte{
		"nothing":                  nil,
		"a byte after it":          append(slices.Clone(unchanged), 0),
		"by the administrators'":   sign(h.Administrators, func(*x509.Certificate) {}),
		"by the servers'":          sign(h.Servers, func(*x509.Certificate) {}),
		"by the root":              sign(h.Root, func(*x509.Certificate) {}),
		"by a stranger":            resign(t, unchanged, impostor, func(parts [][]byte) [][]byte { return parts }),
		"the authority's own":      h.Devices.Certificate.Raw,
		"another leaf of the same": issued(t, a, deviceRequest(t)).Raw,
	} {
		if leaf, err := assert(raw, w); err == nil || leaf != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAssertRefusesEveryFlip flips each bit of a good certificate.
func TestAssertRefusesEveryFlip(t *testing.T) {
	a := authority(t)
	r := deviceRequest(t)
	w, err := a.plan(r)
	if err != nil {
		t.Fatal(err)
	}
	template, err := w.template(r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	h := hierarchy(t)
	raw, err := x509.CreateCertificate(rand.Reader, template, h.Devices.Certificate, r.PublicKey, h.Devices.Key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			raw[i] ^= 1 << bit
			if _, err := assert(raw, w); err == nil {
				t.Errorf("bit %d of byte %d: accepted", bit, i)
			}
			raw[i] ^= 1 << bit
		}
	}
	for i := range raw {
		if _, err := assert(raw[:i], w); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
}

func issued(t testing.TB, a *Authority, r Request) *x509.Certificate {
	t.Helper()
	leaf, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func twoNames(names ...string) []pkix.AttributeTypeAndValue {
	var all []pkix.AttributeTypeAndValue
	for _, n := range names {
		all = append(all, pkix.AttributeTypeAndValue{Type: oidCommonName, Value: n})
	}
	return all
}

func anyPolicy(t *testing.T) x509.OID {
	t.Helper()
	id, err := x509.OIDFromInts([]uint64{2, 5, 29, 32, 0})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func uriName(t *testing.T, uri string) []byte {
	return tlv(t, der.SEQUENCE, tlv(t, der.Tag(6).ContextSpecific(), []byte(uri)))
}

// sanWithDirectoryName holds the right URI and a name that crypto/x509 passes over.
func sanWithDirectoryName(t *testing.T, uri string) pkix.Extension {
	return pkix.Extension{Id: oidSubjectAltName, Value: tlv(t, der.SEQUENCE,
		tlv(t, der.Tag(6).ContextSpecific(), []byte(uri)),
		tlv(t, der.Tag(4).Constructed().ContextSpecific(), []byte{0x30, 0}))}
}

// signed signs what w says without asserting it.
func signed(t *testing.T, w want, pub any, by KeyPair) *x509.Certificate {
	t.Helper()
	template, err := w.template(pub)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, pub, by.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}
