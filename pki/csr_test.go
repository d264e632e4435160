package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	der "golang.org/x/crypto/cryptobyte/asn1"
)

func makeCSR(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	raw, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestCheckCSR(t *testing.T) {
	key := newKey(t)
	u := WireGuardURI([32]byte{9})
	c, err := CheckCSR(makeCSR(t, key, x509.CertificateRequest{URIs: []*url.URL{u}}), Allow{})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := SPKISum(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(c.PublicKey) || c.SPKI != sum || c.RequestsCA || len(c.Extra) != 0 ||
		len(c.WireGuard) != 1 || c.WireGuard[0].String() != u.String() {
		t.Errorf("%+v", c)
	}
}

func TestCheckCSRListsWhatElseIsAsked(t *testing.T) {
	san := tlv(t, der.SEQUENCE,
		tlv(t, der.Tag(0).Constructed().ContextSpecific(), []byte{6, 2, 0x2a, 3}, []byte{0xa0, 2, 5, 0}),
		tlv(t, der.Tag(6).ContextSpecific(), []byte(WireGuardURI([32]byte{1}).String())),
		tlv(t, der.Tag(6).ContextSpecific(), []byte("https://example.com/a")))
	for name, c := range map[string]struct {
		template x509.CertificateRequest
		ca       bool
		extra    []string
	}{
		"names": {x509.CertificateRequest{Subject: pkix.Name{CommonName: "a\nb"}, DNSNames: []string{"gw.example.com"},
			EmailAddresses: []string{"a@example.com"}, IPAddresses: []net.IP{{192, 0, 2, 1}}}, false,
			[]string{`subject "CN=a\nb"`, `DNS "gw.example.com"`, `email "a@example.com"`, `IP "192.0.2.1"`}},
		"other names": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: san}}}, false,
			[]string{`URI "https://example.com/a"`, `alternative name "of type 0"`}},
		"authority": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}}, true,
			[]string{`basic constraints "CA"`}},
		"constraints, no authority": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{0x30, 0}}}}, false, nil},
		"constraints, unreadable":   {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{0x31}}}}, true, []string{`basic constraints "CA"`}},
		"certificate signing": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidKeyUsage, Value: []byte{3, 2, 2, 4}}}}, true,
			[]string{`extension "2.5.29.15"`, `basic constraints "CA"`}},
		"list signing": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidKeyUsage, Value: []byte{3, 2, 1, 2}}}}, true,
			[]string{`extension "2.5.29.15"`, `basic constraints "CA"`}},
		"digital signature": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidKeyUsage, Value: []byte{3, 2, 7, 0x80}}}}, false,
			[]string{`extension "2.5.29.15"`}},
		"server usage": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidExtKeyUsage, Value: []byte{0x30, 0}}}}, false,
			[]string{`extension "2.5.29.37"`}},
	} {
		got, err := CheckCSR(makeCSR(t, newKey(t), c.template), Allow{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.RequestsCA != c.ca || !slices.Equal(got.Extra, c.extra) {
			t.Errorf("%s: CA %t, %q", name, got.RequestsCA, got.Extra)
		}
	}
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("%s%d.example.com", strings.Repeat("a", 40), i))
	}
	got, err := CheckCSR(makeCSR(t, newKey(t), x509.CertificateRequest{DNSNames: many}), Allow{})
	if err != nil || len(got.Extra) != 33 || got.Extra[32] != "and more" {
		t.Errorf("200 names: %d entries, %v", len(got.Extra), err)
	}
}

func TestCheckCSRRefuses(t *testing.T) {
	key := newKey(t)
	good := makeCSR(t, key, x509.CertificateRequest{})
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stolen := bytes.Replace(good, elements(t, elements(t, good)[0])[2],
		elements(t, elements(t, makeCSR(t, newKey(t), x509.CertificateRequest{}))[0])[2], 1)
	parts := elements(t, good)
	cases := map[string]struct {
		raw  []byte
		want error // nil: any
	}{
		"nothing":             {nil, nil},
		"cut":                 {good[:len(good)-1], nil},
		"a byte after it":     {append(slices.Clone(good), 0), nil},
		"too large":           {makeCSR(t, key, x509.CertificateRequest{DNSNames: slices.Repeat([]string{strings.Repeat("a", 60)}, 300)}), nil},
		"certificate":         {hierarchy(t).Root.Certificate.Raw, nil},
		"another's key":       {stolen, ErrPOP},
		"RSA not allowed":     {makeCSR(t, strong, x509.CertificateRequest{}), ErrKey},
		"P-521":               {makeCSR(t, p521, x509.CertificateRequest{}), ErrKey},
		"empty signature":     {tlv(t, der.SEQUENCE, parts[0], parts[1], []byte{3, 1, 0}), ErrPOP},
		"algorithm of others": {tlv(t, der.SEQUENCE, parts[0], tlv(t, der.SEQUENCE, []byte{6, 3, 0x2b, 0x65, 0x70}), parts[2]), ErrPOP},
	}
	for name, c := range cases {
		got, err := CheckCSR(c.raw, Allow{})
		if err == nil || got != nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	allow := Allow{RSA: true}
	if _, err := CheckCSR(makeCSR(t, strong, x509.CertificateRequest{}), allow); err != nil {
		t.Errorf("RSA 2048 where it is allowed: %v", err)
	}
	if _, err := CheckCSR(makeCSR(t, weak, x509.CertificateRequest{}), allow); !errors.Is(err, ErrKey) {
		t.Errorf("RSA 1024: %v", err)
	}
	if _, err := CheckCSR(makeCSR(t, strong, x509.CertificateRequest{SignatureAlgorithm: x509.SHA384WithRSAPSS}), allow); err != nil {
		t.Errorf("RSA-PSS: %v", err)
	}
}

// TestCheckCSRRefusesSHA1 signs by hand: crypto/x509 no longer writes such requests, and
// still verifies them.
func TestCheckCSRRefusesSHA1(t *testing.T) {
	key := newKey(t)
	parts := elements(t, makeCSR(t, key, x509.CertificateRequest{}))
	h := crypto.SHA1.New()
	h.Write(parts[0])
	signature, err := key.Sign(rand.Reader, h.Sum(nil), crypto.SHA1)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaWithSHA1 := []byte{6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1}
	raw := tlv(t, der.SEQUENCE, parts[0], tlv(t, der.SEQUENCE, ecdsaWithSHA1), tlv(t, der.BIT_STRING, []byte{0}, signature))
	req, err := x509.ParseCertificateRequest(raw)
	if err != nil || req.SignatureAlgorithm != x509.ECDSAWithSHA1 {
		t.Fatalf("not the request this test is about: %v", err)
	}
	if _, err := CheckCSR(raw, Allow{}); !errors.Is(err, ErrPOP) {
		t.Errorf("SHA-1: %v", err)
	}
}

// TestCheckCSRRefusesEveryFlip flips each bit: what is accepted was signed.
func TestCheckCSRRefusesEveryFlip(t *testing.T) {
	raw := makeCSR(t, newKey(t), x509.CertificateRequest{URIs: []*url.URL{WireGuardURI([32]byte{9})}})
	for i := range raw {
		for bit := range 8 {
			raw[i] ^= 1 << bit
			if _, err := CheckCSR(raw, Allow{RSA: true}); err == nil {
				t.Errorf("bit %d of byte %d: accepted", bit, i)
			}
			raw[i] ^= 1 << bit
		}
	}
}

// TestHostileCSRGetsNothing takes a request for an authority with a server's names through
// to issuing.
func TestHostileCSRGetsNothing(t *testing.T) {
	c, err := CheckCSR(makeCSR(t, newKey(t), x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", Organization: []string{"Examples"}}, DNSNames: []string{"gw.example.com"},
		URIs: []*url.URL{WireGuardURI([32]byte{9})},
		ExtraExtensions: []pkix.Extension{
			{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},
			{Id: oidExtKeyUsage, Value: []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1}},
		}}), Allow{})
	if err != nil {
		t.Fatal(err)
	}
	r := deviceRequest(t)
	r.PublicKey, r.URIs = c.PublicKey, c.WireGuard
	leaf := issued(t, authority(t), r)
	if leaf.IsCA || leaf.Subject.String() != "CN=d-1" || len(leaf.DNSNames) != 0 || len(leaf.URIs) != 1 ||
		!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || CertificateSPKISum(leaf) != c.SPKI {
		t.Errorf("issued %+v", leaf)
	}
}

func FuzzCheckCSR(f *testing.F) {
	f.Add([]byte{})
	f.Add(makeCSR(f, newKey(f), x509.CertificateRequest{URIs: []*url.URL{WireGuardURI([32]byte{9})}}))
	if _, key, err := ed25519.GenerateKey(rand.Reader); err == nil {
		f.Add(makeCSR(f, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"b"}}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := CheckCSR(raw, Allow{RSA: true})
		if err != nil {
			if c != nil {
				t.Fatal("a request beside an error")
			}
			return
		}
		sum, err := SPKISum(c.PublicKey)
		if err != nil || sum != c.SPKI || CheckKey(c.PublicKey, Allow{RSA: true}) != nil {
			t.Fatalf("key accepted that the policy refuses: %v", err)
		}
		if len(raw) > 16<<10 || len(c.Extra) > 33 {
			t.Fatalf("%d bytes gave %d entries", len(raw), len(c.Extra))
		}
		for _, u := range c.WireGuard {
			if key, err := ParseWireGuardURI(u); err == nil && WireGuardURI(key).String() != u.String() {
				t.Fatalf("%s has a second form", u)
			}
		}
		for _, e := range c.Extra {
			if len(e) > 1024 || strings.ContainsAny(e, "\n\r\x00\x1b") {
				t.Fatalf("unfit for a log: %q", e)
			}
		}
	})
}

// TestCheckCSRRefusesASecondEncoding puts a third number into an RSA key, which crypto/x509
// passes over: the same key would have a second sum, and count as another device's.
func TestCheckCSRRefusesASecondEncoding(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	parts := elements(t, makeCSR(t, key, x509.CertificateRequest{}))
	fields := elements(t, parts[0])
	spki := elements(t, fields[2])
	numbers := append(elements(t, x509.MarshalPKCS1PublicKey(&key.PublicKey)), []byte{2, 1, 5})
	fields[2] = tlv(t, der.SEQUENCE, spki[0], tlv(t, der.BIT_STRING, []byte{0}, tlv(t, der.SEQUENCE, numbers...)))
	tbs := tlv(t, der.SEQUENCE, fields...)
	sum := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	raw := tlv(t, der.SEQUENCE, tbs, parts[1], tlv(t, der.BIT_STRING, []byte{0}, signature))
	req, err := x509.ParseCertificateRequest(raw)
	if err != nil || req.CheckSignature() != nil || !key.PublicKey.Equal(req.PublicKey) {
		t.Fatalf("not the request this test is about: %v", err)
	}
	if _, err := CheckCSR(raw, Allow{RSA: true}); !errors.Is(err, ErrKey) {
		t.Errorf("accepted: %v", err)
	}
}
